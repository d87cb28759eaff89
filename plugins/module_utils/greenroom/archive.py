"""The archive that goes to the hosts: written so that the same content gives the same bytes, checked before it is unpacked.

`manifest.json` comes first; then `requirements.txt`, `src/` (the commit's tree), `wheels/`. Standard library only.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import shutil
import tarfile
from pathlib import Path, PurePosixPath

from .durable import sha256_file
from .tree import blob_hash, tree_of
from .versions import normalize


class ArchiveError(Exception):
    """A file is no archive of ours, or not the one that was built; the text says where and what to do."""


def write_archive(path: Path, manifest: dict, texts: dict[str, bytes], files: dict[str, Path], mtime: int) -> None:
    """Write a tar.gz whose bytes depend on nothing but its content: sorted, one time, root's, no user names.

    `texts` and `files` map names in the archive to bytes and to paths (files, or symlinks kept as links). manifest.json comes first.
    """

    def entry(name: str, mode: int, size: int = 0) -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.mode, info.size, info.mtime = mode, size, mtime
        info.uid = info.gid = 0
        info.uname = info.gname = "root"
        return info

    with (
        open(path, "wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=1, mtime=mtime) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        first = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"
        archive.addfile(entry("manifest.json", 0o644, len(first)), io.BytesIO(first))
        for name in sorted({*texts, *files}, key=str.encode):
            if name in texts:
                archive.addfile(entry(name, 0o644, len(texts[name])), io.BytesIO(texts[name]))
                continue
            source = files[name]
            if source.is_symlink():
                info = entry(name, 0o777)
                info.type, info.linkname = tarfile.SYMTYPE, os.readlink(source)
                archive.addfile(info)
                continue
            with open(source, "rb") as stream:
                about = os.fstat(stream.fileno())
                archive.addfile(entry(name, 0o755 if about.st_mode & 0o100 else 0o644, about.st_size), stream)


def archive_tree(path: str | os.PathLike, algorithm: str = "sha1") -> str:
    """The git tree id of the files under `src/` in an archive: what a host will unpack, not what was meant."""
    blobs = {}
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            if not member.name.startswith("src/"):
                continue
            if member.issym():
                mode, content = "120000", os.fsencode(member.linkname)
            else:
                mode, content = "100755" if member.mode & 0o100 else "100644", archive.extractfile(member).read()
            blobs[member.name.removeprefix("src/")] = (mode, blob_hash(content, algorithm))
    return tree_of(blobs, algorithm)


def files_under(folder: Path, prefix: str) -> dict[str, Path]:
    found = {}
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        for name in (*names, *links):
            path = Path(root) / name
            found[f"{prefix}/{path.relative_to(folder)}"] = path
    return found


def requirement_lines(requirements: list[dict], wheels: list[Path]) -> bytes:
    """The requirements of the archive: each names the one wheel that is in it by that wheel's hash."""
    lines = []
    for one, wheel in zip(requirements, wheels, strict=True):
        extras = f"[{','.join(one['extras'])}]" if one["extras"] else ""
        lines.append(f"{one['name']}{extras}=={one['version']} --hash=sha256:{sha256_file(wheel)}\n")
    return "".join(lines).encode()


def locked_versions(requirements: str) -> dict[str, str]:
    """{normalized name: version} of the archive's own requirements.txt."""
    found = {}
    for line in requirements.splitlines():
        pin = re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(\S+) --hash=sha256:[0-9a-f]{64}\Z", line)
        if not pin:
            raise ArchiveError(f"requirements.txt of the archive: {line[:80]!r} is no pinned requirement")
        found[normalize(pin[1])] = pin[2]
    return found


def verify_archive(path: str | os.PathLike, sha256: str, size: int | None = None) -> None:
    """Raises ArchiveError unless the file has exactly these bytes; a cut file is named with both sizes. Nothing is unpacked before."""
    try:
        actual_size = os.path.getsize(path)
    except OSError as error:
        raise ArchiveError(f"{path}: cannot be read ({error.strerror}). Send the archive again.") from error
    if size is not None and actual_size != size:
        word = "cut" if actual_size < size else "not the one that was built"
        raise ArchiveError(f"{path}: the archive is {word}: {actual_size} of {size} bytes. Remove it and send it again.")
    actual = sha256_file(path)
    if actual != sha256:
        raise ArchiveError(
            f"{path}: the archive was altered: sha256 {actual}, expected {sha256} ({actual_size} bytes). Remove it and send it again."
        )


def read_manifest(path: str | os.PathLike) -> dict:
    """The archive's manifest, its first member. Raises ArchiveError."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            member = archive.next()
            if member is None or member.name != "manifest.json" or not member.isreg() or member.size > 1 << 24:
                raise ArchiveError(f"{path}: does not begin with a manifest; this is no Greenroom archive")
            manifest = json.loads(archive.extractfile(member).read())
    except (tarfile.TarError, EOFError, ValueError, OSError) as error:
        raise ArchiveError(f"{path}: cannot be read as an archive ({error})") from error
    if manifest.get("schema") != 1:
        raise ArchiveError(f"{path}: manifest schema {manifest.get('schema')!r}; this Greenroom knows 1")
    return manifest


def checked_members(archive: tarfile.TarFile, path: str | os.PathLike, dest: str | os.PathLike = "its folder") -> list[tarfile.TarInfo]:
    """All members of an archive, if each of them may be unpacked below `dest`. Raises ArchiveError that names the one that may not."""
    members, links = archive.getmembers(), set()
    for member in members:
        parts = PurePosixPath(member.name).parts
        if not parts or member.name.startswith("/") or ".." in parts or "\0" in member.name:
            raise ArchiveError(f"{path}: member {member.name!r} would be written outside {dest}; nothing was unpacked")
        if not (member.isreg() or member.issym()):
            raise ArchiveError(f"{path}: member {member.name!r} is neither a file nor a link; nothing was unpacked")
        if member.issym():
            inside = os.path.normpath(os.path.join(os.path.dirname(member.name), member.linkname))
            if member.linkname.startswith("/") or inside == ".." or inside.startswith("../") or parts[0] != "src":
                raise ArchiveError(f"{path}: link {member.name!r} points outside {dest}; nothing was unpacked")
            links.add(PurePosixPath(member.name))
    for member in members:
        if links & set(PurePosixPath(member.name).parents):
            raise ArchiveError(f"{path}: member {member.name!r} lies behind a link; nothing was unpacked")
    return members


def unpack(path: str | os.PathLike, dest: str | os.PathLike) -> None:
    """Unpack into the empty folder `dest`: regular files, and links that stay inside; modes 0644 and 0755, nothing else.

    Every name is judged before anything is written. (Python 3.11.2, Debian 12's, may lack tarfile's own filters.)
    Raises ArchiveError for a name or a kind of member that has no place in an archive of ours.
    """
    dest = Path(dest)
    with tarfile.open(path, "r:gz") as archive:
        members = checked_members(archive, path, dest)
        for member in members:
            place = dest / member.name
            place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            if member.issym():
                place.symlink_to(member.linkname)
                continue
            with archive.extractfile(member) as source, open(place, "xb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
                os.fchmod(out.fileno(), 0o755 if member.mode & 0o100 else 0o644)
