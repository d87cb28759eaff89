"""Programs whose every status counts, sealed files, signatures, and folders as places; with the real programs."""

import hashlib
import signal
import subprocess
import time

import pytest
from ansible.module_utils.greenroom.backup import errors, pipeline, seal, signature, store
from ansible.module_utils.greenroom.backup.errors import BackupError, NoSpaceError


def test_a_program_that_fails_dies_or_hangs_is_an_error_with_its_words():
    assert pipeline.run("echo", "x").stdout == b"x\n"
    with pytest.raises(BackupError, match=r"sh ended with status 3: no luck\. Do this"):
        pipeline.run("sh", "-c", "echo no luck >&2; exit 3", advice="Do this")
    with pytest.raises(BackupError, match="was killed by signal 9"):
        pipeline.run("sh", "-c", "kill -9 $$")
    with pytest.raises(BackupError, match="took more than"):
        pipeline.run("sleep", "30", timeout_s=0.2)
    with pytest.raises(BackupError, match="nothing-of-the-kind is not installed"):
        pipeline.run("nothing-of-the-kind")
    with pytest.raises(NoSpaceError):
        pipeline.run("sh", "-c", "head -c 10 /dev/zero > /dev/full")


def test_in_a_chain_the_first_failure_is_named_before_the_broken_pipes():
    with pytest.raises(BackupError) as caught, pipeline.Children() as children:
        first = children.start("yes", stdout=subprocess.PIPE)
        children.start("sh", "-c", "head -c 10 >/dev/null; echo reader died >&2; exit 4", stdin=first.stdout)
        first.stdout.close()
        children.finish(10)
    text = str(caught.value)
    assert text.index("sh ended with status 4: reader died") < text.index("yes")


def test_children_end_with_the_body_that_raised():
    with pytest.raises(ValueError), pipeline.Children() as children:
        process = children.start("sleep", "60")
        raise ValueError
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(BackupError, match="took more than 0"), pipeline.Children() as children:
        children.start("sleep", "60")
        children.finish(0.2)


def test_a_child_ends_with_its_parent():
    script = (
        "import subprocess, sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from greenroom.backup import pipeline\n"
        "print(subprocess.Popen(pipeline.argv_of('sleep', '60')).pid, flush=True); time.sleep(60)"
    )
    import sys
    from pathlib import Path

    library = str(Path(__file__).resolve().parents[3] / "plugins" / "module_utils")
    parent = subprocess.Popen([sys.executable, "-c", script, library], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    time.sleep(0.2)
    parent.kill()
    parent.communicate(timeout=10)
    until = time.monotonic() + 10
    while Path(f"/proc/{child}/stat").exists() and " Z " not in Path(f"/proc/{child}/stat").read_text() and time.monotonic() < until:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}/stat").exists() or " Z " in Path(f"/proc/{child}/stat").read_text()


def test_a_password_never_stands_in_arguments():
    conninfo, env = pipeline.libpq({"host": "/tmp", "dbname": "d", "password": "hidden-word", "autocommit": True})
    assert "hidden-word" not in conninfo and env["PGPASSWORD"] == "hidden-word" and "autocommit" not in conninfo


def test_a_full_disk_is_told_from_other_errors():
    assert errors.no_space(OSError(28, "x")) and errors.no_space("x: No space left on device") and not errors.no_space(OSError(2, "x"))


@pytest.fixture
def keys(tmp_path):
    for name in ("mine", "other"):
        subprocess.run(["age-keygen", "-o", str(tmp_path / name)], check=True, capture_output=True)
    return tmp_path / "mine", tmp_path / "other"


@pytest.fixture
def sealed(tmp_path, keys):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "file").write_bytes(bytes(range(256)) * 5000)
    target = tmp_path / "sealed"
    return target, seal.pack(folder, target, [seal.recipient_of(keys[0])])


def test_a_folder_comes_back_as_it_was(tmp_path, keys, sealed):
    target, measured = sealed
    assert measured["sha256"] == hashlib.sha256(target.read_bytes()).hexdigest() and measured["size"] == target.stat().st_size
    assert target.read_bytes().startswith(seal.HEADER) and target.stat().st_mode & 0o777 == 0o600
    out = tmp_path / "out"
    out.mkdir()
    seal.unpack(target, out, keys[0], measured)
    assert (out / "sub" / "file").read_bytes() == bytes(range(256)) * 5000
    assert seal.opens(target, keys[0]) is None


