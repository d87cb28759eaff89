"""pgBackRest against a real store and a folder: what it says with status 0 although something is wrong, and each fault with its cause."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time

import psycopg
import pytest
from ansible.module_utils.greenroom.backup import expiry
from ansible.module_utils.greenroom.backup.errors import BackupError, BusyError
from ansible.module_utils.greenroom.backup.pgbackrest import PgBackRest, judge
from physical_site import SECRET, identity, until


def test_each_repository_gets_its_own_backup(site, pgbackrest):
    for repo in (1, 2):
        (backup,) = [one for one in pgbackrest.backups(repo) if one["label"] == site.first[repo]["label"]]
        assert backup["error"] is False
        assert backup["type"] == "full"
        newest, problems = judge([backup], repo, system_identifier=backup["system_identifier"], max_age_s=600, now=time.time())
        assert newest == backup
        assert problems == []
    assert site.first[1]["label"] != site.first[2]["label"]


def test_an_incremental_backup_needs_its_full_one(site, pgbackrest):
    made = pgbackrest.backup(2, "incr")
    assert made["type"] == "incr"
    assert expiry.full_of(made["label"]) == made["prior"].split("_")[0]
    assert "status: ok" in pgbackrest.verify(2)


def test_a_stale_backup_is_red(site, pgbackrest):
    newest, problems = judge(pgbackrest.backups(1), 1, system_identifier=None, max_age_s=3600, now=time.time() + 7200)
    assert newest
    assert "at most 3600 s are allowed" in problems[0]
    assert "timer" in problems[0]


def test_another_clusters_backups_do_not_count(site, pgbackrest):
    newest, problems = judge(pgbackrest.backups(1), 1, system_identifier="7000000000000000000", max_age_s=None, now=time.time())
    assert newest is None
    assert "another cluster" in problems[0]


@pytest.mark.parametrize("call", ["backups", "backup", "verify"])
def test_a_wrong_passphrase_is_named_and_never_shown(site, call):
    wrong = "Wrong-passphrase-8d1c77"
    broken = PgBackRest(site.stanza, site.configure(site.folder / "wrong.conf", cipher=wrong))
    with pytest.raises(BackupError, match=r"passphrase") as caught:
        getattr(broken, call)(2)
    assert wrong not in str(caught.value)
    assert "wrong.conf" in str(caught.value)


def test_a_wrong_key_of_the_store_is_named_and_never_shown(site):
    secret = "not-the-secret-0011223344556677"
    broken = PgBackRest(site.stanza, site.configure(site.folder / "key.conf", secret=secret))
    with pytest.raises(BackupError, match=r"The store refuses the key") as caught:
        broken.backups(1)
    assert secret not in str(caught.value)
    assert SECRET not in str(caught.value)


def test_a_wrong_stanza_is_named(site):
    with pytest.raises(BackupError, match=r"has no stanza nonesuch.*stanza-create"):
        PgBackRest("nonesuch", site.config).backups(2)


def test_an_untrusted_store_is_named(site):
    broken = PgBackRest(site.stanza, site.configure(site.folder / "ca.conf", repo1_storage_ca_file="/etc/ssl/certs/ca-certificates.crt"))
    with pytest.raises(BackupError, match="certificate is not trusted"):
        broken.backups(1)


def test_a_second_backup_at_the_same_time_is_refused(site, pgbackrest):
    first = threading.Thread(target=pgbackrest.backup, args=(2, "full"))
    first.start()
    try:
        until(lambda: any((site.folder / "lock").glob("*.lock")), "the first backup's lock")
        with pytest.raises(BusyError, match="Never remove the lock file"):
            PgBackRest(site.stanza, site.config).run("backup", "--repo=1", "--type=full", "--no-expire-auto")
    finally:
        first.join()


def test_a_killed_backup_is_never_listed_and_the_next_one_works(site, pgbackrest):
    before = [one["label"] for one in pgbackrest.backups(2)]
    argv = pgbackrest.command("backup", "--repo=2", "--type=full", "--no-expire-auto", "--start-fast")
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", start_new_session=True, **identity())
    until(lambda: any(path.suffix == ".zst" for path in (site.repo2 / "backup").rglob("*F/pg_data/**/*")), "files of the backup")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)
    assert [one["label"] for one in pgbackrest.backups(2)] == before
    assert pgbackrest.backup(2, "full")["error"] is False


def test_a_store_that_is_down_is_named_and_the_other_repository_gets_its_backup(site, store):
    pgbackrest = PgBackRest(site.stanza, site.configure(site.folder / "quick.conf", io_timeout=1))
    store.stop()
    try:
        with pytest.raises(BackupError, match="store cannot be reached"):
            pgbackrest.backups(1)
        with pytest.raises(BackupError, match="store cannot be reached"):
            pgbackrest.backup(1, "incr")
    finally:
        store.start()
    assert pgbackrest.backup(1, "incr")["error"] is False


def test_a_changed_bit_in_the_repository_is_seen_although_verify_ends_with_0(new_site):
    site = new_site()
    pgbackrest = PgBackRest(site.stanza, site.config)
    made = pgbackrest.backup(2, "full")
    file = max((site.repo2 / "backup" / site.stanza / made["label"]).rglob("*.zst"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert pgbackrest.run("verify", "--repo=2").rc == 0
    with pytest.raises(BackupError, match="is damaged"):
        pgbackrest.verify(2)


def test_a_corrupt_page_is_an_error_although_pgbackrest_ends_with_0(new_site):
    site = new_site()
    pgbackrest = PgBackRest(site.stanza, site.config)
    path, size = site.sql("CHECKPOINT", "SELECT pg_relation_filepath('notes'), pg_relation_size('notes')", dbname="app")[0]
    assert size >= 16384
    with open(site.data / path, "r+b") as stream:
        stream.seek(8192 + 4000)
        byte = stream.read(1)
        stream.seek(8192 + 4000)
        stream.write(bytes([byte[0] ^ 1]))
    with pytest.raises(BackupError, match=r"corrupt pages") as caught:
        pgbackrest.backup(2, "full")
    assert caught.value.result["rc"] == 0
    assert any(path.split("/")[-1] in file for file in caught.value.result["files"])
    assert "Do not expire older backups" in str(caught.value)
    newest, problems = judge(pgbackrest.backups(2), 2, system_identifier=None, max_age_s=None, now=time.time())
    assert newest is None
    assert any("error flag" in text for text in problems)


def test_another_server_on_the_stanza_is_refused(new_site):
    """The cluster was made anew (another system identifier): neither its WAL nor its backup get into the old one's repository."""
    site = new_site()
    pgbackrest = PgBackRest(site.stanza, site.config)
    pgbackrest.backup(2, "full")
    site.stop()
    site.data.rename(site.folder / "old")
    with pytest.raises(AssertionError, match=r"do not match|mismatch|is not|already"):
        site.create()
    with pytest.raises(BackupError, match="belongs to another cluster"):
        pgbackrest.backup(2, "full")


