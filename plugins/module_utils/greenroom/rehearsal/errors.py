"""The error of this package."""

from __future__ import annotations


class RehearsalError(Exception):
    """The rehearsal could not be carried out, so it proves nothing. The text says why and what to do next; no secret is in it.

    result: partial evidence, ready for JSON; {} if there is none.
    """

    def __init__(self, message: str, result: dict | None = None):
        super().__init__(message)
        self.result: dict = result or {}
