"""Files that survive a crash: written aside, fsynced, renamed in, directory fsynced; JSON with a checksum inside; locks.

Standard library only: this file also runs on hosts, outside Ansible (`/opt/greenroom/lib/greenroom`).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path


class DurableError(Exception):
    """A file cannot be trusted or a lock cannot be had; the text names the file and what to do."""


def canonical(value: object) -> bytes:
    """The one byte string of a JSON value: sorted keys, no blanks, UTF-8. Checksums and hashes are made over it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: object) -> str:
    """SHA-256 (64 hex digits) of a JSON value's canonical form."""
    return hashlib.sha256(canonical(value)).hexdigest()


def sha256_file(path: str | os.PathLike) -> str:
    """SHA-256 (64 hex digits) of a file's bytes, read in blocks."""
    hasher = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()


def fsync_dir(path: str | os.PathLike) -> None:
    """Make renames, creations and removals inside directory `path` survive a power cut."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: str | os.PathLike, content: bytes, mode: int = 0o644) -> None:
    """Replace `path` by `content`: a reader, or a machine that lost power, sees the old bytes or the new ones.

    Raises OSError (no space, read-only …); the old file is then untouched and nothing is left beside it. A process
    killed in the middle leaves `.<name>.<random>.part`, which the next write of the same file removes.
    """
    path = Path(path)
    prefix = f".{path.name}."
    for stale in path.parent.glob(f"{prefix}*.part"):
        # Writers of one file hold its lock, so a leftover belongs to nobody.
        stale.unlink(missing_ok=True)
    handle, part = tempfile.mkstemp(prefix=prefix, suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise
    fsync_dir(path.parent)


def seal(document: dict) -> dict:
    """A copy of `document` with its `checksum` (over everything else)."""
    body = {key: value for key, value in document.items() if key != "checksum"}
    return {**body, "checksum": digest(body)}


def sealed(document: object) -> bool:
    """Whether `document` is a dict whose `checksum` is right."""
    return isinstance(document, dict) and "checksum" in document and seal(document)["checksum"] == document["checksum"]


def read_sealed(path: str | os.PathLike, advice: str) -> dict | None:
    """The document in `path`, None if there is no such file.

    Raises DurableError when the file is cut, edited or not JSON; the text names it and ends with `advice`.
    """
    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DurableError(f"{path}: cannot be read ({error.strerror}). {advice}") from error
    try:
        document = json.loads(raw)
    except ValueError as error:
        raise DurableError(f"{path}: not complete JSON, cut or edited ({len(raw)} bytes; {error}). {advice}") from error
    if not sealed(document):
        raise DurableError(f"{path}: its checksum does not fit its content, so it was edited or cut. {advice}")
    return document


def write_sealed(path: str | os.PathLike, document: dict, mode: int = 0o644) -> dict:
    """Write `document` with its checksum, readable by people too (indented, sorted); the written document."""
    document = seal(document)
    write_atomic(path, json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n", mode)
    return document


@contextlib.contextmanager
def locked(path: str | os.PathLike, timeout_s: float = 10.0) -> Iterator[None]:
    """Hold an exclusive lock on file `path` (made if absent). It ends with the process, however that ends.

    Raises DurableError after `timeout_s` seconds.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                if time.monotonic() >= deadline:
                    raise DurableError(
                        f"{path}: locked by another process for {timeout_s:g} s. See `fuser -v {path}`, then try again."
                    ) from error
                time.sleep(0.02)
        yield
    finally:
        os.close(handle)
