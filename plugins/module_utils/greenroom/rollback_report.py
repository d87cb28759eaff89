"""The report of a rollback: what users felt of it, by the gateway's own log; a page for those who come after. Standard library only."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping

from .releases import Releases

FOLLOW_UP = ("root cause", "why it was not found before", "what is changed so that it is found", "who does it, until when")
TAIL_BYTES = 64 << 20  # of the log; a rollback is minutes


def _epoch(text: str) -> float | None:
    try:
        return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
    except (ValueError, AttributeError):
        return None


def impact(log: str | os.PathLike, since: str, slow_s: float) -> dict:
    """What users felt since a moment, from the gateway's access log (one JSON object a line; docs/switch.md).

    since: ISO 8601; slow_s: from how many seconds on a request counts as delayed. Returns {requests, failed, delayed, worst_s, by_slot,
    unreadable}; failed are answers of 500 and above. An absent log gives no figures but its name: {unknown: why}.
    """
    begin = _epoch(since)
    try:
        with open(log, "rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - TAIL_BYTES))
            lines = stream.read().split(b"\n")[1 if size > TAIL_BYTES else 0 :]
    except OSError as error:
        return {"unknown": f"{log}: {error.strerror}"}
    found = {"requests": 0, "failed": 0, "delayed": 0, "worst_s": 0.0, "by_slot": {}, "unreadable": 0}
    for line in filter(None, lines):
        try:
            entry = json.loads(line)
            at, took, status = _epoch(entry["time"]), float(entry["request_s"]), int(entry["status"])
        except (ValueError, KeyError, TypeError):
            found["unreadable"] += 1
            continue
        if at is None or begin is None or at < begin:
            continue
        slot = entry.get("slot") or "gateway"
        found["requests"] += 1
        found["failed"] += status >= 500
        found["delayed"] += took >= slow_s
        found["worst_s"] = max(found["worst_s"], took)
        found["by_slot"][slot] = found["by_slot"].get(slot, 0) + 1
    return found


def page(plan: Mapping, entries: list[Mapping], felt: Mapping, about: Mapping) -> str:
    """The report as Markdown. entries: the ledger's of this run; about: {service, environment, run_id, reason, operator, approved_by}."""
    took = next((one["durations"].get("seconds") for one in reversed(entries) if one.get("durations")), None)
    rows = [
        f"| {one['at']} | {one['action']} | {one.get('from') or ''} | {one.get('to') or ''} | {one.get('result') or ''} |"
        for one in entries
    ]
    lines = [
        f"# Rollback of {about['service']} ({about['environment']}): {plan['from'] or 'the maintenance page'} to {plan['to']}", "",
        f"* reason: {about['reason']}",
        f"* operator: {about['operator']}; approved by: {about['approved_by'] or 'nobody was named'}",
        f"* run: {about['run_id']}; part: {plan['part']}; took {took if took is not None else 'an unknown number of'} s",
        *(f"* {line}" for line in plan["lines"]), "",
        "## Impact", "",
        f"Not known: {felt['unknown']}" if "unknown" in felt else
        f"Since the rollback began: {felt['requests']} requests, {felt['failed']} failed (500 and above), {felt['delayed']} delayed, "
        f"the slowest took {felt['worst_s']:g} s; answered by {json.dumps(felt['by_slot'], sort_keys=True)}.", "",
        "## Timeline", "", "| at (UTC) | step | from | to | result |", "|---|---|---|---|---|", *rows, "",
        "## Follow-up", "", "| question | answer |", "|---|---|",
        *(f"| {question} | |" for question in FOLLOW_UP), "",
    ]  # fmt: skip
    return "\n".join(lines)


def report(
    directory: str | os.PathLike, service: str, *, run_id: str, plan: Mapping, about: Mapping, log: str, slow_s: float
) -> tuple[dict, str]:
    """(impact, the page) of the rollback of run `run_id`, from the ledger in `directory` and the gateway's log."""
    releases = Releases(directory, service, "/nonexistent")
    entries = [one for one in releases.history() if one.get("run_id") == run_id]
    felt = impact(log, entries[0]["at"] if entries else "", slow_s)
    return felt, page(plan, entries, felt, {**about, "run_id": run_id, "operator": entries[0]["who"] if entries else None})
