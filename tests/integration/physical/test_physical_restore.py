"""Restores to a stated moment, from real repositories, into throw-away clusters: equal row for row, or red with the cause."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psycopg
import pytest
from ansible.module_utils.greenroom.backup import point_in_time, wal
from ansible.module_utils.greenroom.backup.errors import BackupError, NoSpaceError
from ansible.module_utils.greenroom.backup.pgbackrest import PgBackRest
from ansible.module_utils.greenroom.backup.point_in_time import Target
from physical_site import USER, until

ROOT = Path(__file__).resolve().parents[3]


@contextlib.contextmanager
def writing(site):
    """Two clients write without a pause; yields the rows they committed."""
    done, written = threading.Event(), []

    def write():
        with psycopg.connect(**site.dsn(), autocommit=True) as connection:
            while not done.is_set():
                written.append(connection.execute("INSERT INTO things (name) VALUES ('w') RETURNING id").fetchone()[0])
                connection.execute("UPDATE notes SET body = body || 'y' WHERE id = %s", [len(written) % 500])

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield written
    finally:
        done.set()
        for thread in threads:
            thread.join()


def known(site, pgbackrest, repos=(1, 2)) -> dict:
    """A known point that reads back from the repositories."""
    point = point_in_time.known_point(site.dsn(), wal.point_name("test"), bin_dir=str(site.bin))
    with site.connect("postgres") as connection:
        return wal.confirm_point(connection, point, pgbackrest, repos)


@contextlib.contextmanager
def restored(site, pgbackrest, folder, target, repo=2):
    backup = point_in_time.choose(pgbackrest.backups(repo), target)
    point_in_time.fetch(pgbackrest, folder, backup, target)
    cluster, told = point_in_time.recover(folder, target, bin_dir=str(site.bin))
    try:
        yield cluster, told
    finally:
        cluster.remove()


@pytest.mark.parametrize("repo", [1, 2])
def test_a_moving_source_equals_its_copy_at_the_point(site, pgbackrest, room, repo):
    with writing(site) as written:
        until(lambda: len(written) > 50, "writes")
        point = known(site, pgbackrest, (repo,))
        count = len(written)
        until(lambda: len(written) > count + 50, "writes after the point")
    target = Target("name", point["name"], point["lsn"])
    with restored(site, pgbackrest, room / "copy", target, repo) as (cluster, told):
        assert point["name"] in told["log_line"]
        after, found = point_in_time.compare(cluster, point)
        assert found == []
        assert after["rows"] == point["fingerprint"]["rows"]
        now = site.sql("SELECT count(*) FROM things", dbname="app")[0][0]
        assert after["tables"]["public.things"]["rows"] < now  # nothing from after the point
        with cluster.connect("app") as connection:
            connection.execute("UPDATE notes SET body = 'changed' WHERE id = 7")
        assert any("public.notes" in text for text in point_in_time.compare(cluster, point)[1])
    assert not (room / "copy" / "data").exists()


def test_the_lock_is_short_and_let_go_when_it_cannot_be_had(site):
    with site.connect("app") as holder:
        holder.execute("BEGIN")
        holder.execute("INSERT INTO things (name) VALUES ('open')")
        with (
            pytest.raises(BackupError, match=r"could not be locked for a moment in 2 tries.*pid \d+ postgres") as caught,
            point_in_time.locked_point(site.dsn(), "never", lock_timeout_ms=100, tries=2),
        ):
            pass
        assert str(holder.info.backend_pid) in str(caught.value)
        holder.execute("ROLLBACK")
    with site.connect("app") as holder:
        holder.execute("BEGIN")
        holder.execute("INSERT INTO things (name) VALUES ('open')")
        holder.execute("PREPARE TRANSACTION 'in the way'")
    try:
        with pytest.raises(BackupError, match="prepared transactions: in the way"), point_in_time.locked_point(
            site.dsn(), "never", lock_timeout_ms=100, tries=2
        ):
            pass
    finally:
        site.sql("ROLLBACK PREPARED 'in the way'", dbname="app")
    with point_in_time.locked_point(site.dsn(), wal.point_name("short")) as point:
        assert point["waited_ms"] < 500
        assert point["held_ms"] < 500


def test_a_database_without_tables_is_no_point(site):
    with pytest.raises(BackupError, match="has no table"), point_in_time.locked_point(site.dsn("template1"), "empty"):
        pass


def test_a_prepared_transaction_comes_back_and_is_named(site, pgbackrest, room):
    with site.connect("app") as connection:
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE prepared_only (id int)")
        connection.execute("PREPARE TRANSACTION 'still open'")
    try:
        with site.connect("postgres") as connection:
            point = wal.restore_point(connection, wal.point_name("prepared"), pgbackrest, (2,))
    finally:
        site.sql("ROLLBACK PREPARED 'still open'", dbname="app")
    with restored(site, pgbackrest, room / "copy", Target("name", point["name"], point["lsn"])) as (_, told):
        assert told["prepared"] == ["still open"]


def test_a_tablespace_comes_back_beside_the_copy_and_not_over_the_sources(site, pgbackrest, folders, room):
    place = folders("tablespace")
    shutil.chown(place, USER)
    site.sql(f"CREATE TABLESPACE other LOCATION '{place}'")
    site.sql("CREATE TABLE elsewhere (id int PRIMARY KEY) TABLESPACE other", "INSERT INTO elsewhere VALUES (1), (2)", dbname="app")
    pgbackrest.backup(2, "incr")
    point = known(site, pgbackrest, (2,))
    target = Target("name", point["name"], point["lsn"])
    with restored(site, pgbackrest, room / "copy", target) as (cluster, _):
        assert point_in_time.compare(cluster, point)[1] == []
        with cluster.connect("app") as connection:
            location = connection.execute("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'other'").fetchone()[0]
        assert Path(location).is_relative_to(room)
    site.sql("DROP TABLE elsewhere", dbname="app")
    site.sql("DROP TABLESPACE other")


def test_an_lsn_a_time_and_the_end_of_a_backup_are_targets_too(site, pgbackrest, room):
    site.sql("INSERT INTO things (name) VALUES ('before')", dbname="app")
    time.sleep(1.1)
    moment = site.sql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')")[0][0]
    place = site.sql("SELECT pg_current_wal_insert_lsn()::text")[0][0]
    site.sql("INSERT INTO things (name) VALUES ('after')", dbname="app")
    site.switch()
    for number, target in enumerate((Target("lsn", place.lower()), Target("time", moment), Target("immediate"))):
        with restored(site, pgbackrest, room / str(number), target) as (cluster, told), cluster.connect("app") as connection:
            names = {row[0] for row in connection.execute("SELECT name FROM things WHERE name IN ('before', 'after')").fetchall()}
            assert names <= {"before"}, told
            assert (names == {"before"}) == (target.kind != "immediate")
            assert connection.execute("SHOW archive_mode").fetchone() == ("off",)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (Target("name", "nobody_made_this"), "the target never was"),
        (Target("time", "2037-01-01T00:00:00Z"), "WAL in the archive ended"),
        (Target("lsn", "FF/0"), "WAL in the archive ended"),
    ],
)
def test_a_target_that_is_not_there_is_a_failure(site, pgbackrest, room, target, words):
    with pytest.raises(BackupError, match=words), restored(site, pgbackrest, room / "copy", target):
        pass


def test_a_missing_segment_ends_the_recovery_and_names_the_last_one(new_site, room):
    """PostgreSQL itself would stop there and promote without a word, were the target "latest"."""
    site = new_site()
    pgbackrest = PgBackRest(site.stanza, site.config)
    pgbackrest.backup(2, "full")
    site.switch()
    gap = site.switch()
    site.switch()
    point = known(site, pgbackrest, (2,))
    site.archived_files(2)[gap].unlink()
    target = Target("name", point["name"], point["lsn"])
    with pytest.raises(BackupError, match="A segment is missing") as caught, restored(site, pgbackrest, room / "copy", target):
        pass
    assert caught.value.result["last_segment"] < gap


def test_a_moment_before_every_backup_cannot_be_reached(site, pgbackrest):
    with pytest.raises(BackupError, match="cannot be reached"):
        point_in_time.choose(pgbackrest.backups(2), Target("time", "2020-01-01T00:00:00+00"))
    with pytest.raises(BackupError, match="cannot be reached"):
        point_in_time.choose(pgbackrest.backups(2), Target("name", "early", "0/1000000"))


def test_a_folder_that_is_in_use_is_refused(site, pgbackrest, room):
    backup, target = pgbackrest.backups(2)[0], Target("immediate")
    for folder in (site.data, site.data / "base" / "new"):
        with pytest.raises(BackupError, match="is a data folder of PostgreSQL, and a server runs on it"):
            point_in_time.fetch(pgbackrest, folder, backup, target)
    (room / "something").write_text("precious")
    with pytest.raises(BackupError, match="is not empty"):
        point_in_time.fetch(pgbackrest, room, backup, target)
    assert (room / "something").read_text() == "precious"
    assert site.sql("SELECT 1") == [(1,)]


def test_a_killed_restore_leaves_nothing_that_starts(site, room):
    """`data` appears by a rename at the end; the child ends with its parent."""
    code = (
        "import sys, ansible.module_utils\n"
        f"ansible.module_utils.__path__.append({str(ROOT / 'plugins' / 'module_utils')!r})\n"
        "from ansible.module_utils.greenroom.backup import point_in_time\n"
        "from ansible.module_utils.greenroom.backup.pgbackrest import PgBackRest\n"
        f"pgbackrest = PgBackRest({site.stanza!r}, {str(site.config)!r})\n"
        f"point_in_time.fetch(pgbackrest, {str(room / 'copy')!r}, pgbackrest.backups(2)[0], point_in_time.Target('immediate'))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    partial = room / "copy" / "data.partial"
    until(lambda: (partial / "base").exists(), "the restore")
    process.send_signal(signal.SIGKILL)
    process.wait(10)

    def children() -> list[str]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                found += [path.parent.name] if str(partial).encode() in path.read_bytes() else []
        return found

    until(lambda: not children(), "the end of pgBackRest", 20)
    assert not (room / "copy" / "data").exists()
    assert not (partial / "global" / "pg_control").exists()
    with pytest.raises(BackupError, match=r"is not empty|is a data folder"):
        point_in_time.fetch(PgBackRest(site.stanza, site.config), room / "copy", site.first[2], Target("immediate"))


@pytest.fixture
def small_disk(room):
    """A file system of 24 MB; the cluster has 30."""
    folder = room / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=0755", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_named_before_and_during_a_restore(site, pgbackrest, small_disk):
    backup = pgbackrest.backups(2)[0]
    with pytest.raises(NoSpaceError, match=r"the restore needs \d+ MB"):
        point_in_time.fetch(pgbackrest, small_disk / "copy", backup, Target("immediate"))
    with pytest.raises(NoSpaceError, match="the disk is full"):
        point_in_time.fetch(pgbackrest, small_disk / "copy", backup, Target("immediate"), check_space=False)
    assert list((small_disk / "copy").iterdir()) == []


def test_a_changed_bit_in_the_repository_stops_the_restore_and_leaves_nothing(new_site, room):
    site = new_site()
    pgbackrest = PgBackRest(site.stanza, site.config)
    backup = pgbackrest.backup(2, "full")
    pgbackrest = PgBackRest(site.stanza, site.configure(io_timeout=1))
    file = max((site.repo2 / "backup" / site.stanza / backup["label"]).rglob("*.zst"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(BackupError, match="pgbackrest restore failed"):
        point_in_time.fetch(pgbackrest, room / "copy", backup, Target("immediate"))
    assert list((room / "copy").iterdir()) == []


def test_a_corrupt_backup_is_never_chosen(site, pgbackrest):
    backups = [{**one, "error": True} for one in pgbackrest.backups(2)]
    with pytest.raises(BackupError, match="corrupt pages"):
        point_in_time.choose(backups, Target("immediate"), backups[0]["label"])
    with pytest.raises(BackupError, match="cannot be reached"):
        point_in_time.choose(backups, Target("immediate"))


def test_two_restores_at_the_same_time_do_not_meet(site, pgbackrest, room):
    outcomes = []

    def one(number):
        outcomes.append(point_in_time.fetch(pgbackrest, room / str(number), pgbackrest.backups(2)[0], Target("immediate")))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 2
    shutil.rmtree(room)
