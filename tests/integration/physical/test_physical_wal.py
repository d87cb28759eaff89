"""WAL in the archive of real repositories: complete, missing, claimed and not there, waiting because one repository is down."""

from __future__ import annotations

import shutil
import time

import pytest
from ansible.module_utils.greenroom.backup import wal
from ansible.module_utils.greenroom.backup.errors import BackupError
from ansible.module_utils.greenroom.backup.pgbackrest import PgBackRest
from physical_site import USER, until

SEGMENT = 16 << 20


def look(site, repo, backup=None, **more):
    """(observed, problems) of one repository now."""
    pgbackrest = PgBackRest(site.stanza, site.config)
    with site.connect("postgres") as connection:
        return wal.continuity(pgbackrest, repo, backup or pgbackrest.backups(repo)[-1], wal.server_state(connection), **more)


@pytest.mark.parametrize("repo", [1, 2])
def test_a_complete_archive_is_green(site, repo):
    for _ in range(3):
        site.switch()
    observed, problems = look(site, repo, site.first[repo])
    assert problems == []
    assert observed["segments"] >= 4
    assert observed["missing"] == []


def test_a_missing_segment_is_red_in_its_repository_only(site):
    for _ in range(3):
        site.switch()
    files = site.archived_files(2)
    name = sorted(files)[-2]
    aside = site.folder / name
    shutil.move(files[name], aside)
    try:
        observed, problems = look(site, 2, site.first[2])
        assert observed["missing"] == [name]
        assert len(problems) == 1
        assert name in problems[0]
        assert "repository 2" in problems[0]
        assert "full backup now" in problems[0]
        assert look(site, 1, site.first[1])[1] == []
    finally:
        shutil.move(aside, files[name])
    assert look(site, 2, site.first[2])[1] == []


def test_an_archive_command_that_lies_is_seen_although_the_archiver_looks_healthy(new_site):
    site = new_site()
    pgbackrest = PgBackRest(site.stanza, site.config)
    pgbackrest.backup(2, "full")
    site.sql("ALTER SYSTEM SET archive_command = '/bin/true'", "SELECT pg_reload_conf()")
    until(lambda: site.sql("SHOW archive_command") == [("/bin/true",)], "the reload")
    claimed = [site.switch() for _ in range(3)]
    assert site.sql("SELECT failed_count FROM pg_stat_archiver") == [(0,)]  # this is what a lie looks like
    observed, problems = look(site, 2)
    assert set(claimed[1:]) <= set(observed["missing"])  # the archiver may take the first before it reads its settings again
    assert "archive_command lies ('/bin/true')" in problems[0]
    with site.connect("postgres") as connection, pytest.raises(BackupError, match="Nothing destructive may follow") as caught:
        wal.restore_point(connection, wal.point_name("lied"), pgbackrest, (2,), timeout_s=2)
    assert "not in the archive of repository 2" in str(caught.value)


def test_statistics_that_were_reset_do_not_hide_a_lie(new_site):
    """Without pg_stat_archiver's word only the server's position tells."""
    site = new_site()
    PgBackRest(site.stanza, site.config).backup(2, "full")
    site.sql("ALTER SYSTEM SET archive_command = '/bin/true'", "SELECT pg_reload_conf()")
    until(lambda: site.sql("SHOW archive_command") == [("/bin/true",)], "the reload")
    for _ in range(3):
        site.switch()
    site.sql("SELECT pg_stat_reset_shared('archiver')", "SELECT pg_create_restore_point('moved')")
    until(lambda: site.sql("SELECT last_archived_wal FROM pg_stat_archiver") == [(None,)], "the reset")
    observed, problems = look(site, 2)
    assert observed["behind"] >= 1
    assert "are not in the archive" in problems[0]


def test_archiving_switched_off_is_red(new_site):
    site = new_site()
    PgBackRest(site.stanza, site.config).backup(2, "full")
    site.sql("ALTER SYSTEM SET archive_mode = off")
    site.stop()
    site.start()
    assert "archive_mode is off" in look(site, 2)[1][0]


@pytest.mark.parametrize("repos", [(1,), (1, 2)])
def test_a_restore_point_is_confirmed_when_it_reads_back(site, pgbackrest, repos):
    name = wal.point_name("before rollback")
    with site.connect("postgres") as connection:
        point = wal.restore_point(connection, name, pgbackrest, repos)
    assert point["repos"] == list(repos)
    for repo in repos:
        assert name.encode() in wal.read_archived(pgbackrest, repo, point["segment"])


