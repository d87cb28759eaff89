"""An archive is judged before anything of it is unpacked."""

import gzip
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from ansible.module_utils.greenroom.archive import ArchiveError, locked_versions, read_manifest, unpack, verify_archive
from ansible.module_utils.greenroom.durable import sha256_file


def test_a_cut_or_altered_archive_is_refused_before_anything_is_unpacked(made, put_in, tmp_path):
    raw = Path(made["archive"]).read_bytes()
    bad = tmp_path / "bad.tar.gz"
    for content, text in (
        (raw[:-1000], f"the archive is cut: {len(raw) - 1000} of {len(raw)} bytes"),
        (raw + b"x", "not the one that was built"),
        (raw[:100] + bytes([raw[100] ^ 1]) + raw[101:], r"was altered: sha256 \w+, expected"),
    ):
        bad.write_bytes(content)
        with pytest.raises(ArchiveError, match=rf"{bad}: .*{text}"):
            put_in(archive={**made, "archive": str(bad)})
    with pytest.raises(ArchiveError, match="cannot be read"):
        put_in(archive={**made, "archive": str(tmp_path / "absent")})
    with pytest.raises(ArchiveError, match="was altered"):
        verify_archive(bad, "0" * 64)
    assert not (tmp_path / "releases").exists()


def tar_of(path, *members):
    """An archive with exactly these (name, kind, content or target) members after a manifest."""
    with tarfile.open(path, "w:gz") as out:
        for name, kind, content in (("manifest.json", tarfile.REGTYPE, b'{"schema": 1}'), *members):
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(content)
            elif isinstance(content, str):
                info.linkname = content
            info.mode = 0o6777
            out.addfile(info, io.BytesIO(content) if kind == tarfile.REGTYPE else None)


@pytest.mark.parametrize(
    "members, text",
    [
        ([("../evil", tarfile.REGTYPE, b"x")], "outside"),
        ([("/etc/evil", tarfile.REGTYPE, b"x")], "outside"),
        ([("src/../../evil", tarfile.REGTYPE, b"x")], "outside"),
        ([("src/l", tarfile.SYMTYPE, "/etc/passwd")], "points outside"),
        ([("src/l", tarfile.SYMTYPE, "../../x")], "points outside"),
        ([("venv", tarfile.SYMTYPE, "src")], "points outside"),
        ([("src/l", tarfile.SYMTYPE, "d"), ("src/l/evil", tarfile.REGTYPE, b"x")], "behind a link"),
        ([("src/h", tarfile.LNKTYPE, "manifest.json")], "neither a file nor a link"),
        ([("src/d", tarfile.CHRTYPE, None)], "neither a file nor a link"),
        ([("src/f", tarfile.FIFOTYPE, None)], "neither a file nor a link"),
    ],
    ids=["up", "absolute", "through", "link out", "link up", "link at the top", "behind", "hard link", "device", "pipe"],
)
def test_an_archive_that_would_write_elsewhere_unpacks_nothing(tmp_path, members, text):
    tar_of(tmp_path / "a.tar.gz", ("src/good", tarfile.REGTYPE, b"x"), *members)
    (tmp_path / "out").mkdir()
    with pytest.raises(ArchiveError, match=text):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []
    assert not (tmp_path / "evil").exists()


def test_modes_of_an_archive_are_reduced_and_good_links_kept(tmp_path):
    tar_of(tmp_path / "a.tar.gz", ("src/run", tarfile.REGTYPE, b"x"), ("src/l", tarfile.SYMTYPE, "run"))
    (tmp_path / "out").mkdir()
    unpack(tmp_path / "a.tar.gz", tmp_path / "out")
    assert (tmp_path / "out/src/run").stat().st_mode & 0o7777 == 0o755 and os.readlink(tmp_path / "out/src/l") == "run"


def test_what_is_no_archive_of_ours(tmp_path):
    (tmp_path / "a").write_bytes(b"no")
    (tmp_path / "b").write_bytes(gzip.compress(b"no"))
    with tarfile.open(tmp_path / "c", "w:gz") as out:
        out.addfile(tarfile.TarInfo("other"), io.BytesIO())
    tar_of(tmp_path / "d")
    for name, text in (("a", "cannot be read"), ("b", "cannot be read"), ("c", "does not begin with a manifest")):
        with pytest.raises(ArchiveError, match=text):
            read_manifest(tmp_path / name)
    assert read_manifest(tmp_path / "d") == {"schema": 1}


def test_requirements_of_an_archive_are_strict():
    assert locked_versions(f"A_b[x]==1.0 --hash=sha256:{'0' * 64}\n") == {"a-b": "1.0"}
    with pytest.raises(ArchiveError, match="no pinned requirement"):
        locked_versions("a>=1\n")


def test_checksums_are_of_the_whole_file(tmp_path):
    (tmp_path / "x").write_bytes(b"a" * 3_000_000)
    assert (
        sha256_file(tmp_path / "x")
        == subprocess.run(["sha256sum", tmp_path / "x"], capture_output=True, text=True, check=True).stdout.split()[0]
    )
