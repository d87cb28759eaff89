"""The corpus of bad backups: each fault is put in for real, and the walk stops at the step that is there for it."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from ansible.module_utils.greenroom.backup import comparison, dump, fingerprint, manifest, negative_control, seal, verify
from ansible.module_utils.greenroom.backup.errors import BackupError

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode puts no folder of tests on the path
from backup_fixtures import *  # noqa: F403 - fixtures
from backup_site import local_file, red


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


def largest(inside) -> Path:
    """The file of the table `readings`: two columns."""
    return max((inside / "dump").glob("[0-9]*.dat"), key=lambda path: path.stat().st_size)


def cut_in_a_row(inside, _document):
    content = largest(inside).read_bytes()
    largest(inside).write_bytes(content[: content.index(b"\t", len(content) // 2)])


def cut_after_a_row(inside, _document):
    content = largest(inside).read_bytes()
    largest(inside).write_bytes(content[: content.index(b"\n", len(content) // 2) + 1])


def lost_table(inside, _document):
    largest(inside).unlink()


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
    "a table's file cut in a row": (lambda site, backup: site.remake(backup["id"], cut_in_a_row), "restore", "missing data for column"),
    "a table's file cut after a row": (lambda site, backup: site.remake(backup["id"], cut_after_a_row), "compare", "public.readings"),
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


@pytest.mark.parametrize("fault", BAD_FILES)
def test_a_bad_backup_is_refused_at_its_step(fault, site, backup):
    damage, step, words = BAD_FILES[fault]
    damage(site, backup)
    red(verify.verify(site.config()), step, words)


def test_how_many_of_them_each_step_catches():
    counts = {}
    for _damage, step, _words in BAD_FILES.values():
        counts[step] = counts.get(step, 0) + 1
    assert counts == {"select": 8, "age": 2, "fetch": 5, "size": 1, "open": 2, "restore": 6, "compare": 2} and sum(counts.values()) == 26


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
