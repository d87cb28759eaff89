"""Good backups: proved, without a false alarm, while others write; and what the walk says about them."""

import contextlib
import json
import sys
import threading
from pathlib import Path

import pytest
from ansible.module_utils.greenroom.backup import dump, fingerprint, manifest, retention, verify
from ansible.module_utils.greenroom.backup.errors import BackupError
from ansible.module_utils.greenroom.records import record

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode puts no folder of tests on the path
from backup_fixtures import *  # noqa: F403 - fixtures
from backup_site import DATABASE, SERVICE, kill, wait_until


def statuses(result):
    return {one["id"]: one["status"] for one in result["evidence"]}


def writer(cluster, stop, written):
    """Commits to several tables and takes numbers from sequences until `stop` is set."""
    with cluster.connect(DATABASE) as connection:
        while not stop.is_set():
            connection.execute("INSERT INTO sales.orders (customer, total) VALUES (2, 1); SELECT nextval('numbers')")
            connection.execute("UPDATE readings SET value = value + 1 WHERE id = 30 * (1 + (random() * 1000)::int)")
            connection.execute("INSERT INTO odd (s) VALUES ('written meanwhile')")
            written.append(1)


@pytest.mark.timeout(180)
def test_a_backup_under_writes_is_proved_in_both_places(site):
    stop, written = threading.Event(), []
    thread = threading.Thread(target=writer, args=(site.source, stop, written), daemon=True)
    thread.start()
    try:
        wait_until(lambda: len(written) > 20, "the writer")
        made = dump.run_dump(site.config())
    finally:
        stop.set()
        thread.join()
    assert {name: one["ok"] for name, one in made["places"].items()} == {"store": True, "local": True}
    result = verify.verify(site.config(), key_probes=site.probes())
    assert result["differences"] == [] and result["verdict"] == "verified", result["statement"]
    assert set(statuses(result).values()) == {"pass"} and result["id"] == made["id"]
    assert made["sha256"] in result["statement"] and "store and local" in result["statement"] and "Not run" not in result["statement"]
    # The source has moved on meanwhile, so equality with the live database would have been a false alarm.
    live = fingerprint.take(site.source.dsn(DATABASE), bin_dir=site.source.bin_dir)
    assert live["rows"] > result["contents"]["rows"]
    assert not list(site.work.glob("verify-*")) + list(site.work.glob("scratch-*")) + list(site.work.glob("dump-*"))


def test_what_was_not_asked_for_is_not_run_and_never_passed(site, backup):
    result = verify.verify(site.config())
    assert result["verdict"] == "verified", result["statement"]
    assert statuses(result)["backup.logical.key_probe"] == "not_run"
    assert "Not run: no column was named, although pgcrypto is installed" in result["statement"]


def test_further_checks_see_the_restored_copy_and_a_red_one_counts(site, backup):
    seen = []

    def rows(cluster, database):
        with cluster.connect(database) as connection:
            seen.append(connection.execute("SELECT count(*) FROM customers").fetchone()[0])
        status, reason = ("pass", None) if len(seen) == 1 else ("fail", "as asked for")
        return [record("verify.api.basic", status, 60, seen[-1], reason=reason)]

    def breaks(_cluster, _database):
        raise BackupError("the release does not start")

    assert verify.verify(site.config(), also=rows)["verdict"] == "verified" and seen == [60]
    for check, words in ((rows, "as asked for"), (breaks, "the release does not start")):
        result = verify.verify(site.config(), also=check)
        assert (result["verdict"], result["failed_step"]) == ("failed", "also") and words in result["statement"]
        assert statuses(result)["backup.logical.negative_control"] == "not_run"


