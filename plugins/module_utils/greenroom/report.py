"""The report of a run as data (report.json), from run.json and evidence.jsonl; `render` makes it readable.

Everything is computed from what the run recorded and from the catalogue; no text says more than the records do. Runs on the control
node only (PyYAML, Jinja2). `scripts/report [run id]` renders the report of a run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from . import gate, render
from . import records as rec
from .catalogue import Catalogue, CatalogueError, load
from .durable import write_atomic

PROJECT = Path(__file__).resolve().parents[3]
RUN_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")

# Phases that a deployment listed as unchanged (a no-op) does not measure again; prepare and verify it does (design: no-op deploy).
UNCHANGED_IN_NO_OP = ("release", "database", "configure", "load", "protect")

EXIT_DONE, EXIT_FAILED, EXIT_REFUSED, EXIT_PERSON, EXIT_BUSY = 0, 2, 3, 4, 75
VERDICTS = {EXIT_DONE: "pass", EXIT_FAILED: "fail", EXIT_REFUSED: "refused", EXIT_PERSON: "person_needed", EXIT_BUSY: "busy"}


def load_catalogue(paths: list[str], project: Path = PROJECT) -> tuple[Catalogue, list[str]]:
    """The project's catalogue and those at `paths` (relative ones start at `project`). Returns (catalogue, faults): a faulty file
    leaves the project's own entries, so that a report can still be written."""
    own = project / "catalogue" / "any.yml"
    wanted = [own, *(found for found in (project / path for path in paths) if found.resolve() != own.resolve())]
    faults = []
    for attempt in (wanted, [own]):
        try:
            return load(attempt), faults
        except CatalogueError as error:
            faults.append(str(error))
    return Catalogue(), faults


def earlier_phases(run: Mapping) -> dict[str, str]:
    """Phases proven by an earlier run (phase -> run id): as the run stated them, or those that a no-op left alone."""
    facts = run.get("facts") or {}
    gated = {phase for phases in run.get("gated") or [] for phase in phases}
    if isinstance(facts.get("earlier"), Mapping):
        return {str(phase): str(run) for phase, run in facts["earlier"].items()}
    if facts.get("no_op_of"):
        return dict.fromkeys((phase for phase in UNCHANGED_IN_NO_OP if phase not in gated), str(facts["no_op_of"]))
    return {}


def judge(run: Mapping, evidence: list[dict], problems: list[dict], catalogue: Catalogue) -> dict:
    """The gate over all phases of the run. A phase that the run did not reach, or in which it stopped before its own gate, is
    `not_run`, not a blocker for each of its ids."""
    facts = run.get("facts") or {}
    reached = [phase["name"] for phase in run.get("phases") or []]
    gated = {phase for phases in run.get("gated") or [] for phase in phases}
    excused = {}
    if run.get("check"):
        excused = dict.fromkeys(run.get("selected") or [], "check mode changes nothing, so it cannot be measured")
    elif run.get("exit_status") or run.get("interrupted"):
        last = reached[-1] if reached else None
        for phase in run.get("selected") or []:
            if phase not in reached:
                excused[phase] = f"the run stopped in phase {last}, before it" if last else "the run stopped before it"
            elif phase == last and phase not in gated:
                excused[phase] = "the run stopped in this phase before it was measured"
    elif facts.get("partial"):
        excused = dict.fromkeys(run.get("selected") or [], facts["partial"])
    known = {entry.gate_phase for entry in catalogue}
    phases = [phase for phase in run.get("selected") or [] if phase in known]
    judged = gate.evaluate(
        catalogue, evidence, phases, problems=problems, not_applicable=facts.get("not_applicable"), earlier=earlier_phases(run),
        hosts=facts.get("hosts"), excused=excused,
    )  # fmt: skip
    if not phases:  # an operation without a catalogue phase asks for nothing; then the gate's own complaint is no news
        judged["blockers"] = [item for item in judged["blockers"] if item["id"] or item["title"] != "the gate itself"]
        judged["verdict"] = rec.FAIL if judged["blockers"] else rec.PASS
    return judged


