"""Evidence of the ways back: one record an act, in words that a report can show."""

from __future__ import annotations

import time
from collections.abc import Callable

from .db_switch import SwitchError
from .records import FAIL, PASS, record, utc_now

# act -> (id, what is expected); acts that prove nothing by themselves have none.
EXPECTED = {
    "planned": ("restore.plan", "server, database and revision are known, and what would be lost is told"),
    "secured": ("restore.safety", "a restore point that every repository hands back, or a copy"),
    "cloned": ("restore.clone", "recovered to the target, indexes and tables agree, dumped with its fingerprint"),
    "carried": ("restore.content", "0 differences from the clone"),
    "swapped": ("restore.switch", "in by its name, what was live is kept"),
    "copied_back": ("restore.rows", "the rows are back"),
    "blocked": ("restore.sessions", "nobody was in it, and it is open again"),
    "copied": ("restore.copy", "a copy of before"),
}


def observed(act: str, answer: dict) -> object:
    """What an act did, for a person."""
    if answer.get("already"):
        return "done already by an earlier run"
    if act == "planned":
        rows, seconds = answer["at_risk"]["rows"], answer["at_risk"]["seconds"]
        at = ", ".join(answer["revision"]) or "no revision"
        risk = f"{'an unknown number of' if rows is None else rows} changed rows, {'unknown' if seconds is None else seconds} s at risk"
        which = f"{answer['database']} (oid {answer['oid']}) of cluster {answer['system_identifier']} at {at}"
        return f"{which}: {risk} ({answer['at_risk']['how']})"
    told = {
        "secured": "{kind} {name}", "cloned": "{what}: {tables} tables, {rows} rows", "carried": "0, over {rows} rows: {what}",
        "swapped": "{seconds} s, {ended} sessions ended, {kept} is kept until {kept_until}",
        "blocked": "{ended} sessions ended in {seconds} s", "copied": "{name} in {seconds} s", "copied_back": "{tables}",
    }  # fmt: skip
    return told[act].format(**answer)


def judged(act: str, do: Callable[[], dict]) -> tuple[dict | SwitchError, list[dict]]:
    """(what the act returned, or its error; evidence)."""
    started, begun = utc_now(), time.monotonic()
    answer, reason, status = None, None, PASS
    try:
        answer = do()
    except SwitchError as error:
        answer, reason, status = error, str(error), FAIL
    if act not in EXPECTED:
        return answer, []
    evidence_id, expected = EXPECTED[act]
    seen = "refused" if reason else observed(act, answer)
    detail = None if reason else {"samples": answer["rows"]} if isinstance(answer.get("rows"), int) else None
    timing = {"started": started, "duration_ms": round((time.monotonic() - begun) * 1000, 1)}
    return answer, [record(evidence_id, status, expected, seen, reason=reason, detail=detail, **timing)]
