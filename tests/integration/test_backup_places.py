"""Places and hosts that fail while a backup is made or proved: the cause is named, and nothing half done counts as a backup."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.module_utils.greenroom.backup import dump, manifest, verify
from ansible.module_utils.greenroom.backup.errors import BackupError, NoSpaceError

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode puts no folder of tests on the path
from backup_fixtures import *  # noqa: F403 - fixtures
from backup_site import DATABASE, S3, Proxy, free_port, kill, red, wait_until


def partial(site, place, words):
    """A backup with this first place: it fails with these words, and the other place has a whole backup all the same."""
    config = site.config(places=[place, site.local_place()])
    with pytest.raises(BackupError) as caught:
        dump.run_dump(config)
    result = caught.value.result
    assert words in str(caught.value), str(caught.value)
    assert not result["places"]["store"]["ok"] and result["places"]["local"]["ok"]
    assert manifest.ids(site.places()[0].keys()) == [], "a half upload counts as a backup"
    assert "retention" not in result
    only_local = site.config(places=[site.local_place()])
    assert verify.verify(only_local)["verdict"] == "verified"
    return str(caught.value)


def test_a_store_that_is_down(site):
    partial(site, site.s3_place(endpoint=f"https://127.0.0.1:{free_port()}"), "cannot be reached")


def test_a_store_that_refuses_the_key(site):
    credentials = str(site.credentials("wrong", "another-secret-of-nobody"))
    text = partial(site, site.s3_place(credentials_file=credentials), "refuses the key")
    assert "another-secret" not in text


def test_a_store_without_the_bucket_and_one_whose_certificate_nobody_signed(site):
    partial(site, site.s3_place(bucket="nothing"), "there is no bucket nothing")
    partial(site, site.s3_place(ca_file=None), "certificate")


def test_a_store_that_does_not_answer(site):
    proxy = Proxy(site.s3.port, None)
    try:
        partial(site, site.s3_place(endpoint=f"https://127.0.0.1:{proxy.port}", timeout_s=1), "did not answer")
    finally:
        proxy.close()


def test_an_upload_that_is_cut(site):
    proxy = Proxy(site.s3.port, 60_000)
    try:
        partial(site, site.s3_place(endpoint=f"https://127.0.0.1:{proxy.port}"), "store: ")
    finally:
        proxy.close()


@pytest.mark.timeout(120)
def test_a_backup_that_is_killed_during_its_upload(site):
    proxy = Proxy(site.s3.port, None)
    try:
        place = site.s3_place(endpoint=f"https://127.0.0.1:{proxy.port}", timeout_s=60)
        running = site.command("dump", places=[place, site.local_place()])
        assert proxy.seen.wait(30), "the upload did not start"
        kill(running)
    finally:
        proxy.close()
    assert all(manifest.ids(place.keys()) == [] for place in site.places())
    made = dump.run_dump(site.config())
    assert verify.verify(site.config())["id"] == made["id"]


@pytest.fixture
def small_disk(site):
    """A file system of 6 MB."""
    folder = site.folder / "small"
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], check=True)
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_an_error_of_its_own(site, small_disk, monkeypatch):
    with pytest.raises(NoSpaceError, match="are free, a backup needs about"):
        dump.run_dump(site.config(work_dir=str(small_disk)))
    # The estimate was wrong: the disk becomes full while pg_dump writes.
    leave(small_disk, 100 << 10)
    monkeypatch.setattr(dump, "_check_space", lambda *_args: None)
    with pytest.raises(NoSpaceError):
        dump.run_dump(site.config(work_dir=str(small_disk)))
    assert list(small_disk.glob("dump-*")) == []
    leave(small_disk, 16 << 10)
    partial(site, site.local_place(name="store", path=str(small_disk)), "is full")
    assert [path.name for path in small_disk.rglob("*.partial")] == []


def leave(folder: Path, size: int) -> None:
    """Fill a file system until `size` bytes are free."""
    (folder / "ballast").unlink(missing_ok=True)
    (folder / "ballast").write_bytes(b"x" * (shutil.disk_usage(folder).free - size))


def test_a_full_disk_while_restoring(site, backup, small_disk):
    result = verify.verify(site.config(), scratch_dir=small_disk)
    assert "full" in red(result, "scratch")
    assert list(small_disk.glob("scratch-*")) == []
    leave(small_disk, backup["bytes"] + (64 << 10))
    result = verify.verify(site.config(work_dir=str(small_disk)), scratch_dir=site.work)
    assert "No space left on device" in red(result, "open")
    leave(small_disk, backup["bytes"] // 2)
    result = verify.verify(site.config(work_dir=str(small_disk)), scratch_dir=site.work)
    assert "the disk is full" in red(result, "fetch")


def test_a_full_store(site, authority):
    folder = site.folder / "store-on-a-small-disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(folder)], check=True)
    server = S3(folder.parent, authority, root=folder)
    try:
        server.start()
        partial(site, site.s3_place(endpoint=f"https://127.0.0.1:{server.port}"), "store: ")
    finally:
        server.stop()
        subprocess.run(["umount", str(folder)], check=True)


# --- the server -------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(120)
def test_a_pg_dump_that_dies_midway(site):
    with site.source.connect(DATABASE) as blocker, site.source.connect() as watch:
        blocker.execute("BEGIN; LOCK TABLE codes IN ACCESS EXCLUSIVE MODE")
        running = site.command("dump")
        query = "SELECT pid FROM pg_stat_activity WHERE application_name = 'greenroom-backup' AND wait_event_type = 'Lock'"
        pid = wait_until(lambda: watch.execute(query).fetchone(), "the dump at the lock")[0]
        watch.execute("SELECT pg_terminate_backend(%s)", [pid])
        blocker.execute("ROLLBACK")
        _out, err = running.communicate(timeout=60)
    assert running.returncode == 1 and "pg_dump ended with status 1" in err
    assert all(manifest.ids(place.keys()) == [] for place in site.places())


def test_a_server_that_is_gone_a_role_that_does_not_see_all_and_a_missing_key(site):
    database = site.document()["database"]
    with pytest.raises(BackupError, match="cannot be reached"):
        dump.run_dump(site.config(database={**database, "port": 1}))
    with site.source.connect() as connection:
        connection.execute("CREATE ROLE blind LOGIN; GRANT shop_owner TO blind")
    with pytest.raises(BackupError, match="blind does not see all rows"):
        dump.run_dump(site.config(database={**database, "user": "blind"}))
    with pytest.raises(BackupError, match="signing key"):
        dump.run_dump(site.config(signature__key_file="/nowhere"))
    with pytest.raises(BackupError, match="give the public half"):
        dump.run_dump(site.config(seal__recipients=["AGE-SECRET-KEY-1ABC"]))
    with pytest.raises(BackupError, match="places is empty"):
        dump.run_dump(site.config(places=[]))
    assert manifest.ids(site.places()[1].keys()) == []
