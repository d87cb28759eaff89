"""Maintenance mode: a file that the gateway looks for at every request; while it is there users get the maintenance page.

It closes the door and nothing else: the switch, the slots and the workers stay as they are, the health pages stay open. It has an end: a
timer takes the file away (`expire`), also after a reboot, and nobody forgets it. The file is the truth and says who, why and how long.
Standard library only; imported by the tool `greenroom` on the gateway.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import time
from pathlib import Path

from .durable import DurableError, fsync_dir, read_sealed, write_sealed
from .state import utc

SCHEMA = 1
LONGEST_S = 7 * 86400
DEFAULT_S = 3600
UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


class MaintenanceError(DurableError):
    """Maintenance mode cannot be changed or read; the text names the file, what users see, and what to do."""


def seconds_of(text: str) -> int:
    """`90s`, `30min`, `2h`, `1d` as seconds. Raises ValueError."""
    found = re.fullmatch(r"([1-9][0-9]{0,6})(s|m|min|h|d)", text)
    if not found or not 0 < int(found[1]) * UNITS[found[2]] <= LONGEST_S:
        raise ValueError(f"{text!r} is no time such as 30min or 2h, of at most {LONGEST_S // 86400} days")
    return int(found[1]) * UNITS[found[2]]


def seconds_until(text: str) -> int:
    """Seconds from now to an ISO 8601 time with its offset or Z, such as `2026-11-20T18:00Z`. Raises ValueError."""
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} does not say its time zone: write for example {text}Z")
    left = round(moment.timestamp() - time.time())
    if not 0 < left <= LONGEST_S:
        raise ValueError(f"{text!r} is not within the next {LONGEST_S // 86400} days")
    return left


class Maintenance:
    """The folder `/etc/greenroom/<service>/maintenance`; its one file, `on`, is what the gateway looks for."""

    def __init__(self, directory: str | os.PathLike):
        self.directory = Path(directory)
        self.path = self.directory / "on"

    def on(self, reason: str, who: str, for_s: int) -> dict:
        """Close the door for `for_s` seconds; what the file says now. A second call states a new end and reason.

        Raises MaintenanceError; users are then as before.
        """
        if not reason.strip():
            raise MaintenanceError("a reason is needed; people will ask")
        before = self.read()
        now = time.time()
        document = {
            "schema": SCHEMA, "reason": reason.strip(), "who": who, "since_epoch": before["since_epoch"] if before else now,
            "at": utc(), "until_epoch": now + for_s, "for_s": for_s,
        }  # fmt: skip
        try:
            self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            return write_sealed(self.path, document)
        except OSError as error:
            state = "the maintenance page" if self.path.exists() else "the service"
            raise MaintenanceError(
                f"{self.path}: cannot be written ({error.strerror}); users see {state}. Make room or make it writable; to close the door "
                f"all the same: sudo greenroom switch none --reason '<why>'"
            ) from error

    def off(self) -> bool:
        """Open the door; whether it was closed. Raises MaintenanceError: users then still see the page."""
        try:
            self.path.unlink()
            fsync_dir(self.directory)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise MaintenanceError(
                f"{self.path}: cannot be removed ({error.strerror}); users see the maintenance page. Remove it."
            ) from error
        return True

    def read(self) -> dict | None:
        """What the file says, with age_s, left_s and `overdue`; None if the door is open.

        A file that was made by hand or cut counts as one without an end that began when it was written: it closes the door all the same.
        """
        now = time.time()
        try:
            said = read_sealed(self.path, "")
        except DurableError:
            said = {"reason": "unknown: not written by greenroom", "who": "unknown"}
        if said is None:
            return None
        begun = said.get("since_epoch")
        if begun is None:
            try:
                begun = self.path.stat().st_mtime
            except (FileNotFoundError, NotADirectoryError):
                return None
        until = said.get("until_epoch", begun + DEFAULT_S)
        left = until - now
        # A clock that was set back must not keep the door closed for ever: never longer than it was meant from now.
        left = min(left, said.get("for_s", DEFAULT_S))
        return {**said, "since_epoch": begun, "age_s": max(0, round(now - begun)), "left_s": round(left), "overdue": left <= 0}

    def expire(self) -> dict | None:
        """Open the door if its time is over; what the file said, None if there was nothing to do. Raises MaintenanceError."""
        said = self.read()
        if said is None or not said["overdue"]:
            return None
        self.off()
        return said


def age(seconds: float) -> str:
    """A span for people: `2 h 5 min`, `40 s`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{rest} s"


def describe(said: dict | None) -> str:
    """One line for people."""
    if said is None:
        return "off: users reach the service"
    end = "its time is over" if said["overdue"] else f"ends by itself in {age(said['left_s'])}"
    return f"on for {age(said['age_s'])}, {end}; by {said['who']}: {said['reason']}"


def command(releases, args: argparse.Namespace, who: str) -> int:
    """`greenroom maintenance on|off|status`: act, note it in the ledger, say what is. Raises MaintenanceError.

    The door comes first: a ledger that cannot be written is said and changes nothing about it.
    """
    mode = Maintenance(releases.switch.directory.parent / "maintenance")
    changed = None
    try:
        if args.what == "on":
            for_s = seconds_until(args.until) if args.until else seconds_of(args.for_time)
            mode.on(args.reason or "", who, for_s)
            changed = "maintenance_on"
        elif args.what == "off":
            changed = "maintenance_off" if mode.off() else None
    except ValueError as error:
        raise MaintenanceError(str(error)) from error
    said = mode.read()
    if changed:
        with releases.lease.lock():
            releases.note(changed, {"owner": who, "fencing": None}, why=args.reason, result=describe(said))
    print(
        json.dumps({"on": said is not None, **(said or {})}, indent=1, sort_keys=True) if args.json else f"maintenance is {describe(said)}"
    )
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `greenroom maintenance`."""
    parser.add_argument("what", choices=["on", "off", "status"])
    end = parser.add_mutually_exclusive_group()
    end.add_argument("--for", dest="for_time", default=f"{DEFAULT_S // 60}min", help="how long, such as 30min or 2h (default 60min)")
    end.add_argument("--until", help="its end, such as 2026-11-20T18:00Z")
    parser.add_argument("--reason", help="why; needed to turn it on")
    parser.add_argument("--json", action="store_true")
