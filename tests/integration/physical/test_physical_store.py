"""A store that is slow, that breaks off in the middle or that is full: named, nothing half counts, the other repository has its backup."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ansible.module_utils.greenroom.backup.errors import BackupError
from ansible.module_utils.greenroom.backup.pgbackrest import PgBackRest
from physical_site import Site, Store

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from backup_site import Proxy


def beside(site: Site, relay: Proxy) -> PgBackRest:
    """pgBackRest that reaches the store through the relay only."""
    return PgBackRest(site.stanza, site.configure(site.folder / "relayed.conf", repo1_storage_port=relay.port, io_timeout=1))


def test_a_store_that_does_not_answer_is_named_and_the_other_repository_gets_its_backup(site):
    before = PgBackRest(site.stanza, site.config).backups(1)
    relay = Proxy(site.store.port, None)
    try:
        slow = beside(site, relay)
        with pytest.raises(BackupError, match=r"did not answer|cannot be reached|timeout"):
            slow.backup(1, "incr")
        assert relay.seen.is_set()
    finally:
        relay.close()
    plain = PgBackRest(site.stanza, site.config)
    assert plain.backup(2, "incr")["error"] is False
    assert plain.backups(1) == before


def test_a_store_that_breaks_off_in_the_middle_leaves_no_backup_and_the_next_one_works(site):
    plain = PgBackRest(site.stanza, site.config)
    before = [one["label"] for one in plain.backups(1)]
    relay = Proxy(site.store.port, 300_000)
    try:
        with pytest.raises(BackupError, match="pgbackrest "):
            beside(site, relay).backup(1, "full")
    finally:
        relay.close()
    assert [one["label"] for one in plain.backups(1)] == before
    assert plain.backup(1, "full")["error"] is False


def test_a_full_store_is_an_error_and_nothing_half_is_listed(site, folders, authority, ca_file):
    folder = folders("full")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k,mode=0755", "tmpfs", str(folder)], check=True)
    cert, key = authority.issue("full-store", "localhost", "127.0.0.1")
    store = Store(folder, cert, key)
    try:
        store.start()
        config = site.configure(site.folder / "full.conf", repo1_storage_port=store.port, io_timeout=1, repo1_path="/full")
        full = PgBackRest(site.stanza, config)
        full.run("stanza-create")
        with pytest.raises(BackupError, match="pgbackrest backup failed"):
            full.backup(1, "full")
        assert full.backups(1) == []
    finally:
        store.stop()
        subprocess.run(["umount", "-l", str(folder)], check=True)
    assert PgBackRest(site.stanza, site.config).backup(2, "incr")["error"] is False