def test_a_database_with_an_icu_locale_and_one_with_a_single_table_are_no_false_alarms(site):
    with site.source.connect() as connection:
        connection.execute("CREATE DATABASE german TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'de-DE' ENCODING UTF8")
        connection.execute("CREATE DATABASE bytes TEMPLATE template0 ENCODING SQL_ASCII LOCALE 'C'")
    try:
        for name, table in (("german", "CREATE TABLE t (k text PRIMARY KEY)"), ("bytes", 'CREATE TABLE "Odd ""name" (k text)')):
            with site.source.connect(name) as connection:
                connection.execute(table)
                found = connection.execute("SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND oid > 16383").fetchone()
                connection.execute(f"INSERT INTO {found[0]} VALUES ('b'), ('B'), ('a'), ('_')")
            document = site.document(database__name=name, places=[site.local_place()])
            config = site.config(database__name=name, places=document["places"])
            dump.run_dump(config)
            result = verify.verify(config)
            assert result["verdict"] == "verified", result["statement"]
    finally:
        with site.source.connect() as connection:
            connection.execute("DROP DATABASE german")
            connection.execute("DROP DATABASE bytes")


def test_settings_that_hinder_and_subscriptions_are_no_false_alarms(site):
    with site.source.connect() as connection:
        connection.execute('CREATE DATABASE "awk ward" TEMPLATE template0')
        connection.execute("""ALTER DATABASE "awk ward" SET default_transaction_read_only = on""")
        connection.execute("""ALTER DATABASE "awk ward" SET "DateStyle" = 'SQL, DMY'""")
        connection.execute("""ALTER DATABASE "awk ward" SET extra_float_digits = -15""")
    with site.source.connect("awk ward") as connection:
        connection.execute("CREATE TABLE t (f float8, d date, i interval); INSERT INTO t VALUES (0.1 + 0.2, '2026-02-01', '1 mon 30 days')")
        connection.execute(
            "CREATE SUBSCRIPTION inwards CONNECTION 'host=127.0.0.1 port=1 dbname=none password=hidden-word' PUBLICATION p"
            " WITH (connect = false, slot_name = NONE)"
        )
    try:
        config = site.config(database__name="awk ward", places=[site.local_place()])
        dump.run_dump(config)
        result = verify.verify(config)
        assert result["verdict"] == "verified", result["statement"]
        assert "hidden-word" not in json.dumps(result)
    finally:
        with site.source.connect("awk ward") as connection:
            connection.execute("DROP SUBSCRIPTION inwards")
        with site.source.connect() as connection:
            connection.execute('DROP DATABASE "awk ward"')


def test_the_fingerprint_of_a_cluster_made_anew_the_same_way_is_the_same(site, tmp_path_factory):
    one = fingerprint.take(site.source.dsn(DATABASE), bin_dir=site.source.bin_dir)
    two = fingerprint.take(site.source.dsn(DATABASE), bin_dir=site.source.bin_dir, workers=1)
    assert fingerprint.differences(one, two) == []
    assert json.loads(json.dumps(one)) == one
    assert len(one["tables"]["public.readings"]["ranges"]) > 1, "no table is read in ranges"


def test_the_two_ways_to_read_a_table_give_the_same_hashes(site, monkeypatch):
    one = fingerprint.take(site.source.dsn(DATABASE), bin_dir=site.source.bin_dir)
    monkeypatch.setattr(fingerprint, "LARGE_BYTES", 0)
    two = fingerprint.take(site.source.dsn(DATABASE), bin_dir=site.source.bin_dir, like=one)
    assert one["tables"] == two["tables"] and one["bytes"] == two["bytes"] > 100_000
    with pytest.raises(BackupError, match=r"could not be read: psql ended with status"):
        fingerprint.take(site.source.dsn(DATABASE), bin_dir=site.source.bin_dir, like=broken(one))


def broken(found):
    """A fingerprint whose ranges lead to a query that fails."""
    found["tables"]["public.readings"]["ranges"][0][1] = "1 / 0"
    return found


