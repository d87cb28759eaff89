"""The gateway's access log, read as it grows: what users of each slot got, and how long it took. One JSON object a line (docs/switch.md).

Rotation (renamed, then written anew, as logrotate and nginx do it), truncation and a cut last line are followed; a position survives a
restart of the reader. Percentiles come from raw samples. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
from array import array
from collections import deque
from pathlib import Path
from typing import NamedTuple

from .probes.compare import percentile

CHUNK = 1 << 20
PER_READ = 32 << 20  # bytes of one read; what is left comes with the next, so that no read takes long


class Request(NamedTuple):
    """What a user got. slot: blue or green, empty for what the gateway answered itself; status; seconds until the last byte."""

    slot: str
    status: int
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether the service (or the gateway in its place) failed; a client that left or asked wrongly is no failure."""
        return self.status >= 500


class LogReader:
    """Reads complete lines that were not read before.

    position: `{inode, offset}` as `position` said before a restart; None: from the end of the log, for what lies in it is past.
    """

    def __init__(self, path: str | os.PathLike, position: dict | None = None):
        self.path = Path(path)
        self.unreadable = 0  # lines that were no request, since the start
        self._files: list[list] = []  # [descriptor, inode, offset, last read]; the last is the log, those before it are being rotated away
        self._wanted = position
        self._first = True

    @property
    def position(self) -> dict | None:
        """Where the next read begins: the oldest file that is not read to its end."""
        return {"inode": self._files[0][1], "offset": self._files[0][2]} if self._files else self._wanted

    def close(self) -> None:
        """Let go of the files."""
        for file in self._files:
            os.close(file[0])
        self._files = []

    def read(self) -> list[Request]:
        """New requests, oldest first. Raises OSError when the log is absent or cannot be read: that is no evidence, not silence."""
        self._follow()
        found: list[Request] = []
        left = PER_READ
        for file in list(self._files):
            lines, left = self._lines(file, left)
            found += filter(None, map(self._request, lines))
        self._drop_rotated()
        return found

    def _open(self, path: Path, offset: int) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        about = os.fstat(descriptor)
        self._files.append([descriptor, about.st_ino, about.st_size if offset < 0 else offset, False])

    def _follow(self) -> None:
        """Open what is to be read. The rotated log is kept until it had one more read: nginx writes into it until it is told to reopen."""
        if self._first:
            wanted = self._wanted
            here = os.stat(self.path).st_ino
            if wanted and wanted["inode"] != here:
                old = self.path.with_name(self.path.name + ".1")
                with contextlib.suppress(FileNotFoundError):
                    if old.stat().st_ino == wanted["inode"]:
                        self._open(old, wanted["offset"])
                self._open(self.path, 0)
            else:
                self._open(self.path, wanted["offset"] if wanted else -1)
            self._first = False
            return
        try:
            here = os.stat(self.path).st_ino
        except FileNotFoundError:
            if not self._files:
                raise
            return  # between the two steps of a rotation the old file is all there is
        if not self._files or here != self._files[-1][1]:
            self._open(self.path, 0)

    def _lines(self, file: list, left: int) -> tuple[list[bytes], int]:
        """Complete lines of one file from its offset on; (lines, bytes that may still be read)."""
        descriptor, offset = file[0], file[2]
        if os.fstat(descriptor).st_size < offset:
            offset = 0  # truncated: what is there now is new
        parts = []
        at = offset
        while left > 0 and (chunk := os.pread(descriptor, min(CHUNK, left), at)):
            parts.append(chunk)
            at += len(chunk)
            left -= len(chunk)
        whole = b"".join(parts)
        end = whole.rfind(b"\n") + 1
        file[2] = offset + end
        return whole[:end].splitlines(), left

    def _drop_rotated(self) -> None:
        """Let go of a rotated file after one more read that came to its end."""
        while len(self._files) > 1:
            oldest = self._files[0]
            if not oldest[3] or os.fstat(oldest[0]).st_size > oldest[2]:
                oldest[3] = True
                return
            os.close(oldest[0])
            del self._files[0]

    def _request(self, line: bytes) -> Request | None:
        try:
            said = json.loads(line)
            return Request(said["slot"], int(said["status"]), float(said["request_s"]))
        except (ValueError, KeyError, TypeError):
            self.unreadable += bool(line.strip())
            return None


class Window:
    """Raw samples of the last `seconds`, by a clock that only grows."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._parts: deque = deque()  # (moment, array of seconds, failed)

    def add(self, moment: float, requests: list[Request]) -> None:
        """Take what was read at `moment`, and forget what is older than the window."""
        if requests:
            took = array("f", (request.seconds for request in requests))
            self._parts.append((moment, took, sum(request.failed for request in requests)))
        while self._parts and self._parts[0][0] <= moment - self.seconds:
            self._parts.popleft()

    def clear(self) -> None:
        """Forget everything: another release serves."""
        self._parts.clear()

    @property
    def count(self) -> int:
        """Requests in the window."""
        return sum(len(took) for _moment, took, _failed in self._parts)

    @property
    def failed(self) -> int:
        """Failed requests in the window."""
        return sum(failed for _moment, _took, failed in self._parts)

    def p95_s(self) -> float | None:
        """The 95th percentile (seconds) of all samples; None without any."""
        samples = [seconds for _moment, took, _failed in self._parts for seconds in took]
        return percentile(samples, 95) if samples else None
