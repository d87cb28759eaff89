"""The gate: reads the evidence of a run back and decides whether what is required was proven.

It passes only if every required id has evidence and all of it passes. A missing record, NaN, zero samples, an error, a line that
cannot be read, an id nobody knows: each of them blocks (runbook weaknesses: ticks without a measurement, A1-A18).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from . import records as rec
from .catalogue import Catalogue, Entry

# Worst first: of several records of one id the worst one is the result.
WORST_FIRST = (rec.ERROR, rec.FAIL, rec.NO_EVIDENCE, rec.NOT_RUN, rec.PASS, rec.NOT_APPLICABLE)
BLOCKING = (rec.ERROR, rec.FAIL, rec.NO_EVIDENCE)

_PLACEHOLDER = re.compile(
    r"""\[[^\]]*\] | <[^>]*> | \{\{.*\}\} | \$\{.*\} | \.\.\. | … | \?{2,}     # [name], <tel>, {{ x }}, ${X}, ..., ???
      | (?<![\w-]) (?: todo | tbd | tba | tbc | fixme | xx+ | change[-_ ]?me | change[-_ ]?this | replace[-_ ]?me | placeholder
                     | fill[-_ ]?in | to\ be\ (?:defined|decided|filled\ in) | example | dummy | lorem ) (?![\w-])
      | (?<![\w-]) your[-_ ] \w+ | 待定 | 待填""",
    re.IGNORECASE | re.VERBOSE,
)
# These state nothing when they are all there is; inside a sentence they are ordinary words.
_EMPTY_WORDS = frozenset(
    ["none", "null", "n/a", "unknown", "nobody", "someone", "test", "foo", "bar", "name", "phone", "tel", "mail", "e-mail", "date"]
)


def is_placeholder(value: object) -> bool:
    """True if a declared value states nothing: empty, or text left over from a template, anywhere inside it."""
    if value is None or isinstance(value, bool):
        return value is not True
    if isinstance(value, (int, float)):
        return not rec.finite(value)
    if isinstance(value, Mapping):
        return not value or any(is_placeholder(inner) for inner in value.values())
    if isinstance(value, (list, tuple, set)):
        return not value or any(is_placeholder(inner) for inner in value)
    text = str(value).strip()
    if not re.search(r"\w", text):
        return True
    return text.lower() in _EMPTY_WORDS or _PLACEHOLDER.search(text) is not None


def fault_of(item: object) -> str | None:
    """What makes `item` no valid evidence record, as a sentence; None if it is one."""
    if not isinstance(item, dict):
        return f"is no JSON object but {type(item).__name__}"
    unknown = [key for key in item if key not in rec.KEYS]
    if unknown:
        return f"has unknown keys: {', '.join(map(str, unknown))}"
    if not (isinstance(item.get("id"), str) and item["id"]):
        return "has no id"
    if item.get("status") not in rec.STATUSES:
        return f"has the unknown status {item.get('status')!r}"
    if item["status"] != rec.PASS and not (isinstance(item.get("reason"), str) and item["reason"].strip()):
        return f"has status {item['status']} without a reason"
    if item.get("detail") is not None and not isinstance(item["detail"], dict):
        return "has a detail that is no object"
    return None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def read_evidence(path: str | Path, lines: int | None = None) -> tuple[list[dict], list[dict]]:
    """Read evidence.jsonl. Returns (records, problems); a problem is {line, id, reason}, line 0 stands for the file.

    Every line must be one whole record. `lines` is how many the writer says it wrote.
    A file that is not there is a problem, not an exception.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        return [], [{"line": 0, "id": None, "reason": f"{path} cannot be read: {error.strerror or error}"}]
    found, problems = [], []
    chunks = raw.split(b"\n")
    if chunks[-1]:
        problems.append({"line": len(chunks), "id": None, "reason": "the last line is cut: it has no line end"})
    chunks.pop()
    for number, chunk in enumerate(chunks, 1):
        try:
            item = json.loads(chunk.decode("utf-8"), parse_constant=_no_constant)
        except ValueError as error:
            problems.append({"line": number, "id": None, "reason": f"is not JSON: {error}"})
            continue
        fault = fault_of(item)
        if fault:
            problems.append({"line": number, "id": item.get("id") if isinstance(item, dict) else None, "reason": fault})
        else:
            found.append(item)
    if lines is not None and len(chunks) != lines:
        reason = f"holds {len(chunks)} lines, but {lines} were written: evidence was lost or added by something else"
        problems.append({"line": 0, "id": None, "reason": reason})
    return found, problems


def latest(items: Iterable[dict]) -> dict[str, list[dict]]:
    """The records that count, by id: of each host and `detail.target` the last one. So a retry replaces its first try, while the
    idle slot and the gateway (two targets) both count."""
    last: dict[tuple, dict] = {}
    for item in items:
        target = (item.get("detail") or {}).get("target")
        last[item["id"], item.get("host"), json.dumps(target, sort_keys=True)] = item
    grouped: dict[str, list[dict]] = {}
    for item in last.values():
        grouped.setdefault(item["id"], []).append(item)
    return grouped


