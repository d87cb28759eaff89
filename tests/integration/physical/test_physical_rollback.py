"""A database back to a moment, from real repositories: secured, cloned, carried over, equal, in by its name; and what can be in the way."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible.module_utils.greenroom import db_clone, db_rollback
from ansible.module_utils.greenroom.backup import physical_evidence, wal
from ansible.module_utils.greenroom.backup.errors import BackupError, BusyError
from physical_site import USER, until

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def config(site, room):
    """backup.json of both hosts of this site."""
    file = room / "backup.json"
    repositories = [{"key": 2, "place": "local"}, {"key": 1, "place": "store"}]
    document = {
        "schema": 1, "service": "example-service", "side": "restore", "database": {"name": "app", "bin_dir": str(site.bin)}, "places": [],
        "work_dir": str(room), "physical": {"stanza": site.stanza, "config_file": str(site.config), "repositories": repositories},
        "retention": {}, "limits": {}, "metrics_dir": str(room), "time_limit_s": 600,
    }  # fmt: skip
    file.write_text(json.dumps(document))
    return file


@pytest.fixture
def operation(site, config, room):
    """Acts on the site's database `app`; its databases that an act has made go at the end."""
    made = Operation(site, config, room / "rollback" / "t1")
    yield made
    for (name,) in site.sql("SELECT datname FROM pg_database WHERE datname LIKE 'app\\_%'"):
        site.sql(f'DROP DATABASE "{name}" WITH (FORCE)')


class Operation:
    def __init__(self, site, config, folder):
        self.site, self.config, self.folder = site, str(config), folder
        self.plan, self.safety = None, None

    def act(self, name, **more):
        job = {
            "act": name, "dsn": db_rollback.superuser(str(self.site.socket), self.site.port, "t1"), "database": "app", "id": "t1",
            "config": self.config, "folder": str(self.folder), "plan": self.plan, "safety": self.safety, "name": "app_restored_t1",
            "deadline_s": 10, "wait_s": 60, "keep_s": 60, "rows": "missing", **more,
        }  # fmt: skip
        answer = db_rollback.run(json.loads(json.dumps(job)))
        if not answer["ok"]:
            raise BackupError(answer["message"])
        return answer["result"]

    def planned(self, to):
        self.plan = self.act("planned", to=to)
        return self.plan

    def begin(self, to):
        self.planned(to)
        self.safety = self.act("secured")
        self.folder.mkdir(parents=True, exist_ok=True)
        if USER:
            shutil.chown(self.folder, USER)
            shutil.chown(self.folder.parent, USER)

    def names(self):
        return {row[0] for row in self.site.sql("SELECT name FROM things WHERE name IN ('early', 'late')", dbname="app")}


def now(site):
    return site.sql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')")[0][0]


@pytest.fixture
def known(site, pgbackrest, room):
    """A known point, its file, and what came after it: a row that goes, 500 that were deleted."""
    site.sql("DELETE FROM things WHERE name IN ('early', 'late')", "INSERT INTO things (name) VALUES ('early')", dbname="app")
    made = physical_evidence.make_point(
        pgbackrest, (2,), site.dsn(), name="wanted", bin_dir=str(site.bin), workers=2, wait_s=60
    )["point"]  # fmt: skip
    physical_evidence.save_point(room / "point.json", made)
    site.sql("INSERT INTO things (name) VALUES ('late')", "DELETE FROM notes", dbname="app")
    yield made
    site.sql("INSERT INTO notes SELECT n, repeat('x', 200) FROM generate_series(1, 500) n ON CONFLICT DO NOTHING", dbname="app")


@pytest.mark.parametrize("beside", [True, False])
def test_a_database_goes_back_to_a_named_point_and_the_rest_of_the_server_does_not(operation, site, known, room, beside):
    site.sql("CREATE DATABASE other")
    operation.begin(f"point:{known['name']}")
    assert operation.plan["loses"] and operation.plan["at_risk"]["seconds"] >= 0
    assert operation.safety["kind"] == "point" and set(operation.safety["repos"]) == {1, 2}
    recipient = None if beside else operation.act("keyed")["recipient"]
    made = operation.act("cloned", point_file=str(room / "point.json"), recipient=recipient)
    assert known["name"] in made["what"] and made["rows"] > 500 and not (operation.folder / "clone").exists()
    assert (operation.folder / "carry").exists() == beside and bool(made["sealed"]) != beside
    done = operation.act("carried", part=made["part"])
    assert done["rows"] == made["rows"] and operation.names() == {"early", "late"}
    swapped = operation.act("swapped")
    assert operation.names() == {"early"} and site.sql("SELECT count(*) FROM notes", dbname="app") == [(500,)]
    kept = site.sql("SELECT count(*) FROM things WHERE name = 'late'", dbname=swapped["kept"])
    assert kept == [(1,)] and site.sql("SELECT 1", dbname="other") == [(1,)]
    site.sql("DROP DATABASE other")


def test_a_time_an_lsn_and_the_end_of_a_backup_are_ways_too(operation, site, known, pgbackrest):
    time.sleep(1.1)
    site.sql("INSERT INTO notes VALUES (1, 'again')", dbname="app")
    time.sleep(1.1)
    moment, place = now(site), site.sql("SELECT pg_current_wal_insert_lsn()::text")[0][0]
    site.sql("INSERT INTO notes VALUES (2, 'too late')", dbname="app")
    site.switch()
    label = pgbackrest.backups(2)[0]["label"]
    for target, ids in ((f"time:{moment}", {1}), (f"lsn:{place}", {1}), (f"backup:{label}", set(range(1, 501)))):
        operation.begin(target)
        operation.act("cloned")
        operation.act("carried")
        assert {row[0] for row in site.sql("SELECT id FROM notes", dbname="app_restored_t1")} == ids, target