def test_any_damage_to_a_sealed_file_is_refused(tmp_path, keys, sealed):
    target, measured = sealed
    good = target.read_bytes()
    for number, bad in enumerate((b"", good[:50], good[:-1], good[: len(good) // 2], good + b"x", good[:-20] + b"\0" + good[-19:])):
        out = tmp_path / f"out{number}"
        out.mkdir()
        target.write_bytes(bad)
        with pytest.raises(BackupError, match=r"damaged or cut|cannot be opened"):
            seal.unpack(target, out, keys[0], measured)
        assert seal.opens(target, keys[0])


def test_other_keys_and_other_content_are_refused(tmp_path, keys, sealed):
    target, measured = sealed
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(BackupError, match="sealed for another key"):
        seal.unpack(target, out, keys[1], measured)
    with pytest.raises(BackupError, match="other content than its manifest"):
        seal.unpack(target, out, keys[0], {**measured, "plain_sha256": "0"})
    raw = tmp_path / "raw"
    raw.write_bytes(
        subprocess.run(["age", "-e", "-r", seal.recipient_of(keys[0])], input=b"no archive", capture_output=True, check=True).stdout
    )
    with pytest.raises(BackupError, match="no whole zstd archive"):
        seal.unpack(raw, out, keys[0])


def test_recipients_are_public_keys(tmp_path, keys):
    for recipients, words in (([], "no recipient"), ([keys[0].read_text().split()[-1]], "give the public half"), (["x"], "no public key")):
        with pytest.raises(BackupError, match=words) as caught:
            seal.check_recipients(recipients)
        assert "AGE-SECRET-KEY-1" not in str(caught.value)


def test_a_signature_fits_one_content_one_signer_and_one_purpose(tmp_path):
    for name in ("key", "other"):
        subprocess.run(["ssh-keygen", "-t", "ed25519", "-N", "", "-q", "-f", str(tmp_path / name)], check=True)
    allowed = tmp_path / "allowed"
    allowed.write_text(f"svc {(tmp_path / 'key.pub').read_text()}")
    signed = signature.sign(b"content", tmp_path / "key")
    options = {"allowed_signers_file": allowed, "signer": "svc"}
    signature.verify(b"content", signed, **options)
    bad = [
        (b"contenT", signed, options),
        (b"content", b"", options),
        (b"content", signature.sign(b"content", tmp_path / "other"), options),
        (b"content", signature.sign(b"content", tmp_path / "key", "another purpose"), options),
        (b"content", signed, {**options, "signer": "somebody"}),
    ]
    for content, given, changed in bad:
        with pytest.raises(BackupError, match="does not fit"):
            signature.verify(content, given, **changed)
    with pytest.raises(BackupError, match="no list of keys"):
        signature.verify(b"content", signed, allowed_signers_file=tmp_path / "none", signer="svc")
    with pytest.raises(BackupError, match="signing key"):
        signature.sign(b"content", tmp_path / "none")


def test_a_folder_as_a_place(tmp_path):
    root, source = tmp_path / "root", tmp_path / "source"
    source.write_bytes(b"abc")
    expected = {"size": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
    place = store.make({"name": "local", "type": "posix", "path": str(root)})
    with pytest.raises(BackupError, match="Is its disk mounted"):
        place.put(source, "id/file", expected)
    with pytest.raises(BackupError, match="Is its disk mounted"):
        place.keys()
    root.mkdir()
    assert place.put(source, "id/file", expected) == expected and place.keys() == ["id/file"]
    with pytest.raises(BackupError, match="never written over"):
        place.put(source, "id/file", expected)
    with pytest.raises(BackupError, match="reads back as 3 bytes"):
        place.put(source, "id/second", {**expected, "sha256": "0" * 64})
    with pytest.raises(BackupError, match="is no key"):
        place.put(source, "../file", expected)
    (root / "id" / "half.partial").write_bytes(b"x")
    assert "id/half.partial" not in place.keys() and place.clean() == ["id/half.partial"]  # noqa: SIM118 - a method of places
    assert place.fetch("id/file", tmp_path / "back") == expected and (tmp_path / "back").read_bytes() == b"abc"
    with pytest.raises(FileNotFoundError):
        place.fetch("id/none", tmp_path / "none")
    assert not (tmp_path / "none").exists() and not (tmp_path / "none.partial").exists()
    place.put_bytes(b"1", "latest.json")
    place.put_bytes(b"2", "latest.json")
    assert place.read("latest.json") == b"2"
    place.delete("id/file")
    place.delete("id/file")
    assert "id/file" not in place.keys()  # noqa: SIM118 - a method of places


def test_places_that_are_not_complete_or_whose_keys_cannot_be_read_are_refused(tmp_path):
    for place, words in (({"name": "x", "type": "ftp"}, "ftp"), ({"name": "x", "type": "s3"}, "endpoint"), ({"name": "x"}, "type")):
        with pytest.raises(BackupError, match=words):
            store.make(place)
    (tmp_path / "keys").write_text('{"key_id": "a", "secret_word": "hidden-word"}')
    place = {
        "name": "x",
        "type": "s3",
        "endpoint": "https://127.0.0.1:1",
        "bucket": "b",
        "prefix": "p",
        "credentials_file": str(tmp_path / "keys"),
    }
    with pytest.raises(BackupError, match=r"is not {key_id, secret}") as caught:
        store.make(place).keys()
    assert "hidden-word" not in str(caught.value)
