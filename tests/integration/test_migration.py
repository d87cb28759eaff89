"""Migrations against a real PostgreSQL with real alembic: the plan, the lock, the limits, failures and what is left after them.

The worker runs as a child process, as in the transient unit; the unit itself is what the molecule scenario `db_migration` proves.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import psycopg
import pytest
from ansible.module_utils.greenroom import migration
from ansible.module_utils.greenroom.migration import Database, Job, MigrationError

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "p@ss:/w ord#$ü'\"%"
ENV_PY = """
    import os
    from alembic import context
    from sqlalchemy import create_engine, pool

    engine = create_engine(os.environ["THINGS_URL"].replace("postgresql://", "postgresql+{driver}://"), poolclass=pool.NullPool)
    print("a project may print what it likes")
    with engine.connect() as connection:
        context.configure(connection=connection, transaction_per_migration={each})
        with context.begin_transaction():
            context.run_migrations()
"""
# A project whose driver does not read these: what limits its sessions then is the settings made on connecting.
DEAF_ENV_PY = (
    """
    import os

    os.environ.pop("PGOPTIONS", None)
    os.environ.pop("PGAPPNAME", None)
"""
    + ENV_PY
)
REVISION = '''
    """{message}"""
    import time
    from alembic import op

    revision = "{name}"
    down_revision = {down!r}


    def upgrade():
        {body}


    def downgrade():
        pass
'''


def server_program(name: str) -> str:
    """The path of one of PostgreSQL's programs; Debian keeps them off the PATH."""
    found = shutil.which(name) or next(
        (str(path) for path in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)), None
    )
    assert found, f"{name} is not installed; get it with: apt-get install postgresql"
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A PostgreSQL server of our own; (port, function that runs SQL as its superuser)."""
    folder = tmp_path_factory.mktemp("postgresql")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    as_postgres = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        as_postgres = ["runuser", "-u", "postgres", "--"]
        for path in (folder, *folder.parents[:3]):
            path.chmod(path.stat().st_mode | 0o055)
        shutil.chown(folder, "postgres")
    data = folder / "data"
    start = [*as_postgres, server_program("pg_ctl"), "-D", str(data), "-w"]
    secret = folder / "password"
    secret.write_text("superuser\n")
    secret.chmod(0o644)
    subprocess.run(
        [*as_postgres, server_program("initdb"), "-D", str(data), "-U", "boss", "-A", "scram-sha-256", f"--pwfile={secret}", "--no-sync"],
        check=True, capture_output=True, cwd="/",
    )  # fmt: skip
    options = f"-p {port} -h 127.0.0.1 -k '' -c fsync=off"
    subprocess.run(
        [*start, "-o", options, "-l", str(folder / "log"), "start"], check=True, capture_output=True, cwd="/"
    )

    def sql(statement: str, dbname: str = "postgres") -> list:
        with psycopg.connect(
            host="127.0.0.1", port=port, user="boss", password="superuser", dbname=dbname, autocommit=True
        ) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    sql("CREATE ROLE owner LOGIN PASSWORD '{}'".format(PASSWORD.replace("'", "''")))
    yield port, sql
    subprocess.run([*start, "-m", "immediate", "stop"], check=True, capture_output=True, cwd="/")


@pytest.fixture(scope="session")
def venv(tmp_path_factory):
    """The virtual environment of a release with alembic, psycopg and asyncpg: that of the example service's lock file."""
    folder = tmp_path_factory.mktemp("release") / "venv"
    uv = [str(Path(sys.executable).with_name("uv"))]
    subprocess.run([*uv, "venv", "-q", "--python", sys.executable, str(folder)], check=True)
    lock = ROOT / "examples" / "lark-service" / "requirements.txt"
    subprocess.run(
        [*uv, "pip", "install", "-q", "--python", str(folder), "--require-hashes", "-r", str(lock)], check=True
    )
    return folder