def evaluate(
    catalogue: Catalogue,
    evidence: Iterable[dict],
    phases: Iterable[str],
    *,
    problems: Iterable[dict] = (),
    not_applicable: Mapping[str, str] | None = None,
    earlier: Mapping[str, str] | None = None,
    hosts: Mapping[str, Iterable[str]] | None = None,
    excused: Mapping[str, str] | None = None,
    without: Iterable[str] = (),
) -> dict:
    """Judge the evidence of a run.

    phases          the phases of this run; every auto and declared entry their gate asks for is required
    problems        what `read_evidence` could not read; each one blocks
    not_applicable  id -> reason, from the contract; it excuses a missing record, never a failed one
    earlier         phase -> run id: proven by an earlier run of the same release and configuration, not required here
    hosts           id -> hosts that must each have a record
    excused         phase -> reason (check mode, the run stopped): what is missing there is `not_run`, and the verdict never `pass`
    without         ids that are not required by this gate (the gate's own id)

    Returns {verdict: pass|fail|incomplete, phases, counts{status: n}, required, passed, results[...], blockers[...]}; results has one
    dict for every entry of the catalogue: id, phase, gate_phase, title, kind, source, required, status, reason, expected, observed,
    unit, records. blockers: {id, title, host, status, expected, observed, reason, todo}.

    Raises ValueError if a phase has no entry in the catalogue.
    """
    not_applicable, earlier, hosts, excused = dict(not_applicable or {}), dict(earlier or {}), dict(hosts or {}), dict(excused or {})
    phases = [phase for phase in dict.fromkeys(phases) if phase not in earlier]
    known = {entry.gate_phase for entry in catalogue}
    if strange := [phase for phase in phases if phase not in known]:
        raise ValueError(f"no catalogue entry belongs to phase {', '.join(strange)}; known: {', '.join(sorted(known))}")
    measured = latest(evidence)
    skip = set(without)
    blockers = [_problem_blocker(problem) for problem in problems]
    blockers += _contract_blockers(catalogue, not_applicable)
    results = []
    # What was measured beyond the catalogues at hand (a service may have none of its own): not required, but red is red.
    further = [
        Entry(id=name, phase=last.get("phase") or "further", title=last.get("title") or name, kind="auto", source=("greenroom",))
        for name, last in ((name, items[-1]) for name, items in measured.items()) if name not in catalogue
    ]  # fmt: skip
    for entry in (*catalogue, *further):
        found = [_judge(entry, item) for item in measured.get(entry.id, [])]
        required = (
            entry.gate_phase in phases and entry.kind != "manual" and entry.id not in skip and entry.id in catalogue
            and not (entry.not_built and not found)
        )
        absent = [host for host in hosts.get(entry.id, []) if required and host not in {item.get("host") for item in found}]
        result = {
            "id": entry.id, "phase": entry.phase, "gate_phase": entry.gate_phase, "title": entry.title, "kind": entry.kind,
            "source": list(entry.source), "required": required, "expected": entry.threshold, "observed": None, "unit": None,
            "records": found,
        }  # fmt: skip
        if found:
            worst = min(found, key=lambda item: WORST_FIRST.index(item["status"]))
            result.update({key: worst.get(key) for key in ("status", "reason", "expected", "observed", "unit")})
            blocks = (*BLOCKING, rec.NOT_RUN) if required else BLOCKING
            blockers += [_blocker(entry, item) for item in found if item["status"] in blocks]
            for host in absent:
                missing = {"host": host, "status": rec.NO_EVIDENCE, "reason": "no check reported it for this host"}
                blockers.append(_blocker(entry, missing))
                if result["status"] in (rec.PASS, rec.NOT_APPLICABLE):
                    result.update(status=rec.NO_EVIDENCE, reason=f"no check reported it for {', '.join(absent)}")
        else:
            result["status"], result["reason"] = _absent(entry, required, not_applicable, earlier, excused, skip)
            if result["status"] == rec.NO_EVIDENCE:
                blockers.append(_blocker(entry, {**result, "host": ", ".join(absent) or None}))
        results.append(result)
    wanted = [result for result in results if result["required"]]
    if not wanted and not earlier:
        blockers.append({"id": None, "title": "the gate itself", "host": None, "status": rec.NO_EVIDENCE, "expected": None,
                         "observed": None, "reason": "nothing was required: a gate that asks for nothing proves nothing",
                         "todo": "name the phases it is for"})  # fmt: skip
    verdict = rec.FAIL if blockers else rec.PASS
    if verdict == rec.PASS and any(result["status"] == rec.NOT_RUN for result in wanted):
        verdict = "incomplete"
    counts = {status: sum(result["status"] == status for result in results) for status in rec.STATUSES}
    return {
        "verdict": verdict, "phases": phases, "counts": counts, "required": len(wanted),
        "passed": sum(result["status"] == rec.PASS for result in wanted), "results": results, "blockers": blockers,
    }  # fmt: skip


