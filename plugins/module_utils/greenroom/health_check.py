"""Runs a list of typed probes side by side and returns one evidence record each.

The list is checked whole before the first probe runs. A probe that hangs beyond its limits is given up with an `error`
record; an exception is an `error` record too. Secrets are looked up by key and taken out of every text that leaves here.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from . import records
from .masking import Redactor
from .probes import PROBES
from .probes.base import Arg, Context, Outcome, Probe, ProbeError, convert, validate

GRACE_S = 2.0  # beyond its own limits, before a probe is given up

COMMON = {
    "id": Arg("str", "evidence id of the catalogue", required=True),
    "type": Arg("str", "probe type", required=True),
    "name": Arg("str", "label of what is measured; becomes detail.target"),
    "timeout_s": Arg("float", "limit of one attempt, seconds", default=5.0),
    "within_s": Arg("float", "keep trying until it passes or so many seconds are over", default=0.0),
    "detail": Arg("dict", "figures to add to the record's detail", default={}),
}

# The first of these arguments that a probe has says what it measures, where no name was given.
_TARGETS = ("unit", "url", "base_url", "path", "name_to_resolve", "venv", "import_name")


class SpecError(ValueError):
    """The list of probes is wrong; `problems` holds one text each, naming the probe and the key."""

    def __init__(self, problems: list):
        super().__init__("; ".join(problems))
        self.problems = problems


class Planned(NamedTuple):
    """One probe ready to run: common (see COMMON), its type and its checked arguments."""

    common: dict
    probe: Probe
    args: dict


def plan(probes: list, secrets: Mapping[str, str] | None = None) -> list:
    """Check every probe of the list and convert its arguments: [Planned]. Raises SpecError with all problems at once."""
    secrets = secrets or {}
    if not probes:
        raise SpecError(["there is no probe in the list: a check of nothing cannot pass"])
    planned, problems = [], []
    for number, given in enumerate(probes, 1):
        where = f"probe {number}"
        if not isinstance(given, Mapping):
            problems.append(f"{where}: must be a dict, not {type(given).__name__}")
            continue
        if given.get("id"):
            where += f" ({given['id']})"
        common, bad = {}, False
        for key, spec in COMMON.items():
            try:
                common[key] = spec.default if given.get(key) is None else convert(given[key], spec.type)
            except ValueError as error:
                problems.append(f"{where}: {key}: {error}")
                bad = True
                continue
            if spec.required and not common[key]:
                problems.append(f"{where}: {key}: missing; {spec.doc}")
                bad = True
        if not bad and (common["timeout_s"] <= 0 or common["within_s"] < 0):
            problems.append(f"{where}: timeout_s: limits are positive seconds")
        if bad:
            continue
        probe = PROBES.get(common["type"])
        if probe is None:
            problems.append(f"{where}: type: unknown type {common['type']!r}; known are {', '.join(sorted(PROBES))}")
            continue
        args, wrong = validate(probe, {key: value for key, value in given.items() if key not in COMMON}, secrets)
        problems += [f"{where}: {key}: {message}" for key, message in wrong]
        planned.append(Planned(common, probe, args))
    if problems:
        raise SpecError(problems)
    return planned


def run(planned: list, secrets: Mapping[str, str] | None = None, parallel: int = 16) -> list:
    """Run all probes, at most `parallel` at a time, each in a thread of its own: [record] in the order of `planned`."""
    secrets = secrets or {}
    hide = Redactor(secrets)
    results: list = [None] * len(planned)
    waiting, running, done = deque(range(len(planned))), {}, queue.Queue()
    while waiting or running:
        while waiting and len(running) < max(1, parallel):
            index = waiting.popleft()
            common = planned[index].common
            running[index] = time.monotonic() + common["within_s"] + common["timeout_s"] + GRACE_S
            threading.Thread(target=lambda index=index: done.put((index, _guarded(planned[index], secrets, hide))), daemon=True).start()
        try:
            index, made = done.get(timeout=max(0.0, min(running.values()) - time.monotonic()))
            if index in running:  # else it was given up, and comes too late
                results[index] = made
                del running[index]
        except queue.Empty:
            for index in [index for index, limit in running.items() if limit <= time.monotonic()]:
                results[index] = _given_up(planned[index])
                del running[index]
    return results


def _guarded(planned: Planned, secrets: Mapping[str, str], hide: Redactor) -> dict:
    """`measure`, whatever happens: a thread that dies would leave nothing but silence."""
    try:
        return measure(planned, secrets, hide)
    except Exception as error:
        reason = hide(f"the measurement broke: {type(error).__name__}: {error}")
        return records.record(planned.common["id"], records.ERROR, planned.probe.doc, "not measured", reason=reason)


def measure(planned: Planned, secrets: Mapping[str, str], hide: Redactor) -> dict:
    """One probe's record: attempts with a short pause between them until it passes or `within_s` is over."""
    common, started, clock = planned.common, records.utc_now(), time.monotonic()
    until, pause, attempts = clock + common["within_s"], 0.1, 0
    while True:
        attempts += 1
        final = False
        try:
            outcome = Outcome(*planned.probe.run(planned.args, Context(common["timeout_s"], secrets)))
        except ProbeError as error:
            outcome, final = Outcome(records.ERROR, planned.probe.doc, "not measured", str(error)), True
        except Exception as error:  # a probe that breaks is evidence of its own, never a pass
            text = str(error) if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
            outcome = Outcome(
                records.ERROR, planned.probe.doc, "not measured", f"the probe {planned.probe.type} failed: {text.strip(': ')}"
            )
        status = records.PASS if outcome.status is True else records.FAIL if outcome.status is False else outcome.status
        if status not in records.STATUSES:
            outcome = outcome._replace(reason=f"the probe {planned.probe.type} gave no verdict but {type(outcome.status).__name__}")
            status = records.ERROR
        if status == records.PASS or final or time.monotonic() + pause > until:
            break
        time.sleep(pause)
        pause = min(pause * 1.6, 1.0)
    detail = {"probe": planned.probe.type, "target": target(planned), **(outcome.detail or {}), **common["detail"]}
    if attempts > 1:
        detail["attempts"] = attempts
    return records.record(
        common["id"], status, hide(outcome.expected), hide(outcome.observed),
        reason=None if status == records.PASS else hide(outcome.reason or f"expected {outcome.expected}, observed {outcome.observed}"),
        detail=hide(detail), started=started, duration_ms=round((time.monotonic() - clock) * 1000, 1),
    )  # fmt: skip