class Project:
    """A release with an alembic project, and a database of its own."""

    def __init__(self, folder: Path, venv: Path, port: int, dbname: str):
        self.folder, self.port, self.dbname, self.newest = folder, port, dbname, None
        (folder / "src" / "migrations" / "versions").mkdir(parents=True)
        (folder / "venv").symlink_to(venv)
        (folder / "src" / "alembic.ini").write_text("[alembic]\nscript_location = migrations\n")
        self.env()

    def env(self, source: str = ENV_PY, driver: str = "psycopg", each: bool = False) -> None:
        (self.folder / "src" / "migrations" / "env.py").write_text(
            textwrap.dedent(source).replace("{driver}", driver).replace("{each}", str(each))
        )

    def revise(self, name: str, body: str, message: str = "", down: str | None = None) -> None:
        text = textwrap.dedent(REVISION).format(
            message=message or f"revision {name}", name=name, down=down or self.newest, body=body
        )
        (self.folder / "src" / "migrations" / "versions" / f"{name}.py").write_text(text)
        self.newest = name

    def job(self, **more: object) -> Job:
        database = Database("127.0.0.1", self.port, self.dbname, "owner", PASSWORD, "prefer")
        about = {"service": "things", "user": "things", "release": str(self.folder), "url_key": "THINGS_URL", "run_id": "run-7"}
        return Job(**{**about, "database": database, "lock_wait_s": 10, **more})

    def connect(self, **more: object) -> psycopg.Connection:
        about = {"host": "127.0.0.1", "port": self.port, "user": "owner", "password": PASSWORD, "dbname": self.dbname}
        return psycopg.connect(**about, autocommit=True, **more)

    def run(self, operation=migration.migrated, **more: object) -> tuple[dict, list[dict]]:
        return operation(self.job(**more), run=in_a_child)

    def value(self, statement: str) -> object:
        with self.connect() as connection:
            return connection.execute(statement).fetchone()[0]