def test_rows_of_a_clone_come_back_and_the_newest_writes_stay(operation, site, known):
    operation.begin(f"point:{known['name']}")
    operation.act("cloned")
    operation.act("carried")
    done = operation.act("copied_back", tables=[{"table": "notes"}])
    assert done["tables"][0]["inserted"] == 500 and operation.names() == {"early", "late"}


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("point:nobody_made_this", "the target never was"),
        ("time:2020-01-01T00:00:00Z", "cannot be reached"),
        ("lsn:FF/0", "WAL in the archive ended"),
        ("backup:20200101-000000F", "no backup 20200101-000000F"),
    ],
)
def test_a_target_that_is_not_there_leaves_nothing_behind(operation, site, target, words):
    operation.begin(target)
    with pytest.raises(BackupError, match=words):
        operation.act("cloned")
    assert not [path for path in operation.folder.iterdir() if path.name != "restore.lock"]
    with pytest.raises(BackupError, match="holds no whole dump"):
        operation.act("carried")
    assert operation.names() <= {"early", "late"} and site.sql("SELECT count(*) FROM pg_database WHERE datname LIKE 'app%'") == [(1,)]


def test_a_clone_that_differs_from_its_known_point_goes_no_further(operation, site, known, room):
    wrong = json.loads(json.dumps(known))
    wrong["fingerprint"]["tables"]["public.things"]["rows"] += 1
    physical_evidence.save_point(room / "wrong.json", wrong)
    operation.begin(f"point:{known['name']}")
    with pytest.raises(BackupError, match=r"differs from the known point .* table public\.things"):
        operation.act("cloned", point_file=str(room / "wrong.json"))
    assert not (operation.folder / "carry").exists()


def test_of_another_cluster_nothing_is_restored(operation, site, known):
    operation.begin(f"point:{known['name']}")
    operation.plan = {**operation.plan, "system_identifier": "7000000000000000001"}
    with pytest.raises(BackupError, match="are of another cluster than 7000000000000000001"):
        operation.act("cloned")
    with pytest.raises(BackupError, match="system_identifier is"):
        operation.act("swapped")


def test_an_archive_command_that_lies_stops_everything_before_it_begins(operation, site, pgbackrest):
    operation.planned("point:anything")
    command = site.sql("SHOW archive_command")[0][0]
    site.sql("ALTER SYSTEM SET archive_command = '/bin/true'")
    site.sql("SELECT pg_reload_conf()")
    try:
        with pytest.raises(BackupError, match=r"did not reach repository .* Nothing destructive may follow"):
            operation.act("secured", wait_s=3)
    finally:
        site.sql("ALTER SYSTEM RESET archive_command")
        site.sql("SELECT pg_reload_conf()")
    until(lambda: site.sql("SHOW archive_command")[0][0] == command, "the right command")
    with pytest.raises(BackupError, match="no restore point"):
        operation.act("swapped", safety=None)
    pgbackrest.backup(2, "incr")  # nothing gets past the gap that the lie left


def test_a_prepared_transaction_of_that_moment_is_told_and_not_carried(operation, site, pgbackrest):
    with site.connect("app") as connection:
        connection.execute("BEGIN; CREATE TABLE prepared_only (id int); PREPARE TRANSACTION 'still open'")
    try:
        with site.connect("postgres") as connection:
            point = wal.restore_point(connection, wal.point_name("prepared"), pgbackrest, (2,))
    finally:
        site.sql("ROLLBACK PREPARED 'still open'", dbname="app")
    operation.begin(f"point:{point['name']}")
    assert operation.act("cloned")["prepared"] == ["still open"]
    operation.act("carried")
    assert site.sql("SELECT to_regclass('prepared_only')", dbname="app_restored_t1") == [(None,)]


def test_a_second_restore_at_the_same_time_is_refused(operation, site, known):
    operation.begin(f"point:{known['name']}")
    with db_clone.only_one(operation.folder.parent), pytest.raises(BusyError, match="another restore runs on this host"):
        db_clone.cloned(operation.plan, operation.folder, config=operation.config)
    assert operation.act("cloned")["rows"]


def test_a_clone_that_is_killed_leaves_no_server_and_is_made_anew(operation, site, known):
    operation.begin(f"point:{known['name']}")
    dsn = db_rollback.superuser(str(site.socket), site.port, "t1")
    job = {"act": "cloned", "plan": operation.plan, "folder": str(operation.folder), "config": operation.config, "dsn": dsn, "id": "t1"}
    code = (
        f"import sys, ansible.module_utils\nansible.module_utils.__path__.append({str(ROOT / 'plugins' / 'module_utils')!r})\n"
        "from ansible.module_utils.greenroom import db_rollback\nsys.exit(db_rollback.main([]))\n"
    )
    for moment in ("clone/data.partial", "clone/socket", "carry"):
        process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        process.stdin.write(json.dumps(job))
        process.stdin.close()
        until(lambda: (operation.folder / moment).exists() or process.poll() is not None, moment)  # noqa: B023
        assert process.poll() is None, moment
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        until(lambda: not servers(operation.folder), "the end of the clone's server")
    assert operation.act("cloned")["rows"]
    operation.act("carried")
    assert operation.names() == {"early", "late"}


def servers(folder):
    """Processes whose command line names the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += [path.parent.name] if str(folder).encode() in path.read_bytes() else []
    return found