def test_one_timeline_path_is_followed_over_a_promotion(new_site):
    site = new_site()
    pgbackrest = PgBackRest(site.stanza, site.config)
    first = pgbackrest.backup(2, "full")
    site.switch()
    site.stop()
    signal_file = site.data / "recovery.signal"
    signal_file.touch()
    if USER:
        shutil.chown(signal_file, USER)
    with open(site.data / "postgresql.conf", "a") as conf:
        conf.write(f"\nrestore_command='pgbackrest --config={site.config} --stanza={site.stanza} archive-get %f %p'\n")
    site.start()
    until(lambda: site.sql("SELECT NOT pg_is_in_recovery()") == [(True,)], "the promotion")
    site.sql("CHECKPOINT")
    last = site.switch()
    assert last.startswith("00000002")
    observed, problems = look(site, 2, first)
    assert problems == []
    assert observed["last"] == last
    (base,) = (site.repo2 / "archive" / site.stanza).glob("15-1")
    (base / "00000002.history").rename(site.folder / "history")
    assert "no one timeline path" in look(site, 2, first)[1][0]


def test_a_repository_that_is_down_makes_pg_wal_grow_and_both_are_complete_afterwards(new_site, store, record_property):
    """archive-push fails although the other repository got the segment: nothing is recycled until both have it."""
    site = new_site()
    pgbackrest = PgBackRest(site.stanza, site.config)
    backups = {repo: pgbackrest.backup(repo, "full") for repo in (1, 2)}
    site.configure(io_timeout=1)
    before = site.sql("SELECT sum(size)::bigint FROM pg_ls_waldir()")[0][0]
    store.stop()
    try:
        for number in range(30):
            site.sql(f"SELECT pg_create_restore_point('down{number}')", "SELECT pg_switch_wal()")
        with site.connect("postgres") as connection:
            until(lambda: wal.server_state(connection)["failed_count"] >= 1, "archive-push to fail", 90)
            state = wal.server_state(connection)
        assert state["waiting"] >= 29
        grown = state["pg_wal_bytes"] - before
        assert grown >= 20 * SEGMENT
        record_property("pg_wal_bytes_per_waiting_segment", state["pg_wal_bytes"] / state["waiting"])
        other = set(site.archived_files(2))
        assert state["last_failed"] in other, "repository 2 was said to get what repository 1 could not"
        observed, problems = look(site, 2, backups[2])
        assert observed["behind"] > 0
        assert f"archive_command failed last on {state['last_failed']}" in problems[0]
    finally:
        store.start()
    until(lambda: site.sql("SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'") == [(0,)], "the archiver", 120)
    for repo in (1, 2):
        assert look(site, repo, backups[repo])[1] == []


def test_prepared_transactions_and_slots_are_reported(site):
    site.sql("SELECT pg_create_physical_replication_slot('forgotten', true)")
    with site.connect("app") as connection:
        connection.execute("BEGIN")
        connection.execute("INSERT INTO things (name) VALUES ('prepared')")
        connection.execute("PREPARE TRANSACTION 'left over'")
    try:
        with site.connect("postgres") as connection:
            state = wal.server_state(connection)
        assert state["prepared"] == ["left over"]
        assert state["slots"] == [{"name": "forgotten", "active": False, "wal_status": "reserved"}]
    finally:
        site.sql("ROLLBACK PREPARED 'left over'", dbname="app")
        site.sql("SELECT pg_drop_replication_slot('forgotten')")


def test_the_rpo_of_now_is_the_age_of_the_newest_archived_heartbeat(site, pgbackrest):
    with site.connect("postgres") as connection:
        for _ in range(3):
            wal.beat(connection)
        site.switch()
        began = time.monotonic()
        observed, problems = look(site, 2, site.first[2])
        assert problems == []
        fresh = wal.rpo_now(connection, observed, SEGMENT)
        assert 0 <= fresh < 10
        time.sleep(1.5)
        wal.beat(connection)  # in no archived segment: it does not help
        later = wal.rpo_now(connection, look(site, 2, site.first[2])[0], SEGMENT)
        assert later >= fresh + 1.4
        assert later <= fresh + (time.monotonic() - began) + 1
        assert wal.rpo_now(connection, {"newest": None, "missing": []}, SEGMENT) is None