def in_a_child(argv: list[str], request: str, limit_s: float) -> tuple[int, str, str]:
    """What systemd-run does, without systemd: the interpreter with the bootstrap, the job on standard input."""
    done = subprocess.run(
        [sys.executable, *argv[argv.index("-c") :]],
        input=request,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def project(server, venv, tmp_path):
    port, sql = server
    dbname = f"db_{abs(hash(tmp_path)) % 10**9}"
    sql(f"CREATE DATABASE {dbname} OWNER owner")
    one = Project(tmp_path / "9-1.0.0", venv, port, dbname)
    one.revise("a1", 'op.execute("CREATE TABLE things (id int PRIMARY KEY, name text)")', "create things")
    one.revise("b2", 'op.execute("CREATE INDEX things_name ON things (name)")', "index the names")
    return one


def failing(project: Project, **more: object) -> tuple[str, dict]:
    with pytest.raises(MigrationError) as caught:
        project.run(**more)
    for form in (PASSWORD, "p%40ss", "p@ss"):
        assert form not in str(caught.value) and form not in json.dumps(caught.value.result, ensure_ascii=False)
    return str(caught.value), caught.value.result


def statuses(evidence: list[dict]) -> dict:
    return {one["id"].removeprefix("db."): one["status"] for one in evidence}


def test_the_whole_way(project):
    _plan, (made,) = project.run(migration.planned)
    assert (
        made["observed"] == "base (no revision yet) -> b2, 2 pending: a1 (create things), b2 (index the names)"
        and made["status"] == "pass"
    )
    assert project.value("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0, "a plan changes nothing"

    result, evidence = project.run(tables=("things",), indexes=("things_pkey", "things_name"))
    assert result["changed"] and [one["revision"] for one in result["applied"]] == ["a1", "b2"]
    assert set(statuses(evidence).values()) == {"pass"} and len(evidence) == 5
    assert project.value("SELECT version_num FROM alembic_version") == "b2"

    result, evidence = project.run(tables=("things",), indexes=("things_name",))
    assert not result["changed"] and result["applied"] == [] and set(statuses(evidence).values()) == {"pass"}


def test_the_sessions_are_limited_and_named(project):
    settings = ["lock_timeout", "statement_timeout", "application_name"]
    made = " || ',' || ".join(f"current_setting('{name}')" for name in settings)
    project.revise("c3", f'op.execute("CREATE TABLE seen AS SELECT {made} AS settings")')
    project.run(lock_timeout_s=3, statement_timeout_s=40)
    assert project.value("SELECT settings FROM seen") == "3s,40s,greenroom-migration"


def test_a_driver_that_reads_no_pgoptions_is_limited_too(project):
    project.env(DEAF_ENV_PY)
    made = "current_setting('lock_timeout') || ',' || current_setting('statement_timeout') || ',' || current_setting('application_name')"
    project.revise("c3", f'op.execute("CREATE TABLE seen AS SELECT {made} AS settings")')
    project.run(lock_timeout_s=3, statement_timeout_s=40)
    assert project.value("SELECT settings FROM seen") == "3s,40s,greenroom-migration"


def test_a_failing_revision_is_named_and_rolled_back(project):
    project.revise("c3", 'op.execute("ALTER TABLE nothing ADD x int")')
    text, result = failing(project, tables=("things",))
    assert "revision c3 (revision c3) failed" in text and 'relation "nothing" does not exist' in text
    assert "The database is unchanged, at base" in text and result["changed"] is False
    assert project.value("SELECT to_regclass('things') IS NULL")
    assert statuses(result["evidence"]) == {
        "migration.state_before": "pass", "migration.applied": "fail", "migration.head": "fail",
        "tables": "error", "indexes": "not_applicable",
    }  # fmt: skip


def test_a_project_that_commits_each_revision_keeps_the_earlier_ones(project):
    project.env(each=True)
    project.revise("c3", 'op.execute("ALTER TABLE nothing ADD x int")')
    text, result = failing(project)
    assert "now at b2, it was at base" in text and result["changed"] is True
    assert [one["revision"] for one in result["applied"]] == ["a1", "b2"]


def test_an_unknown_revision_is_named(project):
    project.run()
    with project.connect() as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ff99'")
    text, _result = failing(project)
    assert "at revision ff99, which this release does not contain (its newest is b2)" in text
    with pytest.raises(MigrationError, match="ff99"):
        project.run(migration.planned)
    assert project.value("SELECT version_num FROM alembic_version") == "ff99"


def test_two_heads_are_refused(project):
    project.revise("c3", "pass", down="a1")
    text, _result = failing(project)
    assert "several newest revisions (b2, c3)" in text


def test_the_lock_is_awaited_then_its_holder_is_named(project):
    with project.connect(application_name="somebody else") as holder:
        holder.execute("SELECT pg_advisory_lock(%s)", [migration.LOCK_KEY])
        pid = holder.info.backend_pid
        text, result = failing(project, lock_wait_s=0.5)
        assert f"held by pid {pid}, somebody else, role owner" in text and "Nothing was migrated" in text
        assert result["lock"]["holder"]["pid"] == pid

        threading.Timer(1.0, holder.execute, ["SELECT pg_advisory_unlock_all()"]).start()
        result, _evidence = project.run(lock_wait_s=20)
        assert result["changed"] and 0.2 < result["lock"]["waited_s"] < 15


def test_two_at_once_migrate_once(project):
    project.revise("c3", "time.sleep(1)")
    results = []
    threads = [threading.Thread(target=lambda: results.append(project.run(lock_wait_s=30)[0])) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one["changed"] for one in results) == [False, True]


def test_a_table_somebody_locks_ends_the_migration_soon(project):
    project.run()
    project.revise("c3", 'op.execute("ALTER TABLE things ADD x int")')
    with project.connect() as other, other.transaction():
        other.execute("LOCK TABLE things")
        begun = time.monotonic()
        text, _result = failing(project, lock_timeout_s=1)
        assert "lock timeout" in text and time.monotonic() - begun < 10
    assert "at b2" in text


def test_a_statement_that_takes_too_long_is_ended(project):
    project.revise("c3", 'op.execute("SELECT pg_sleep(60)")')
    text, _result = failing(project, statement_timeout_s=1)
    assert "statement timeout" in text and "revision c3" in text


def test_a_migration_beyond_its_time_leaves_no_session_behind(project):
    project.revise("c3", 'op.execute("SELECT pg_sleep(60)")')
    text, result = failing(project, time_limit_s=8, statement_timeout_s=60)  # a busy machine needs seconds to begin
    assert (
        "revision c3 (revision c3) failed: not done after 8 s" in text
        and "unchanged" in text
        and result["changed"] is False
    )
    assert project.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'greenroom-migration'") == 0


def test_declared_objects_are_looked_for(project):
    text, result = failing(project, tables=("things", "Absent Table"), indexes=("things_name", "absent_index"))
    assert "tables missing: Absent Table" in text and "indexes missing: absent_index" in text
    found = statuses(result["evidence"])
    assert (
        found["tables"] == found["indexes"] == "fail"
        and found["migration.head"] == "pass"
        and result["changed"] is True
    )


def test_an_invalid_index_is_red(project, server):
    project.run()
    server[1]("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'things_name'::regclass", project.dbname)
    text, _result = failing(project, indexes=("things_name",))
    assert "indexes invalid: things_name" in text


def test_a_wrong_password_is_said_and_not_shown(project):
    wrong = Database("127.0.0.1", project.port, project.dbname, "owner", PASSWORD + "x", "prefer")
    with pytest.raises(MigrationError) as caught:
        migration.migrated(project.job(database=wrong), run=in_a_child)
    assert "cannot connect as the owner role" in str(caught.value) and PASSWORD not in str(caught.value)


def test_output_that_holds_the_password_is_masked(project):
    project.revise("c3", 'raise RuntimeError("cannot use " + __import__("os").environ["THINGS_URL"])')
    text, _result = failing(project)
    assert "owner:***@127.0.0.1" in text


def test_a_project_that_gives_up_is_reported(project):
    project.env('raise SystemExit("THIS_KEY is missing")')
    text, _result = failing(project)
    assert "THIS_KEY is missing [SystemExit]" in text


def test_a_release_without_the_tool_is_reported(project):
    os.unlink(project.folder / "venv")
    bare = project.folder / "venv" / "bin"
    bare.mkdir(parents=True)
    (bare / "python").symlink_to("/usr/bin/python3")
    text, _result = failing(project)
    assert "No module named 'alembic'" in text


def test_no_process_shows_the_password(project):
    project.revise("c3", "time.sleep(2)")
    thread = threading.Thread(target=project.run)
    thread.start()
    time.sleep(1.5)
    shown = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True).stdout
    thread.join()
    assert "migration_worker" in shown or "json.load(sys.stdin)" in shown
    assert PASSWORD not in shown and "p%40ss" not in shown


COPY = ['CREATE SCHEMA "_rb_c3"', 'CREATE TABLE "_rb_c3"."things" AS SELECT "id", "name" FROM "public"."things"']


def test_a_side_copy_is_part_of_the_migration_that_loses_the_data(project):
    project.run()
    with project.connect() as connection:
        connection.execute("INSERT INTO things SELECT n, 'name ' || n FROM generate_series(1, 5) n")
    project.revise("c3", 'op.execute("ALTER TABLE things DROP COLUMN name")', "drop the names")
    text, _result = failing(project, copies={"c3": [*COPY, "SELECT 1 / 0"]})
    assert "division by zero" in text and project.value("SELECT to_regnamespace('_rb_c3') IS NULL"), "all of it, or nothing"
    assert project.value("SELECT count(name) FROM things") == 5
    project.run(copies={"c3": COPY})
    assert project.value("SELECT version_num FROM alembic_version") == "c3"
    assert project.value("SELECT count(name) FROM _rb_c3.things") == 5
