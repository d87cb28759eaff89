"""What the guard remembers over its own restart, in one small sealed file; and what it saw, as evidence at the end of the observation.

The file holds counts, never samples. One that was cut begins anew: the guard then knows less, and what it did not see counts as not seen.
Standard library only.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from .durable import DurableError, read_sealed, write_atomic, write_sealed
from .records import FAIL, NO_EVIDENCE, PASS, record
from .state import utc

SCHEMA = 1
EVENTS_KEPT = 50
TOTALS = ("looks", "seconds", "aside_s", "requests", "failed", "health_failures")
WORST = ("error_percent", "p95_ms")  # of the windows of a day
SEEN_LEAST = 0.95  # share of the time since it went live that must have been watched


def fresh(number: int | None, name: str | None) -> dict:
    """The memory of one release that nobody looked at yet."""
    return {
        "number": number, "release": name, "since": utc(), "since_epoch": time.time(), "streaks": {}, "blind_since": {},
        "told": {}, "days": {}, "events": [], "reported": False,
    }  # fmt: skip


class Memory:
    """`guard.json` in the service's state folder. `kept` is what outlives a release: {log, rollback, locked}."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.lost: str | None = None  # why the file was not used
        try:
            said = read_sealed(self.path, "What the guard saw before is lost; it begins anew.") or {}
        except DurableError as error:
            said, self.lost = {}, str(error)
        self.now: dict = said.get("now") or fresh(None, None)
        self.kept: dict = {"log": None, "rollback": None, "locked": None, **(said.get("kept") or {})}

    def begin(self, number: int | None, name: str | None) -> None:
        """Another release is live: everything about the one before is forgotten; a lock that was not about this one ends."""
        self.now = fresh(number, name)
        if self.kept["locked"] and number not in self.kept["locked"]["numbers"]:
            self.kept["locked"] = None

    def save(self, service: str) -> str | None:
        """Write the file; None, or why it could not be written: the guard works on without."""
        try:
            write_sealed(
                self.path, {"schema": SCHEMA, "service": service, "now": self.now, "kept": self.kept, "at_epoch": time.time()}, 0o640
            )
        except OSError as error:
            return f"{self.path}: cannot be written ({error.strerror})"
        return None

    def day(self) -> dict:
        """The counts of today (UTC)."""
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        zero = {
            "looks": 0,
            "seconds": 0.0,
            "aside_s": 0.0,
            "requests": 0,
            "failed": 0,
            "health_failures": 0,
            "error_percent": 0.0,
            "p95_ms": 0.0,
        }
        return self.now["days"].setdefault(today, {**zero, "judged": {}})

    def event(self, kind: str, text: str) -> None:
        """Remember what happened; the newest are kept."""
        self.now["events"] = [*self.now["events"], {"at": utc(), "kind": kind, "text": text}][-EVENTS_KEPT:]


def watched_s(now: Mapping) -> float:
    """Seconds for which a release was watched, the guard standing aside included; by a clock that no step moves."""
    return sum(day["seconds"] + day["aside_s"] for day in now["days"].values())


def summary(now: Mapping, limits: Mapping) -> dict:
    """What was seen of one release: totals, worst values, and `gaps`, the days that were not watched or saw no request."""
    days = now["days"]
    total = {
        key: sum(day[key] for day in days.values()) for key in ("looks", "seconds", "aside_s", "requests", "failed", "health_failures")
    }
    judged: dict[str, int] = {}
    for day in days.values():
        for name, count in day["judged"].items():
            judged[name] = judged.get(name, 0) + count
    gaps = [f"{date}: no request" for date, day in days.items() if not day["requests"]]
    watched, passed = watched_s(now), time.time() - now["since_epoch"]
    if watched < limits["observation_s"]:
        gaps.append(f"watched {watched:.0f} of {limits['observation_s']} s")
    if watched < SEEN_LEAST * passed:
        gaps.append(f"watched {watched:.0f} of the {passed:.0f} s since it went live: the guard was away, or the clock was set")
    worst = {key: max((day[key] for day in days.values()), default=0) for key in WORST}
    return {
        "release": now["release"], "since": now["since"], "until": utc(), "days": len(days), **total, **worst, "judged": judged,
        "gaps": gaps, "rollbacks": sum(event["kind"] == "rolled_back" for event in now["events"]), "events": now["events"],
    }  # fmt: skip


def evidence(seen: Mapping, limits: Mapping) -> list[dict]:
    """Evidence records of an observation period: it lasted, its days had requests, and what the daily checks ask for.

    Sources: 000 L206-224, 001 L439-457. A day without a sample, or one that nobody watched, is no evidence, never a pass.
    """
    gaps = "; ".join(seen["gaps"])
    made = [
        record(
            "observe.period", NO_EVIDENCE if gaps else PASS, f"{limits['observation_s']} s watched, requests on every day",
            f"{seen['seconds'] + seen['aside_s']:.0f} s, {seen['days']} days", reason=gaps or None,
            detail={"samples": seen["looks"], "aside_s": seen["aside_s"], "days": seen["days"]},
        )
    ]  # fmt: skip
    checks = [
        ("observe.daily.errors", "errors", f"at most {limits['errors']['percent']:g} % in every window", seen["error_percent"], "%",
         seen["error_percent"] <= limits["errors"]["percent"]),
        ("observe.end.stable", "p95", f"P95 at most {limits['p95']['ms']:g} ms in every window", seen["p95_ms"], "ms",
         seen["p95_ms"] <= limits["p95"]["ms"]),
    ]  # fmt: skip
    for item, name, expected, observed, unit, ok in checks:
        samples = seen["judged"].get(name, 0)
        if not samples:
            made.append(record(item, NO_EVIDENCE, expected, reason="no window held enough requests to judge"))
        else:
            reason = None if ok else f"the worst window was at {observed:g} {unit}"
            made.append(record(item, PASS if ok else FAIL, expected, observed, unit=unit, reason=reason, detail={"samples": samples}))
    return made


def write_report(folder: Path, now: Mapping, limits: Mapping, why: str) -> tuple[str, list[str]]:
    """Write down what was seen of a release: (verdict, gaps). The verdict is pass, fail or incomplete. Raises OSError."""
    seen = summary(now, limits)
    records = evidence(seen, limits)
    failed = seen["rollbacks"] or any(item["status"] == FAIL for item in records)
    verdict = "fail" if failed else "incomplete" if any(item["status"] != PASS for item in records) else "pass"
    folder.mkdir(mode=0o750, exist_ok=True)
    document = {"verdict": verdict, "why": why, **seen, "evidence": records}
    began = re.sub(r"\W", "", now["since"])  # a release may be live again, after a rollback
    write_atomic(folder / f"{now['release']}.{began}.json", json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n", 0o640)
    return verdict, seen["gaps"]


def write_metrics(folder: Path, service: str, values: Mapping[str, float]) -> None:
    """Gauges `greenroom_guard_<name>` for node exporter, where it looks for such files. Raises OSError."""
    if not folder.is_dir():
        return
    lines = [
        f'# TYPE greenroom_guard_{name} gauge\ngreenroom_guard_{name}{{service="{service}"}} {value}\n' for name, value in values.items()
    ]
    write_atomic(folder / f"greenroom_guard_{service}.prom", "".join(lines).encode())
