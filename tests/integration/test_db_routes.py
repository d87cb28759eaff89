"""The ways back on real servers: everybody out and in again, a copy swapped in by its name, side copies put back, a live downgrade."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest
from ansible.module_utils.greenroom import db_switch, migration
from ansible.module_utils.greenroom.backup.scratch_cluster import ScratchCluster
from ansible.module_utils.greenroom.db_switch import SwitchError
from ansible.module_utils.greenroom.migration import Database, Job, MigrationError
from ansible.module_utils.greenroom.rehearsal import side_copy
from ansible.module_utils.greenroom.rehearsal.errors import RehearsalError

sys.path.insert(0, str(Path(__file__).parent))
from rehearsal_project import Project, make_venv, open_folder


@pytest.fixture(scope="module")
def folder():
    with open_folder() as made:
        yield made


@pytest.fixture(scope="module")
def cluster(folder):
    settings = {"max_prepared_transactions": "5", "wal_level": "logical"}
    with ScratchCluster(folder / "c", settings=settings) as one:
        with one.connect() as admin:
            for role in ("app", "reader"):
                admin.execute(f"CREATE ROLE {role} LOGIN")
        yield one


@pytest.fixture
def admin(cluster):
    with cluster.connect() as connection:
        yield connection


@pytest.fixture
def live(cluster, admin):
    admin.execute("CREATE DATABASE live")
    with cluster.connect("live") as connection:
        connection.execute("CREATE TABLE t AS SELECT n, n::text AS word FROM generate_series(1, 1000) n; GRANT ALL ON t TO app")
    yield "live"
    for (name,) in admin.execute("SELECT datname FROM pg_database WHERE datname NOT IN ('postgres', 'template0', 'template1')").fetchall():
        with cluster.connect(name) as connection:
            for (gid,) in connection.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()").fetchall():
                connection.execute(f"ROLLBACK PREPARED '{gid}'")
            connection.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()")
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def app(cluster, name="live"):
    return psycopg.connect(**{**cluster.dsn(name), "user": "app"}, autocommit=True)


class Crowd:
    """Clients that work, and come back at once when they are thrown out."""

    def __init__(self, cluster, count=8):
        self.cluster, self.over, self.done, self.inside = cluster, threading.Event(), 0, []
        self.threads = [threading.Thread(target=self.work, daemon=True) for _ in range(count)]

    def work(self):
        while not self.over.is_set():
            try:
                with app(self.cluster) as connection:
                    while not self.over.is_set():
                        connection.execute("UPDATE t SET word = word WHERE n = 1 + floor(random() * 1000)")
                        self.done += 1
            except psycopg.Error:
                time.sleep(0.005)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        while self.done < 20:
            time.sleep(0.01)
        return self

    def __exit__(self, *_exc):
        self.over.set()
        for thread in self.threads:
            thread.join(10)


def test_everybody_is_out_and_nobody_comes_in_until_it_is_open_again(cluster, admin, live):
    idle = app(cluster)
    idle.autocommit = False
    with Crowd(cluster) as crowd:
        idle.execute("SELECT 1 FROM t")  # idle in a transaction from now on
        with db_switch.blocked(admin, live) as result:
            before = crowd.done
            time.sleep(0.2)
            assert crowd.done == before
            with pytest.raises(psycopg.OperationalError, match="not currently accepting connections"):
                app(cluster)
        assert result["ended"] >= 5 and result["seconds"] < 5  # some may be on their way back just then
        until = time.monotonic() + 10
        while crowd.done == before and time.monotonic() < until:
            time.sleep(0.02)
        assert crowd.done > before, "it is open again"
    with pytest.raises(psycopg.OperationalError):
        idle.execute("SELECT 1")


def test_it_is_opened_again_when_the_body_fails_or_the_connection_breaks(cluster, admin, live):
    with pytest.raises(RuntimeError), db_switch.blocked(admin, live):
        raise RuntimeError
    app(cluster).close()
    with cluster.connect() as other, cluster.connect() as killer:
        with pytest.raises(psycopg.OperationalError), db_switch.blocked(other, live):
            killer.execute("SELECT pg_terminate_backend(%s)", [other.info.backend_pid])
            other.execute("SELECT 1")
        app(cluster).close()


def test_a_database_that_was_closed_before_stays_closed(admin, live):
    admin.execute("ALTER DATABASE live ALLOW_CONNECTIONS false")
    db_switch.end_sessions(admin, live)
    assert admin.execute("SELECT datallowconn FROM pg_database WHERE datname = 'live'").fetchone()[0] is False
    admin.execute("ALTER DATABASE live ALLOW_CONNECTIONS true")


def test_who_cannot_be_ended_is_named(cluster, admin, live, monkeypatch):
    stays = app(cluster)
    stubborn = {"pid": 0, "kind": "walsender", "user": "x", "application": "y", "state": "z"}
    monkeypatch.setattr(db_switch, "sessions", lambda *_given: [stubborn])
    with pytest.raises(SwitchError, match=r"not empty after 0\.1 s, connections are open again\. Left: pid 0 walsender") as caught:
        db_switch.end_sessions(admin, live, deadline_s=0.1)
    assert caught.value.result["survivors"]
    stays.execute("SELECT 1")
    app(cluster).close()


def test_nobody_locks_himself_out(cluster, live):
    with cluster.connect("live") as inside, pytest.raises(SwitchError, match="is in live itself"):
        db_switch.end_sessions(inside, live)
    with cluster.connect() as other, pytest.raises(SwitchError, match="there is no database nowhere"):
        db_switch.end_sessions(other, "nowhere")


def test_the_copy_from_before_is_swapped_in_and_the_bad_one_kept(cluster, admin, live):
    admin.execute("ALTER DATABASE live SET search_path = public, pg_catalog; ALTER DATABASE live SET work_mem = '7MB'")
    admin.execute("ALTER ROLE app IN DATABASE live SET statement_timeout = '9s'; ALTER DATABASE live CONNECTION LIMIT 30")
    admin.execute("REVOKE ALL ON DATABASE live FROM PUBLIC; GRANT CONNECT, TEMPORARY ON DATABASE live TO app")
    with Crowd(cluster, 4):
        made = db_switch.copy(admin, live, "before")
        assert made["ended"] >= 4
        with pytest.raises(psycopg.OperationalError):
            app(cluster, "before")
        with cluster.connect("live") as bad:
            bad.execute("DELETE FROM t WHERE n > 10")
        result = db_switch.swap(admin, live, "before", "live_bad")
        assert result["kept"] == "live_bad" and result["settings"] and result["grants"] >= 2
    with app(cluster) as again:
        assert again.execute("SELECT count(*) FROM t").fetchone()[0] == 1000
        show = {name: again.execute(f"SHOW {name}").fetchone()[0] for name in ("search_path", "work_mem", "statement_timeout")}
        assert show == {"search_path": "public, pg_catalog", "work_mem": "7MB", "statement_timeout": "9s"}
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(**{**cluster.dsn("live"), "user": "reader"})
    with pytest.raises(psycopg.OperationalError, match="too many connections"):
        app(cluster, "live_bad")
    with cluster.connect("live_bad") as kept:
        assert kept.execute("SELECT count(*) FROM t").fetchone()[0] == 10
    limits = dict(admin.execute("SELECT datname, datconnlimit FROM pg_database WHERE datname LIKE 'live%'").fetchall())
    assert limits == {"live": 30, "live_bad": 0}


def test_what_is_in_the_way_of_a_swap_is_named_and_nothing_is_renamed(cluster, admin, live):
    db_switch.copy(admin, live, "before")
    with cluster.connect("live") as connection:
        connection.execute("BEGIN; INSERT INTO t VALUES (0, 'x'); PREPARE TRANSACTION 'forgotten'")
        with pytest.raises(SwitchError, match="prepared: forgotten"):
            db_switch.swap(admin, live, "before", "bad")
        connection.execute("ROLLBACK PREPARED 'forgotten'")
        connection.execute("SELECT pg_create_logical_replication_slot('follower', 'pgoutput')")
        with pytest.raises(SwitchError, match="slots: follower"):
            db_switch.swap(admin, live, "before", "bad")
        connection.execute("SELECT pg_drop_replication_slot('follower')")
    with pytest.raises(SwitchError, match="postgres is there already"):
        db_switch.swap(admin, live, "before", "postgres")
    with app(cluster) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone()[0] == 1000


def test_side_copies_in_batches_bring_back_values_and_rows(cluster, live):
    with cluster.connect(live) as connection:
        connection.execute(
            "CREATE TABLE parents (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, extra jsonb);"
            "CREATE TYPE size AS ENUM ('s', 'l');"
            "CREATE TABLE children (id bigint PRIMARY KEY, parent bigint NOT NULL REFERENCES parents ON DELETE CASCADE, size size);"
            "CREATE TABLE loose (word text);"
            "INSERT INTO parents (name, extra) SELECT 'p' || n, to_jsonb(n) FROM generate_series(1, 5000) n;"
            "INSERT INTO children SELECT n, n, 'l' FROM generate_series(1, 5000) n; INSERT INTO loose VALUES ('a'), ('a'), ('b')"
        )
        wanted = [{"table": "parents", "columns": ["extra"]}, {"table": "children", "columns": None}, {"table": "loose", "columns": None}]
        made = side_copy.make(connection, "r-1", wanted)
        assert {one["table"]: one["rows"] for one in made} == {"parents": 5000, "children": 5000, "loose": 3}
        with pytest.raises(RehearsalError, match="is there already"):
            side_copy.make(connection, "r-1", wanted)
        with pytest.raises(RehearsalError, match="no such table"):
            side_copy.make(connection, "r2", [{"table": "nothing", "columns": None}])
        connection.execute("DROP SCHEMA IF EXISTS _rb_r2")
        connection.execute("UPDATE parents SET extra = NULL WHERE id % 2 = 0")
        connection.execute("DELETE FROM children WHERE id > 100; DELETE FROM loose WHERE word = 'a'")
        done = {one["table"]: one for one in side_copy.put_back(connection, "r-1", batch=700)}
        assert done["parents"]["updated"] == 2500 and done["parents"]["inserted"] == 0
        assert done["children"]["inserted"] == 4900 and done["loose"]["inserted"] == 2
        query = "SELECT count(*), count(extra), sum(extra::text::int) FROM parents"
        assert connection.execute(query).fetchone() == (5000, 5000, 5000 * 5001 // 2)
        assert connection.execute("SELECT count(*) FROM children WHERE size = 'l'").fetchone()[0] == 5000
        again = side_copy.put_back(connection, "r-1")
        assert sum(one["inserted"] + one["updated"] for one in again) == 0
        side_copy.drop(connection, "r-1")
        with pytest.raises(RehearsalError, match="no side copies"):
            side_copy.put_back(connection, "r-1")


def test_a_live_downgrade_by_the_worker_that_migrates(folder, postgres):
    project = Project(folder / "9-1.0.0", make_venv(folder / "venv"), folder / "s")
    project.revise("a", ["CREATE TABLE things (id int PRIMARY KEY)"], ["DROP TABLE things"], "make things")
    project.revise("b", ["ALTER TABLE things ADD COLUMN tag text"], ["ALTER TABLE things DROP COLUMN tag"], "tag them")
    postgres.sql("CREATE DATABASE routes")

    def child(argv, request, limit_s):
        command = [sys.executable, *argv[argv.index("-c") :]]
        done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=limit_s, check=False)
        return done.returncode, done.stdout, done.stderr

    def job(**more):
        database = Database(postgres.host, postgres.port, "routes", "postgres", postgres.password, "prefer")
        return Job(service="things", user="things", release=str(project.folder), database=database, **more)

    migration.migrated(job(), run=child)
    result, (evidence,) = migration.downgraded(job(target="a"), run=child)
    assert [one["revision"] for one in result["undone"]] == ["b"] and result["after"]["current"] == ["a"] and result["changed"]
    assert evidence["id"] == "rollback.db.migration" and evidence["status"] == "pass"
    for target, words in (("head", "is missing"), ("b", "downgrade"), ("zz", "zz")):
        with pytest.raises(MigrationError, match=words) as caught:
            migration.downgraded(job(target=target), run=child)
        assert postgres.password not in json.dumps(caught.value.result) + str(caught.value)
    result, _ = migration.downgraded(job(target="base"), run=child)
    assert result["after"]["current"] == []
    postgres.sql("DROP DATABASE routes")