def test_the_command_prints_what_a_timer_needs(site):
    process = site.command("dump")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    made = json.loads(out)
    assert made["places"]["local"] == {"ok": True, "bytes": made["bytes"], "reason": None} and made["id"].startswith(SERVICE)
    marked = ("mark-proved", "--id", made["id"])
    for arguments, code in ((("list",), 0), (("check",), 0), (marked, 0), (("mark-proved",), 1), (("verify",), 0)):
        process = site.command(*arguments)
        out, err = process.communicate(timeout=60)
        assert process.returncode == code, (arguments, out, err)
        assert json.loads(out)
    assert dump.proved(site.config()) == [made["id"]]
    assert manifest.ids(site.places()[0].keys()) == [made["id"]]


def test_retention_never_removes_the_last_proved_backup(site):
    config = site.config(retention__logical=1, places=[site.local_place()])
    place = site.places()[1]
    first = dump.run_dump(config)["id"]
    made = [first, dump.run_dump(config)["id"], dump.run_dump(config)["id"]]
    assert manifest.ids(place.keys()) == sorted(made), "nothing was proved, so nothing may go"
    dump.mark_proved(config, made[1])
    made.append(dump.run_dump(config)["id"])
    left = manifest.ids(place.keys())
    assert first not in left and made[1] in left and made[3] in left
    assert first not in " ".join(place.keys()), "its files are gone too"
    assert retention.plan([], 1, [])[0] == []
    (site.work / "proved.json").write_text("{")
    made = dump.run_dump(config)
    assert "not applied" in made["retention"]["local"]["note"] and manifest.ids(place.keys()) == sorted([*left, made["id"]])


@pytest.mark.timeout(120)
def test_one_backup_at_a_time_and_a_killed_one_leaves_nothing_that_counts(site):
    with site.source.connect(DATABASE) as blocker, site.source.connect() as watch:
        blocker.execute("BEGIN; LOCK TABLE codes IN ACCESS EXCLUSIVE MODE")
        running = site.command("dump")
        mine = "FROM pg_stat_activity WHERE application_name = 'greenroom-backup' AND wait_event_type = 'Lock'"
        wait_until(lambda: watch.execute(f"SELECT count(*) {mine}").fetchone()[0] >= 1, "the dump at the lock")
        second = site.command("dump")
        _out, err = second.communicate(timeout=30)
        assert second.returncode == 1 and "another logical backup or restore runs" in err
        kill(running)
        wait_until(lambda: watch.execute(f"SELECT count(*) {mine}").fetchone()[0] == 0, "the end of the killed run's pg_dump")
        assert list(site.work.glob("dump-*")), "the test was too fast: there was no work folder"
        assert all(manifest.ids(place.keys()) == [] for place in site.places())
        blocker.execute("ROLLBACK")
    made = dump.run_dump(site.config())
    assert [path.name for path in site.work.glob("dump-*")] == [] and manifest.ids(site.places()[0].keys()) == [made["id"]]


def processes_in(folder: Path) -> list[str]:
    """Command lines of processes that work in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if f"{folder}/scratch-" in line]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("moment", ["PG_VERSION", "postmaster.opts", "base/1638*"], ids=["making the cluster", "starting it", "restoring"])
def test_a_verification_that_is_killed_leaves_no_process_and_the_next_one_cleans_up(site, backup, moment):
    running = site.command("verify")
    wait_until(lambda: list(site.work.glob(f"scratch-*/data/{moment}")), moment)
    kill(running)
    wait_until(lambda: not processes_in(site.work), "the end of its processes")
    assert list(site.work.glob("scratch-*"))
    assert verify.verify(site.config())["verdict"] == "verified"
    assert not list(site.work.glob("scratch-*")) + list(site.work.glob("verify-*"))


def test_a_database_that_is_empty_proves_nothing(site):
    with site.source.connect() as connection:
        connection.execute("CREATE DATABASE hollow TEMPLATE template0")
    try:
        config = site.config(database__name="hollow", places=[site.local_place()])
        dump.run_dump(config)
        result = verify.verify(config)
        assert result["verdict"] == "failed" and result["failed_step"] == "size"
        assert statuses(result)["protect.restore.integrity"] == "not_run"
    finally:
        with site.source.connect() as connection:
            connection.execute("DROP DATABASE hollow")
