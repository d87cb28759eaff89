"""`ledger.jsonl`: who changed what, when, why, with what result; append-only, each entry with the hash of the one before.

The newest entry also lies in `state.json`, which is written first: the ledger follows it, also after a crash in between.
Standard library only.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from .durable import canonical, digest, fsync_dir
from .state import StateError, utc


def entry_after(last: dict | None, counter: int, action: str, lease: dict | None, **about: object) -> dict:
    """The entry that follows `last` (None: the first), with its hash. `lease` is the one the change is made under."""
    entry = {
        "seq": last["seq"] + 1 if last else 1,
        "prev": last["hash"] if last else None,
        "counter": counter,
        "at": utc(),
        "action": action,
        "who": lease["owner"] if lease else None,
        "fencing": lease["fencing"] if lease else None,
        **about,
    }
    return {**entry, "hash": digest(entry)}


class Ledger:
    """The ledger at `path`, beside the state at `state_path`."""

    def __init__(self, path: Path, state_path: Path):
        self.path, self.state_path = path, state_path

    def exists(self) -> bool:
        """Whether anything was ever written to it."""
        return self.path.exists() and self.path.stat().st_size > 0

    def entries(self, last: int | None = None) -> list[dict]:
        """Its entries, oldest first, each link of the chain checked; only the newest `last` are returned.

        Raises StateError naming file and line of the first entry that was cut or edited.
        """
        entries, _size = self._scan()
        return entries if last is None else entries[max(0, len(entries) - last) :]

    def _scan(self) -> tuple[list[dict], int]:
        """(entries, bytes they fill). A last line without its newline is a write that a crash cut: it does not count."""
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            return [], 0
        size = raw.rfind(b"\n") + 1
        entries: list[dict] = []
        for number, line in enumerate(raw[:size].split(b"\n")[:-1], 1):
            try:
                entry = json.loads(line)
                intact = entry["hash"] == digest({key: value for key, value in entry.items() if key != "hash"})
                linked = not entries or entry["prev"] == entries[-1]["hash"]
            except (ValueError, KeyError, TypeError):
                intact = linked = False
            if not (intact and linked):
                raise StateError(
                    f"{self.path}:{number}: was edited or cut; the chain of hashes breaks here. Restore the file from a backup, or "
                    f"move it aside: it then begins anew with the last entry, which {self.state_path.name} holds.",
                    4,
                )
            entries.append(entry)
        return entries, size

    def settle(self, entry: dict | None) -> None:
        """Bring it up to `entry`, the newest of the state: a crash may have come between the state's write and the ledger's.

        Raises StateError if they differ by more than that one entry.
        """
        entries, size = self._scan()
        self._check_tail(entries, entry)
        if entry is None or (entries and entries[-1]["hash"] == entry["hash"]):
            return
        with open(self.path, "ab") as stream:
            stream.truncate(size)  # drops a line that was cut
            stream.seek(0, os.SEEK_END)
            stream.write(canonical(entry) + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        fsync_dir(self.path.parent)

    def check(self, entry: dict | None) -> None:
        """Raises StateError unless it is intact and fits a state whose newest entry is `entry`."""
        self._check_tail(self.entries(), entry)

    def _check_tail(self, entries: list[dict], entry: dict | None) -> None:
        """It may end with `entry` or the one before, or be gone; else StateError."""
        tail = entries[-1] if entries else None
        if entry is None and tail:
            raise StateError(f"{self.path}: has entries that {self.state_path} does not know. Restore the newest copy of state.json.", 4)
        if entry and tail and tail["hash"] not in (entry["hash"], entry["prev"]):
            raise StateError(
                f"{self.path}: ends with entry {tail['seq']}, but {self.state_path} says entry {entry['seq']} is the last. "
                "Restore the newest copy of state.json from an app host; if there is none, move ledger.jsonl aside: it then begins "
                f"anew at entry {entry['seq']}.",
                4,
            )
