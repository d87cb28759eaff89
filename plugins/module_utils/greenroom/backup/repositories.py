"""The places of a host's `backup.json` as pgBackRest's repositories: what lacks its stanza, one backup into one place, what may go.

pgBackRest's `backup` writes one repository, and a failure of one must not keep the other from its backup: so places are taken one by one.
Sources: 001 §7.1; pgBackRest's user guide (stanza-create, check, info).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from . import expiry
from .pgbackrest import PgBackRest, Ran

KINDS = {"full": "full", "incremental": "incr"}
LOOK_S = 120  # one look into a repository may take this long (seconds)
PATIENCE_S = 3  # … and waits so long for a store that does not answer
NO_STANZA = (1, 3)  # codes of `info`: no folder of the stanza, no files in it


class Repositories:
    """`places` maps a place's name to pgBackRest's number; limit_s: how long one command may take."""

    def __init__(self, config: Mapping, limit_s: float = LOOK_S):
        physical = config["physical"]
        self.places = {one["place"]: int(one["key"]) for one in physical["repositories"]}
        self.pgbackrest = PgBackRest(physical["stanza"], physical["config_file"], limit_s=limit_s)
        # A store that is down is asked again and again for pgBackRest's io-timeout (60 s by default): a look must not take that long.
        self.looking = PgBackRest(physical["stanza"], physical["config_file"], limit_s=LOOK_S, options=(f"--io-timeout={PATIENCE_S}",))

    def missing(self) -> list[str]:
        """Places without a stanza. Raises BackupError if one cannot be read, or belongs to another cluster."""
        return [place for place in self.places if self._code(place) in NO_STANZA]

    def _code(self, place: str) -> int:
        key = self.places[place]
        entries = self.looking._json("info", f"--repo={key}")
        entry = next((one for one in entries if one.get("name") == self.pgbackrest.stanza), None)
        if entry is None:
            return NO_STANZA[0]
        status = next((one["status"] for one in entry.get("repo", []) if one.get("key") == key), entry["status"])
        if status["code"] not in (0, 2, *NO_STANZA):
            raise self.pgbackrest.failure(f"info of {place}", Ran(status["code"], "", f"ERROR: {status.get('message', '')}", 0.0))
        return status["code"]

    def create_stanza(self) -> None:
        """Make the stanza in every repository; one that is there stays. Raises BackupError."""
        self.pgbackrest.run("stanza-create")

    def check(self) -> None:
        """The server archives into every repository: pgBackRest switches a segment and waits for it in each. Raises BackupError."""
        self.pgbackrest.run("check")

    def look(self, place: str) -> list[dict]:
        """The backups of one place, oldest first, as `pgbackrest.plain_backup` has them. Raises BackupError if it has no stanza."""
        return self.looking.backups(self.places[place])

    def backup(self, place: str, job: str) -> dict:
        """One backup (job: `full` or `incremental`) into one place; `plain_backup` of it. Raises BackupError, soon if the place is down."""
        self.look(place)
        return self.pgbackrest.backup(self.places[place], KINDS[job])

    def expire(self, place: str, full: int, days: int) -> dict:
        """Let go what `full` and `days` do not keep and no verified backup needs: {expired, kept, why}. Raises BackupError."""
        keep = fulls_to_keep(self.look(place), full, days, time.time())
        return expiry.apply(self.pgbackrest, self.places[place], keep)


def fulls_to_keep(backups: Sequence[Mapping], full: int, days: int, now: float) -> int:
    """How many sound full backups stay: at least `full`, and so many that each moment of the last `days` days can be reached.

    That needs the newest full backup that ended before those days began. now: seconds since 1970.
    """
    begin = now - days * 86400
    younger = sum(1 for one in backups if one["type"] == "full" and one["error"] is False and one["stopped"] > begin)
    return max(full, younger + 1)