def target(planned: Planned) -> str:
    """What a probe measures, in a word: its name, else the argument that says it."""
    args = planned.args
    if planned.common["name"]:
        return planned.common["name"]
    if args.get("host"):
        return f"{args['host']}:{args.get('port', '')}" + (f"/{args['dbname']}" if args.get("dbname") else "")
    if args.get("argv"):
        return " ".join(args["argv"])[:80]
    if args.get("base_url"):
        return args["base_url"].rstrip("/") + "/" + (args.get("path") or "").lstrip("/")
    found = next((str(args[key]) for key in _TARGETS if args.get(key)), None)
    return found or ", ".join(map(str, args.get("ports") or args.get("paths") or [])) or planned.probe.type


def _given_up(planned: Planned) -> dict:
    limit = planned.common["within_s"] + planned.common["timeout_s"] + GRACE_S
    return records.record(
        planned.common["id"], records.ERROR, planned.probe.doc, "not measured",
        reason=f"the probe {planned.probe.type} did not come back within {limit:g} s and was given up",
        detail={"probe": planned.probe.type, "target": target(planned)}, duration_ms=limit * 1000,
    )  # fmt: skip


def as_whole(evidence: list, id: str, target: str, required: Iterable[str] = ()) -> dict:
    """All of `evidence` as one record `id` about `target`, for the catalogue's "the health check passes as a whole".

    It passes only if every record does and each id of `required` is among them (runbook 003 L859-883: failed parts must count).
    """
    bad = [item for item in evidence if item["status"] != records.PASS]
    missing = sorted(set(required) - {item["id"] for item in evidence})
    said = [f"{item['id']}: {item.get('reason') or item['status']}" for item in bad] + [f"{name}: not measured" for name in missing]
    if not evidence:
        said.append("no part was measured")
    wanted = f"every part passes: {', '.join(sorted({*(item['id'] for item in evidence), *required}))}"
    seen = f"{len(evidence) - len(bad)} of {len(evidence) + len(missing)} parts passed"
    status = records.FAIL if said else records.PASS
    return records.record(id, status, wanted, seen, reason="; ".join(said) or None, detail={"target": target})


def counts(evidence: list) -> dict:
    """How many records have which status; every status is there."""
    found = Counter(item["status"] for item in evidence)
    return {status: found.get(status, 0) for status in records.STATUSES}


def blockers(evidence: list) -> list:
    """One line for each record that did not pass: `id [target] status: expected …, observed …: reason`."""
    lines = []
    for item in evidence:
        if item["status"] != records.PASS:
            name = item.get("detail", {}).get("target")
            label = f"{item['id']} [{name}]" if name else item["id"]
            lines.append(f"{label} {item['status']}: expected {item['expected']}, observed {item['observed']}: {item.get('reason')}")
    return lines


def describe() -> list:
    """Every probe type with its arguments, one line each, as the module's documentation shows them."""
    lines = []
    for name in sorted(PROBES):
        probe = PROBES[name]
        parts = []
        for key, spec in probe.args.items():
            marks = [spec.type if not spec.elements else f"list of {spec.elements}"]
            marks += ["required"] if spec.required else [f"default {spec.default}"] if spec.default not in (None, "", [], {}) else []
            marks += [f"one of {'/'.join(map(str, spec.choices))}"] if spec.choices and len(spec.choices) < 8 else []
            parts.append(f"I({key}) ({', '.join(marks)}): {spec.doc}")
        lines.append(f"B({name}) - {probe.doc}. " + "; ".join(parts))
    return lines