def _judge(entry: Entry, item: dict) -> dict:
    """The record as it counts: a `pass` that proves nothing is turned into what it is."""
    if item["status"] != rec.PASS:
        return item
    if why := rec.unproven(item.get("observed"), item.get("detail")):
        return {**item, "status": rec.NO_EVIDENCE, "reason": why}
    if entry.kind == "declared" and is_placeholder(item["observed"]):
        return {**item, "status": rec.FAIL, "reason": f"what is declared is a placeholder: {item['observed']!r}"}
    return item


def _absent(entry: Entry, required: bool, not_applicable: dict, earlier: dict, excused: dict, skip: set) -> tuple[str, str]:
    """Status and reason of an entry without a record."""
    phase = entry.gate_phase
    if entry.id in not_applicable and not is_placeholder(not_applicable[entry.id]):
        return rec.NOT_APPLICABLE, not_applicable[entry.id]
    if entry.not_built:
        return rec.NOT_RUN, entry.not_built
    if phase in earlier:
        return rec.NOT_RUN, f"unchanged since {earlier[phase]}"
    if entry.kind == "manual":
        return rec.NOT_RUN, "only a person can do it"
    if entry.id in skip:
        return rec.NOT_RUN, "this gate decides it"
    if not required:
        return rec.NOT_RUN, f"phase {phase} was not part of this run"
    if phase in excused:
        return rec.NOT_RUN, excused[phase]
    return rec.NO_EVIDENCE, "nobody stated it" if entry.kind == "declared" else "no check reported it"


def _todo(entry: Entry, status: str) -> str:
    """What to do about a blocker, in one sentence."""
    if entry.kind == "declared":
        return "state it in the inventory of this environment"
    if status == rec.ERROR:
        return f"repair what broke the check, then run again with --tags {entry.gate_phase}"
    if status in (rec.NO_EVIDENCE, rec.NOT_RUN):
        return f"look for a skipped or missing check, then run again with --tags {entry.gate_phase}; or give a reason in not_applicable"
    return f"fix it, then run again with --tags {entry.gate_phase}"


def _blocker(entry: Entry, item: Mapping) -> dict:
    return {
        "id": entry.id, "title": entry.title, "host": item.get("host"), "status": item["status"], "expected": item.get("expected"),
        "observed": item.get("observed"), "reason": item.get("reason"), "todo": _todo(entry, item["status"]),
    }  # fmt: skip


def _problem_blocker(problem: Mapping) -> dict:
    where = f"line {problem['line']}: " if problem["line"] else ""
    return {
        "id": problem.get("id"), "title": "evidence.jsonl", "host": None, "status": rec.ERROR, "expected": None, "observed": None,
        "reason": f"evidence.jsonl: {where}{problem['reason']}",
        "todo": "check free space on the control node and which check wrote this, then run again",
    }  # fmt: skip


def _contract_blockers(catalogue: Catalogue, not_applicable: Mapping) -> list[dict]:
    """Excuses that excuse nothing: an unknown id, or no real reason."""
    blockers = []
    for entry_id, reason in not_applicable.items():
        entry = catalogue.get(entry_id)
        fault = None
        if entry is None:
            fault = "not_applicable names an id that no catalogue knows"
        elif not isinstance(reason, str) or is_placeholder(reason):
            fault = f"not_applicable needs a reason, not {reason!r}"
        if fault:
            blockers.append({"id": str(entry_id), "title": entry.title if entry else "not_applicable", "host": None, "status": rec.ERROR,
                             "expected": None, "observed": None, "reason": fault,
                             "todo": "correct not_applicable in the service contract"})  # fmt: skip
    return blockers


def describe(blocker: Mapping) -> str:
    """One line for a person: what, where, why, what to do."""
    subject = " ".join(filter(None, (blocker.get("id") or blocker.get("title"), f"on {blocker['host']}" if blocker.get("host") else None)))
    reason = str(blocker.get("reason") or blocker.get("status")).rstrip(".")
    expected, observed = shorten(blocker.get("expected")), shorten(blocker.get("observed"))
    # The threshold of a check that did not run is no figure, and a reason that names the figures needs no second time.
    told = blocker.get("observed") is None or (expected in reason and observed in reason)
    figures = "" if told else f" (expected {expected}, observed {observed})"
    return f"{subject}: {reason}{figures}" + (f". To do: {blocker['todo']}" if blocker.get("todo") else "")


def describe_all(blockers: Iterable[Mapping]) -> list[str]:
    """A line for each blocker; those that differ only in their id (nobody measured them) share one."""
    groups: dict[tuple, list[Mapping]] = {}
    for number, blocker in enumerate(blockers):
        alike = blocker["status"] == rec.NO_EVIDENCE and blocker.get("observed") is None and blocker.get("id")
        key = (blocker["reason"], blocker["todo"], blocker.get("host")) if alike else (number,)
        groups.setdefault(key, []).append(blocker)
    return [describe({**group[0], "id": ", ".join(str(blocker["id"]) for blocker in group)} if group[1:] else group[0])
            for group in groups.values()]  # fmt: skip


def shorten(value: object, limit: int = 120) -> str:
    """`value` as one short line of text; None is a dash."""
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
