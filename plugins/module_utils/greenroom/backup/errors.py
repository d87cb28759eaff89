"""The errors of this package. Each text says what is wrong, where, and what to do next; none holds a secret's value."""

from __future__ import annotations

import errno


class BackupError(Exception):
    """A backup could not be made, fetched, restored or proved.

    result: what was measured until then (partial evidence), ready for JSON; {} if nothing was.
    """

    def __init__(self, message: str, result: dict | None = None):
        super().__init__(message)
        self.result: dict = result or {}


class ScratchError(BackupError):
    """This is not a scratch cluster, or one could not be made; nothing destructive was done."""


class NoSpaceError(BackupError):
    """A disk is full, or would become full. The text names the folder and how much is needed."""


class BusyError(BackupError):
    """Another backup or restore runs."""


NO_SPACE_TEXT = "No space left on device"


def no_space(error: BaseException | str) -> bool:
    """Whether an OSError, or the standard error of a program, says that a disk is full."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return NO_SPACE_TEXT in str(error) or "could not extend file" in str(error)
