"""Many small files, links and folders in one go: what already is as wanted is not touched, everything else is renamed in. Root only."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from . import env_file
from .durable import write_atomic

KINDS = ("content", "env", "link", "directory")


class FileSetError(Exception):
    """An entry cannot be understood or carried out; the text names its path."""


def wanted_bytes(entry: Mapping) -> bytes:
    """The content of a file entry. Raises FileSetError for an environment that the format cannot carry; values are not shown."""
    if entry.get("env") is None:
        return entry["content"].encode()
    try:
        return env_file.render(entry["env"], entry.get("header")).encode()
    except ValueError as error:
        raise FileSetError(f"{entry['path']}: {error}") from error


def ensure(entry: Mapping, dry: bool = False) -> tuple[str, str] | None:
    """Make one entry so; (text before, text after) if it changed or would, None if it was so.

    entry: {path, and one of content (str), env ({key: value}, with header), link (target), directory (True); mode ("0644"), owner, group}.
    Texts are empty for what is no file. Raises FileSetError, OSError.
    """
    path = Path(entry["path"])
    kind = kind_of(entry)
    if kind == "link":
        before = os.readlink(path) if path.is_symlink() else ""
        if before == entry["link"]:
            return None
        if os.path.lexists(path) and not path.is_symlink():
            raise FileSetError(f"{path}: is no link, so nothing is linked over it. Move it away and run again.")
        if not dry:
            aside = path.with_name(f".{path.name}.part")
            aside.unlink(missing_ok=True)
            aside.symlink_to(entry["link"])
            os.replace(aside, path)
        return before, entry["link"]
    mode = int(entry.get("mode") or ("0755" if kind == "directory" else "0644"), 8)
    owner = pwd.getpwnam(entry.get("owner") or "root").pw_uid
    group = grp.getgrnam(entry.get("group") or "root").gr_gid
    try:
        about = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        about = None
    wanted = stat.S_ISDIR if kind == "directory" else stat.S_ISREG
    if about and not wanted(about.st_mode):
        raise FileSetError(
            f"{path}: is no {'directory' if kind == 'directory' else 'file'}. Move it away and run again."
        )
    right = bool(about) and (stat.S_IMODE(about.st_mode), about.st_uid, about.st_gid) == (mode, owner, group)
    if kind == "directory":
        if right:
            return None
        if not dry:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.chown(path, owner, group)
            path.chmod(mode)
        return "", ""
    after = wanted_bytes(entry)
    before = path.read_bytes() if about else b""
    if right and before == after:
        return None
    if not dry:
        if not about or before != after:
            write_atomic(path, after, mode)
        os.chown(path, owner, group)
        path.chmod(mode)
    return before.decode("utf-8", "replace"), after.decode()


def kind_of(entry: Mapping) -> str:
    """Which of KINDS an entry is. Raises FileSetError unless it is exactly one of them, with an absolute path."""
    given = [kind for kind in KINDS if entry.get(kind) not in (None, False)]
    if len(given) != 1 or not str(entry.get("path", "")).startswith("/"):
        raise FileSetError(
            f"{entry.get('path')!r}: an entry has an absolute path and exactly one of {', '.join(KINDS)}"
        )
    return given[0]


def ensure_all(entries: Iterable[Mapping], dry: bool = False) -> list[tuple[str, str, str]]:
    """Make all entries so, folders in the order given; [(path, before, after)] of those that changed. Raises FileSetError, OSError.

    Every entry is understood before the first one is carried out.
    """
    entries = list(entries)
    for entry in entries:
        if kind_of(entry) in ("content", "env"):
            wanted_bytes(entry)
    changes = [(entry["path"], ensure(entry, dry)) for entry in entries]
    return [(path, *change) for path, change in changes if change]
