"""Bad backups, bad places and bad hosts: each fault is put in for real, and the walk stops at the step that is there for it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.module_utils.greenroom.backup import comparison, dump, fingerprint, manifest, negative_control, restore, seal, verify
from ansible.module_utils.greenroom.backup.errors import BackupError, NoSpaceError, ScratchError
from ansible.module_utils.greenroom.backup.scratch_cluster import ScratchCluster, assert_scratch

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode puts no folder of tests on the path
from backup_fixtures import *  # noqa: F403 - fixtures
from backup_site import DATABASE, S3, Proxy, free_port, kill, wait_until

STEPS = {step: evidence for step, (evidence, _expected) in verify.STEPS.items()}


def local_file(site, backup, name=manifest.DATA) -> Path:
    return site.local / backup["id"] / name


def both(site, backup, change):
    """Change the stored file in both places: `change(bytes) -> bytes`. The manifest stays."""
    content = change(local_file(site, backup).read_bytes())
    local_file(site, backup).write_bytes(content)
    site.places()[0].put_bytes(content, f"{backup['id']}/{manifest.DATA}")


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def no_role(inside, _document):
    lines = (inside / "globals.sql").read_text().splitlines()
    (inside / "globals.sql").write_text("\n".join(line for line in lines if "shop_reader" not in line) + "\n")


def other_locale(inside, _document):
    toc = (inside / "dump" / "toc.dat").read_bytes()
    assert b"C.UTF-8" in toc
    (inside / "dump" / "toc.dat").write_bytes(toc.replace(b"C.UTF-8", b"C.UTF-9"))


def cut_table(inside, _document):
    file = max((inside / "dump").glob("*.dat"), key=lambda path: path.stat().st_size if path.name != "toc.dat" else 0)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def lost_table(inside, _document):
    max((inside / "dump").glob("[0-9]*.dat"), key=lambda path: path.stat().st_size).unlink()


def changed_row(inside, _document):
    for file in (inside / "dump").glob("[0-9]*.dat"):
        content = file.read_bytes()
        if b"event 50\n" in content:
            file.write_bytes(content.replace(b"event 50\n", b"event 05\n"))
            return
    raise AssertionError("the row is not there")


def other_fingerprint(inside, _document):
    found = json.loads((inside / "fingerprint.json").read_text())
    found["rows"] += 1
    (inside / "fingerprint.json").write_text(json.dumps(found))


def put(**changes):
    """A change of the manifest: section__key=value."""

    def change(document):
        for dotted, value in changes.items():
            section, key = dotted.split("__")
            document[section][key] = value

    return change


def top(**changes):
    return lambda document: document.update(changes)


# name -> (what is done to a good backup, the step that must stop the walk, words of the reason)
BAD_FILES = {
    "empty": (lambda site, backup: both(site, backup, lambda content: b""), "fetch", "0 bytes"),
    "truncated": (lambda site, backup: both(site, backup, lambda content: content[:-100]), "fetch", "cut, damaged or exchanged"),
    "one bit flipped": (lambda site, backup: both(site, backup, flipped), "fetch", "cut, damaged or exchanged"),
    "bit flipped in the store only": (
        lambda site, backup: site.places()[0].put_bytes(flipped(local_file(site, backup).read_bytes()), f"{backup['id']}/{manifest.DATA}"),
        "fetch",
        "store: ",
    ),
    "data missing in one place": (lambda site, backup: local_file(site, backup).unlink(), "fetch", "is not there"),
    "backup missing in one place": (lambda site, backup: shutil.rmtree(site.local / backup["id"]), "select", "local: "),
    "manifest edited": (
        lambda site, backup: local_file(site, backup, manifest.MANIFEST).write_text(
            local_file(site, backup, manifest.MANIFEST).read_text().replace('"rows": ', '"rows": 1')
        ),
        "select",
        "signature does not fit",
    ),
    "manifest cut": (
        lambda site, backup: local_file(site, backup, manifest.MANIFEST).write_bytes(
            local_file(site, backup, manifest.MANIFEST).read_bytes()[:200]
        ),
        "select",
        "signature does not fit",
    ),
    "signature missing": (lambda site, backup: local_file(site, backup, manifest.SIGNATURE).unlink(), "select", "no signature"),
    "tampered with, re-hashed, signed by somebody else": (
        lambda site, backup: site.remake(backup["id"], changed_row, signing_key=other_signer(site)),
        "select",
        "signature does not fit",
    ),
    "stale": (
        lambda site, backup: site.remake(backup["id"], document=top(snapshot_time="2026-01-01T00:00:00+00:00")),
        "age",
        "the limit is",
    ),
    "from the future": (
        lambda site, backup: site.remake(backup["id"], document=top(snapshot_time="2099-01-01T00:00:00+00:00")),
        "age",
        "in the future",
    ),
    "not complete": (lambda site, backup: site.remake(backup["id"], document=top(status="partial")), "select", "not complete"),
    "of another service": (lambda site, backup: site.remake(backup["id"], document=top(service="other")), "select", "of service other"),
    "of another database": (
        lambda site, backup: site.remake(backup["id"], document=put(source__database="other")),
        "select",
        "of database other",
    ),
    "of a newer server version": (
        lambda site, backup: site.remake(backup["id"], document=put(source__server_version="99.1", source__server_version_num=990001)),
        "restore",
        "postgresql-99",
    ),
    "without rows": (lambda site, backup: site.remake(backup["id"], document=put(contents__rows=0)), "size", "proves nothing"),
    "sealed for another key": (
        lambda site, backup: site.remake(backup["id"], recipients=[seal.recipient_of(site.key_once("other"))]),
        "open",
        "sealed for another key",
    ),
    "fingerprint of another dump": (lambda site, backup: site.remake(backup["id"], other_fingerprint), "open", "not the one"),
    "role missing": (lambda site, backup: site.remake(backup["id"], no_role), "restore", "shop_reader"),
    "locale missing": (lambda site, backup: site.remake(backup["id"], other_locale), "restore", "C.UTF-9"),
    "extension missing": (
        lambda site, backup: site.remake(backup["id"], document=put(source__extensions={"postgis": "3.4.0"})),
        "restore",
        "postgis 3.4.0",
    ),
    "a table's file cut": (lambda site, backup: site.remake(backup["id"], cut_table), "restore", "pg_restore"),
    "a table's file lost": (lambda site, backup: site.remake(backup["id"], lost_table), "restore", "pg_restore"),
    "a row changed inside, all re-hashed and signed": (
        lambda site, backup: site.remake(backup["id"], changed_row),
        "compare",
        "table public.events_2025",
    ),
}


def other_signer(site) -> Path:
    path = site.folder / "other_signer"
    if not path.exists():
        site.run("ssh-keygen", "-t", "ed25519", "-N", "", "-q", "-f", str(path))
    return path


def red(result, step, words=""):
    """The walk stopped at this step, for this reason; what comes after it was not run."""
    assert (result["verdict"], result["failed_step"]) == ("failed", step), result["statement"]
    by_id = {one["id"]: one for one in result["evidence"]}
    assert words in by_id[STEPS[step]]["reason"], by_id[STEPS[step]]["reason"]
    names = list(STEPS)
    assert all(by_id[STEPS[name]]["status"] == "not_run" for name in names[names.index(step) + 1 :])
    assert "not_run" not in {by_id[STEPS[name]]["status"] for name in names[: names.index(step)]}
    return by_id[STEPS[step]]["reason"]


@pytest.mark.parametrize("fault", BAD_FILES)
def test_a_bad_backup_is_refused_at_its_step(fault, site, backup):
    damage, step, words = BAD_FILES[fault]
    damage(site, backup)
    red(verify.verify(site.config()), step, words)


def test_how_many_of_them_each_step_catches():
    counts = {}
    for _damage, step, _words in BAD_FILES.values():
        counts[step] = counts.get(step, 0) + 1
    assert counts == {"select": 8, "age": 2, "fetch": 5, "size": 1, "open": 2, "restore": 6, "compare": 1} and sum(counts.values()) == 25


def test_the_manifest_of_one_backup_over_the_data_of_another_is_refused(site, backup):
    second = dump.run_dump(site.config())
    for place in site.places():
        for name in (manifest.MANIFEST, manifest.SIGNATURE):
            place.put_bytes(place.read(f"{backup['id']}/{name}"), f"{second['id']}/{name}")
    assert "holds the manifest of" in red(verify.verify(site.config()), "select")
    with pytest.raises(BackupError, match="is there already"):
        site.places()[1].put(site.identity, f"{second['id']}/{manifest.DATA}", {"size": 1, "sha256": "x"})


def test_a_backup_of_another_cluster_is_refused_where_the_cluster_is_known(site, backup):
    document = site.document()
    document["database"]["system_identifier"] = "1"
    result = verify.verify(site.config(database=document["database"]))
    assert f"of cluster {site.source.system_identifier}, not 1" in red(result, "select")


def test_keys_that_are_lost_or_wrong(site, backup, tmp_path):
    assert "escrow" in red(verify.verify(site.config(seal__identity_file=str(tmp_path / "none"))), "open")
    (tmp_path / "empty").write_text("")
    assert "no private key" in red(verify.verify(site.config(seal__identity_file=str(tmp_path / "empty"))), "open")
    wrong = site.key_once("other")
    assert "sealed for the keys" in red(verify.verify(site.config(seal__identity_file=str(wrong))), "open")
    probe = site.probes()[0]
    (tmp_path / "wrong").write_text("not this one\n")
    text = red(verify.verify(site.config(), key_probes=[{**probe, "key_file": str(tmp_path / "wrong")}]), "keys", "does not open")
    assert "not this one" not in text
    red(verify.verify(site.config(), key_probes=[{**probe, "key_file": str(tmp_path / "none")}]), "keys", "escrow")
    red(verify.verify(site.config(), key_probes=[{**probe, "table": "public.customers", "column": "nothing"}]), "keys")


def test_a_verifier_that_sees_nothing_is_called_broken(site, backup, monkeypatch):
    monkeypatch.setattr(fingerprint, "differences", lambda *_args, **_more: [])
    result = verify.verify(site.config())
    assert result["verdict"] == "verifier broken" and "a row of" in result["statement"]
    monkeypatch.undo()
    monkeypatch.setattr(negative_control, "sha256_file", lambda _path: backup["sha256"])
    assert "the hash did not see" in verify.verify(site.config())["statement"]
    monkeypatch.undo()
    monkeypatch.setattr(seal, "opens", lambda *_args: None)
    assert "age did not see" in verify.verify(site.config())["statement"]
    monkeypatch.undo()
    monkeypatch.setattr(comparison, "_mappings", lambda *_args: [])
    assert "did not see a new right" in verify.verify(site.config())["statement"]


# --- targets ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(site, backup):
    """(folder with the opened backup, its manifest)"""
    inside = site.folder / "opened"
    shutil.rmtree(inside, ignore_errors=True)
    inside.mkdir()
    seal.unpack(local_file(site, backup), inside, site.identity)
    return inside, manifest.parse(local_file(site, backup, manifest.MANIFEST).read_bytes())


def test_the_live_server_is_never_a_target(site, opened, postgres):
    inside, document = opened

    class Live:
        """What looks like a scratch cluster and leads to a live server."""

        bin_dir, folder, user = site.source.bin_dir, site.folder, None

        def dsn(self, dbname="postgres"):
            return {
                "host": str(postgres.folder),
                "port": postgres.port,
                "user": "postgres",
                "password": postgres.password,
                "dbname": dbname,
            }

        def connect(self, dbname="postgres"):
            import psycopg

            return psycopg.connect(**self.dsn(dbname), autocommit=True)

    databases = postgres.sql("SELECT count(*) FROM pg_database")
    with pytest.raises(ScratchError, match="no scratch cluster: cluster_name") as caught:
        restore.restore(inside, document, Live())
    assert "listens on" in str(caught.value) and "GREENROOM_SCRATCH" in str(caught.value)
    assert postgres.sql("SELECT count(*) FROM pg_database") == databases
    # The source of these tests is itself a scratch cluster: it is refused as the source.
    with pytest.raises(ScratchError, match="the cluster that the backup was taken from"):
        restore.restore(inside, document, site.source)


def test_a_target_that_is_not_empty_is_refused(site, opened):
    inside, document = opened
    with ScratchCluster(site.folder / "full") as cluster:
        with cluster.connect() as connection:
            connection.execute("CREATE TABLE mine (a int)")
        with pytest.raises(ScratchError, match="not empty: it has 1 tables"):
            restore.restore(inside, document, cluster)
        with cluster.connect() as connection:
            connection.execute("DROP TABLE mine")
            connection.execute("CREATE DATABASE other")
        with pytest.raises(ScratchError, match="databases other"):
            restore.restore(inside, document, cluster)


def test_each_mark_of_a_scratch_cluster_is_needed(site, tmp_path_factory):
    with ScratchCluster(site.folder / "marks") as cluster, cluster.connect() as connection:
        assert_scratch(connection)
        marker = cluster.data_dir / "GREENROOM_SCRATCH"
        content = marker.read_text()
        marker.write_text(content.replace("/marks/", "/elsewhere/"))
        with pytest.raises(ScratchError, match="names this folder"):
            assert_scratch(connection)
        marker.unlink()
        with pytest.raises(ScratchError, match="no GREENROOM_SCRATCH"):
            assert_scratch(connection)
        with pytest.raises(ScratchError, match="only a data folder below"):
            ScratchCluster(site.folder / "adopter").adopt(cluster.data_dir)
        with pytest.raises(ScratchError, match=r"has a postmaster\.pid"):
            ScratchCluster(site.folder / "marks").adopt(cluster.data_dir)
        marker.write_text(content)
    with pytest.raises(ScratchError, match=r"locale 'xx_XX\.UTF-8' is missing"):
        ScratchCluster(site.folder / "locale", locale="xx_XX.UTF-8").start()


def test_a_physical_copy_of_a_scratch_cluster_is_adopted_with_its_own_marker(site):
    with ScratchCluster(site.folder / "first", settings={"fsync": "on"}) as first:
        first.connect().execute("ALTER SYSTEM SET archive_mode = on")
        target = site.folder / "second" / "data"
        target.parent.mkdir()
        shutil.chown(target.parent, "postgres") if os.geteuid() == 0 else None
        env = {**os.environ, "PGHOST": str(first.socket_dir), "PGPORT": str(first.port), "PGUSER": "postgres"}
        user = {"user": "postgres", "cwd": "/"} if os.geteuid() == 0 else {}
        argv = [f"{first.bin_dir}/pg_basebackup", "-D", str(target), "-c", "fast", "--no-sync"]
        subprocess.run(argv, env=env, check=True, capture_output=True, timeout=60, **user)
        second = ScratchCluster(site.folder / "second").adopt(target)
        try:
            second.start()
            with second.connect() as connection:
                assert_scratch(connection)
                assert connection.execute("SHOW archive_mode").fetchone() == ("off",)
            assert second.system_identifier == first.system_identifier
        finally:
            second.remove()


# --- places -----------------------------------------------------------------------------------------------------------


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
    (small_disk / "ballast").write_bytes(b"x" * (4 << 20))
    monkeypatch.setattr(dump, "_check_space", lambda *_args: None)
    with pytest.raises(NoSpaceError):
        dump.run_dump(site.config(work_dir=str(small_disk)))
    assert list(small_disk.glob("dump-*")) == []
    place = site.local_place(name="store", path=str(small_disk))
    (small_disk / "ballast").write_bytes(b"x" * ((6 << 20) - (200 << 10)))
    partial(site, place, "is full")
    assert [path.name for path in small_disk.rglob("*.partial")] == []


def test_a_full_disk_while_restoring(site, backup, small_disk):
    result = verify.verify(site.config(), scratch_dir=small_disk)
    assert "full" in red(result, "scratch")
    assert list(small_disk.glob("scratch-*")) == []
    (small_disk / "ballast").write_bytes(b"x" * (5 << 20))
    result = verify.verify(site.config(work_dir=str(small_disk)), scratch_dir=site.work)
    assert "full" in red(result, "open")


def test_a_full_store(site, authority):
    folder = site.folder / "store-on-a-small-disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)], check=True)
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