def build(run: Mapping, evidence: list[dict], problems: list[dict], catalogue: Catalogue, previous: Mapping | None = None) -> dict:
    """The report as data (report.json).

    `run` is the content of run.json, `previous` the report.json of the run to compare with. Tasks that all succeeded while the evidence
    is red make exit status 2; exit status 0 means verdict pass, or says in its verdict what it is no proof of (checked, partial).
    """
    facts = run.get("facts") or {}
    judged = judge(run, evidence, problems, catalogue)
    # A gate's own record says only that there are blockers; it is one itself only if no other is left.
    gates = {item["id"] for item in evidence if (item.get("detail") or {}).get("gate")}
    judged["blockers"] = [item for item in judged["blockers"] if item["id"] not in gates] or judged["blockers"]
    exit_status = run.get("exit_status") or 0
    failures = list(run.get("failures") or [])
    if exit_status == EXIT_DONE and (judged["blockers"] or run.get("errors") or run.get("interrupted")):
        exit_status = EXIT_FAILED
    shown = [item for item in failures if not item.get("in_evidence")] if judged["blockers"] else failures
    verdict = VERDICTS.get(exit_status, "fail")
    if verdict == "pass" and run.get("check"):
        verdict = "checked"
    elif verdict == "pass" and judged["verdict"] == "incomplete" and facts.get("partial"):
        verdict = "partial"
    elif verdict == "pass" and judged["verdict"] != rec.PASS:
        verdict, exit_status = "fail", EXIT_FAILED
    report = {
        "run_id": run.get("run_id"), "playbook": run.get("playbook"), "service": facts.get("service"), "version": facts.get("version"),
        "release": facts.get("release"), "environment": facts.get("environment"), "verdict": verdict, "exit_status": exit_status,
        "sentence": None, "started": run.get("started"), "finished": run.get("finished"), "duration_s": run.get("duration_s"),
        "check": bool(run.get("check")), "user": run.get("user"), "control_node": run.get("control_node"), "tags": run.get("tags") or [],
        "phases": _phases(run, judged, shown, exit_status), "counts": judged["counts"], "required": judged["required"],
        "passed": judged["passed"], "blockers": judged["blockers"], "failures": shown, "errors": list(run.get("errors") or []),
        "earlier": earlier_phases(run), "checklist": judged["results"], "changes": None, "evidence": evidence, "facts": facts,
    }  # fmt: skip
    report["sentence"] = sentence(report)
    if previous:
        report["changes"] = changes(previous, report)
    return report


def _phases(run: Mapping, judged: Mapping, failures: list, exit_status: int) -> list[dict]:
    """One dict for each phase of the playbook: name, seconds, verdict, reason, start_s, and of its required checks that apply how many
    there are (required) and how many passed. A failed task makes the verdict of its phase `fail`."""
    earlier = earlier_phases(run)
    ran = {phase["name"]: phase for phase in run.get("phases") or []}
    listed = []
    for name in dict.fromkeys([*(run.get("planned") or []), *ran]):
        mine = [result for result in judged["results"] if result["required"] and result["gate_phase"] == name]
        blocked = [
            result for result in judged["results"] if result["gate_phase"] == name
            and result["status"] in gate.BLOCKING
        ]  # fmt: skip
        apply = sum(result["status"] != rec.NOT_APPLICABLE for result in mine)
        phase = {
            "name": name, "seconds": None, "verdict": rec.NOT_RUN, "reason": None, "start_s": None,
            "required": apply, "passed": sum(result["status"] == rec.PASS for result in mine),
        }  # fmt: skip
        if name in ran:
            phase.update(seconds=ran[name]["seconds"], start_s=ran[name]["start_s"], verdict=rec.PASS)
        failed_here = blocked or (exit_status and any(item.get("phase") == name for item in failures))
        if failed_here:
            phase["verdict"] = rec.FAIL
        elif name in earlier:
            phase.update(verdict=rec.NOT_RUN, reason=f"unchanged since {earlier[name]}")
        elif name not in (run.get("selected") or []):
            phase["reason"] = "not part of this run"
        elif name not in ran:
            phase["reason"] = "the run stopped before it"
        elif any(result["status"] == rec.NOT_RUN for result in mine):
            phase["verdict"] = "incomplete"
        listed.append(phase)
    return listed


def sentence(report: Mapping) -> str:
    """The verdict in one or two sentences, for somebody who reads nothing else."""
    facts = report["facts"]
    what = " ".join(filter(None, (report["service"], str(report["version"]) if report["version"] else None))) or str(report["playbook"])
    what += f" on {report['environment']}" if report["environment"] else ""
    blockers = len(report["blockers"]) + len(report["failures"])
    stopped = next((phase["name"] for phase in reversed(report["phases"]) if phase["verdict"] == rec.FAIL), None)
    if report["verdict"] == "pass":
        if facts.get("no_op_of"):
            start = f"{what}: nothing to do, it is live since {facts['no_op_of']}"
        elif report["required"]:
            start = f"{what} is proven"
        else:
            return f"{what}: done in {render.duration(report['duration_s'])}."
        partial = [phase["name"] for phase in report["phases"] if phase["required"] == 0 and phase["reason"] == "not part of this run"]
        proved = [phase["name"] for phase in report["phases"] if phase["required"]]
        limits = f", for {', '.join(proved)} only" if partial else ""
        return f"{start}{limits}. {report['passed']} of {report['required']} required checks were measured and passed" + (
            f", {apart} {'does' if apart == 1 else 'do'} not apply." if (apart := report["required"] - report["passed"]) else "."
        )
    if report["verdict"] == "checked":
        return f"{what}: checked without changing anything. This proves nothing about the release."
    if report["verdict"] == "partial":
        return f"{what}: done for a part of the fleet ({facts['partial']}). What was measured passed; this proves no phase."
    if report["verdict"] == "busy":
        return f"{what}: somebody else holds the lease. Nothing was touched."
    if report["verdict"] == "refused":
        return f"{what}: refused, {render.counted(blockers, 'blocker')}. Nothing was touched."
    where = f" in phase {stopped}" if stopped else ""
    if report["verdict"] == "person_needed":
        return f"{what}: failed{where}, {render.counted(blockers, 'blocker')}. A person has to decide what comes next." + (
            f" Users are on {facts['users_on']}." if facts.get("users_on") else ""
        )
    users = facts.get("users_on")
    after = f"Users are on {users}." if users else "Users are where they were before this run."
    return f"{what}: failed{where}, {render.counted(blockers, 'blocker')}. {after}"