def test_what_expires_is_never_the_last_verified_one(new_site):
    site = new_site()
    pgbackrest = PgBackRest(site.stanza, site.config)
    labels = [pgbackrest.backup(2, "full")["label"] for _ in range(2)]
    assert expiry.apply(pgbackrest, 2, 1)["expired"] == []  # nothing was verified yet
    pgbackrest.mark_verified(2, labels[0], "2026-11-20T10:00:00Z", "ab" * 32)
    labels += [pgbackrest.backup(2, "full")["label"] for _ in range(2)]
    outcome = expiry.apply(pgbackrest, 2, 1)
    assert outcome["expired"] == labels[1:3]
    assert outcome["kept"] == [labels[0], labels[3]]
    first = min(site.archived_files(2))
    assert first <= next(one for one in pgbackrest.backups(2) if one["label"] == labels[0])["wal_start"]
    pgbackrest.mark_verified(2, labels[3], "2026-11-20T11:00:00Z")
    assert expiry.apply(pgbackrest, 2, 1)["kept"] == [labels[3]]
    newest = pgbackrest.backups(2)[0]
    assert min(site.archived_files(2)) == newest["wal_start"]  # WAL that no backup needs is gone too
    assert site.sql("SELECT 1") == [(1,)]


def test_the_server_serves_on_while_it_is_backed_up(site, pgbackrest):
    done = threading.Event()
    rows = []

    def write():
        with psycopg.connect(**site.dsn(), autocommit=True) as connection:
            while not done.is_set():
                rows.append(connection.execute("INSERT INTO things (name) VALUES ('while') RETURNING id").fetchone()[0])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert pgbackrest.backup(2, "incr")["error"] is False
    finally:
        done.set()
        writer.join()
    assert rows
