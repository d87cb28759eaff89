"""A live server and a clone of before, for the tests of the ways back; a test file takes them with `from restore_fixtures import …`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import psycopg
import pytest
from ansible.module_utils.greenroom import db_clone
from ansible.module_utils.greenroom.backup.scratch_cluster import ScratchCluster

sys.path.insert(0, str(Path(__file__).parent))
from rehearsal_project import open_folder
from restore_acts import act

__all__ = ["POINT", "admin", "app", "carried", "clone", "cluster", "databases", "folder", "live", "rows"]

POINT = {"kind": "point", "name": "before", "repos": [1]}
SCHEMA = """
    CREATE TABLE things (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name varchar(40) NOT NULL CHECK (name IN ('a', 'b', 'c')));
    CREATE TABLE notes (id int PRIMARY KEY, thing bigint REFERENCES things, body text);
    CREATE TABLE alembic_version (version_num text); INSERT INTO alembic_version VALUES ('r1');
    INSERT INTO things (name) SELECT 'a' FROM generate_series(1, 1000);
    INSERT INTO notes SELECT n, n, 'xxxx' || lpad(md5(n::text), 1500, md5(n::text)) FROM generate_series(1, 1000) n;
    ALTER TABLE things OWNER TO owner; GRANT SELECT, INSERT ON things TO app
"""


@pytest.fixture(scope="module")
def folder():
    with open_folder() as made:
        yield made


@pytest.fixture(scope="module")
def cluster(folder):
    with ScratchCluster(folder / "c", settings={"max_prepared_transactions": "5", "wal_level": "logical", "autovacuum": "on"}) as one:
        with one.connect() as admin:
            admin.execute("CREATE ROLE owner LOGIN; CREATE ROLE app LOGIN")
        yield one


@pytest.fixture(scope="module")
def clone(folder):
    """A second cluster, as a host that restores has it; `made` dumps a database from it."""
    with ScratchCluster(folder / "clone") as one:
        with one.connect() as admin:
            admin.execute("CREATE ROLE owner LOGIN; CREATE ROLE app LOGIN")
        yield one


@pytest.fixture
def admin(cluster):
    with cluster.connect() as connection:
        yield connection


@pytest.fixture
def live(cluster, admin):
    admin.execute("CREATE DATABASE live OWNER owner")
    admin.execute("ALTER DATABASE live SET work_mem = '7MB'; GRANT CONNECT ON DATABASE live TO app")
    with cluster.connect("live") as connection:
        connection.execute(SCHEMA)
    yield "live"
    for (name,) in admin.execute("SELECT datname FROM pg_database WHERE datname NOT IN ('postgres', 'template0', 'template1')").fetchall():
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        with cluster.connect(name) as connection:
            for (gid,) in connection.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()").fetchall():
                connection.execute(f"ROLLBACK PREPARED '{gid}'")
            connection.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()")
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def carried(folder, cluster, clone, live):
    """What a restore host hands over: the database as it was, before a bad statement deleted and changed rows in the live one."""
    plan = act("planned", cluster.dsn())
    with clone.connect() as there:
        there.execute("CREATE DATABASE live OWNER owner")
    with clone.connect("live") as there:
        there.execute(SCHEMA)
    place = folder / "handed"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    db_clone.exported(clone, "live", place / "carry", what="the clone", workers=2, origin=plan["system_identifier"])
    shutil.chown(place, "postgres")
    with cluster.connect("live") as bad:
        bad.execute("DELETE FROM notes WHERE id > 10; UPDATE things SET name = 'b' WHERE id <= 5; INSERT INTO things (name) VALUES ('c')")
    yield {"plan": plan, "folder": str(place), "name": "live_restored_t1"}
    with clone.connect() as there:
        there.execute("DROP DATABASE live")


def app(cluster, name="live"):
    return psycopg.connect(**{**cluster.dsn(name), "user": "app"}, autocommit=True)


def rows(cluster, table="notes"):
    with cluster.connect("live") as connection:
        return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def databases(admin):
    return sorted(row[0] for row in admin.execute("SELECT datname FROM pg_database WHERE datname LIKE 'live%'").fetchall())