def changes(before: Mapping, now: Mapping) -> dict:
    """What differs between two reports: verdict, version, checks that changed their status, values that moved.

    A number counts as moved when it changed by more than a quarter; anything else when it differs.
    """
    old = {item["id"]: item for item in before.get("checklist") or []}
    found = {
        "run_id": before.get("run_id"), "verdict": [before.get("verdict"), now["verdict"]],
        "version": [before.get("version"), now["version"]], "duration_s": [before.get("duration_s"), now["duration_s"]],
        "phases": {phase["name"]: phase["seconds"] for phase in before.get("phases") or []}, "statuses": [], "values": [],
        "gone": sorted(set(old) - {item["id"] for item in now["checklist"]}),
    }  # fmt: skip
    for item in now["checklist"]:
        was = old.get(item["id"])
        if was is None or was.get("status") != item["status"]:
            found["statuses"].append({**{key: item[key] for key in ("id", "title", "reason")},
                                      "before": was and was.get("status"), "now": item["status"]})  # fmt: skip
        elif item["records"] and _moved(was.get("observed"), item["observed"]):
            found["values"].append(
                {"id": item["id"], "title": item["title"], "before": was.get("observed"), "now": item["observed"], "unit": item["unit"]}
            )
    return found


def _moved(before: object, now: object) -> bool:
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (before, now))
    if numbers:
        return abs(now - before) > abs(before) / 4
    return before != now


def find_previous(folder: Path, run: Mapping) -> dict | None:
    """The newest report before this run, of the same playbook, service and environment; runs in check mode do not count."""
    facts = run.get("facts") or {}
    for path in sorted((item for item in folder.glob("*/report.json") if RUN_ID.fullmatch(item.parent.name)), reverse=True):
        if path.parent.is_symlink() or path.parent.name >= str(run.get("run_id")):
            continue
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        same = all(report.get(key) == facts.get(key) for key in ("service", "environment"))
        if same and report.get("playbook") == run.get("playbook") and not report.get("check"):
            return report
    return None


def make(run: Mapping, run_dir: Path, project: Path = PROJECT) -> dict:
    """The report of a run as data, from `run` and the evidence in `run_dir`. Never raises for faulty evidence: that is in the report."""
    catalogue, faults = load_catalogue(run.get("catalogues") or [], project)
    run = {**run, "errors": [*(run.get("errors") or []), *faults]}
    path, lines = run_dir / "evidence.jsonl", run.get("evidence_lines")
    evidence, problems = gate.read_evidence(path, lines) if path.exists() or lines else ([], [])
    complete(evidence, catalogue)
    report = build(run, evidence, problems, catalogue, find_previous(run_dir.parent, run))
    report["evidence_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
    return report


def save(report: Mapping, run_dir: Path) -> None:
    """Write report.json, report.md, report.html and junit.xml. Raises OSError."""
    write_atomic(run_dir / "report.json", (json.dumps(rec.plain(report), ensure_ascii=False, indent=1) + "\n").encode())
    write_atomic(run_dir / "report.md", render.markdown(report).encode())
    write_atomic(run_dir / "report.html", render.html(report).encode())
    write_atomic(run_dir / "junit.xml", render.junit(report).encode())


def write(run_dir: Path, project: Path = PROJECT) -> dict:
    """Render all reports of the run in `run_dir` again, from its run.json and evidence.jsonl; returns the report.

    Raises OSError if something cannot be read or written, ValueError if run.json is no JSON.
    """
    report = make(json.loads((run_dir / "run.json").read_text(encoding="utf-8")), run_dir, project)
    save(report, run_dir)
    return report


def complete(evidence: list[dict], catalogue: Catalogue) -> None:
    """Add phase, title, kind and source from the catalogue to records that lack them."""
    for item in evidence:
        entry = catalogue.get(item.get("id"))
        if entry:
            for key, value in (("phase", entry.phase), ("title", entry.title), ("kind", entry.kind), ("source", list(entry.source))):
                item.setdefault(key, value)


def main(arguments: list[str] | None = None) -> int:
    """Render the report of a run again: `scripts/report [run id or folder]`, without one the newest."""
    parser = argparse.ArgumentParser(prog="scripts/report", description=main.__doc__)
    parser.add_argument("run", nargs="?", default="latest")
    chosen = parser.parse_args(arguments).run
    folder = Path(os.environ.get("GREENROOM_REPORTS") or PROJECT / "reports")
    run_dir = Path(chosen) if Path(chosen).is_dir() else folder / chosen
    try:
        report = write(run_dir.resolve())
    except (OSError, ValueError) as error:
        print(f"report: no report can be made from {run_dir}: {error}. Known runs: see {folder}", file=sys.stderr)
        return 1
    print(f"{render.WORDS[report['verdict']]}: {report['sentence']}\n{run_dir / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
