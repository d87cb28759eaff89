"""A report to read: Markdown, one self-contained HTML page, JUnit, lines for the terminal. Pure functions of report.json."""

from __future__ import annotations

import contextlib
import datetime
import json
import re
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from . import gate, plot
from . import records as rec

TEMPLATES = Path(__file__).resolve().parents[2] / "callback" / "greenroom_report"
NOTHING = "\N{EN DASH}"  # stands for a value that is not there
WORDS = {
    "pass": "Passed", "fail": "Failed", "refused": "Refused", "person_needed": "A person is needed", "busy": "Busy",
    "checked": "Checked only", "partial": "A part of the fleet",
    "error": "error", "no_evidence": "no evidence", "not_applicable": "not applicable",
    "not_run": "not run", "incomplete": "not measured",
}  # fmt: skip


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: `0.4 s`, `12 s`, `4 min 05 s`, `1 h 02 min`."""
    if seconds is None:
        return NOTHING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def counted(number: int, noun: str) -> str:
    """`1 blocker`, `2 blockers`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def cell(text: object, limit: int = 160) -> str:
    """`text` safe inside a cell of a Markdown table: one line, nothing in it is markup."""
    return re.sub(r"([\\`*_\[\]<>|~#!&])", r"\\\1", gate.shorten(text, limit)) if text is not None else NOTHING


def show(value: object, unit: str | None = None) -> str:
    """A measured value as a reader wants it: yes, no, a number, a list of short texts."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, float):
        text = f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    elif isinstance(value, int) and not isinstance(value, bool):
        text = f"{value:,}" if abs(value) >= 100_000 else str(value)
    elif isinstance(value, (list, tuple)) and all(isinstance(item, (str, int, float)) for item in value):
        text = ", ".join(show(item) for item in value) or "none"
    elif isinstance(value, Mapping) and all(not isinstance(item, (Mapping, list)) for item in value.values()):
        text = ", ".join(f"{key}: {show(item)}" for key, item in value.items()) or "none"
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return f"{text} {unit}" if unit else text


def markdown(report: Mapping) -> str:
    """The report as Markdown: verdict, facts, phases, blockers, checklist."""
    lines = [f"# {WORDS[report['verdict']]}: {cell(report['sentence'], 400)}", ""]
    lines += [f"- {name}: {cell(value)}" for name, value in facts_of(report)]
    lines += ["", "## Phases", "", "| phase | seconds | verdict | checks | |", "|---|---:|---|---|---|"]
    for phase in report["phases"]:
        seconds = "" if phase["seconds"] is None else f"{phase['seconds']:.0f}"
        checks = f"{phase['passed']} of {phase['required']}" if phase["required"] else ""
        verdict = phase_word(phase)
        lines.append(f"| {cell(phase['name'])} | {seconds} | {verdict} | {checks} | {cell(phase['reason'] or '')} |")
    if report["blockers"] or report["failures"] or report["errors"]:
        lines += ["", "## Blockers", ""]
        lines += [f"- {cell(line, 2000)}" for line in gate.describe_all(report["blockers"])]
        lines += [f"- {cell(failure_line(item), 600)}" for item in report["failures"]]
        lines += [f"- Greenroom itself: {cell(error, 600)}" for error in report["errors"]]
    if report["changes"]:
        lines += ["", f"## Changed since {report['changes']['run_id']}", ""]
        lines += [
            f"- {cell(item['id'])}: {WORDS.get(item['before'], 'new').lower()} → {WORDS[item['now']].lower()}"
            for item in report["changes"]["statuses"]
        ]
        lines += [
            f"- {cell(item['id'])}: {cell(show(item['before'], item['unit']))} → {cell(show(item['now'], item['unit']))}"
            for item in report["changes"]["values"]
        ]
        if not report["changes"]["statuses"] and not report["changes"]["values"]:
            lines.append("Nothing.")
    lines += ["", "## Checklist"]
    for phase in dict.fromkeys(item["phase"] for item in report["checklist"]):
        lines += ["", f"### {cell(phase)}", "", "| status | requirement | expected | observed | reason |", "|---|---|---|---|---|"]
        for item in report["checklist"]:
            if item["phase"] == phase:
                lines.append(
                    f"| {WORDS[item['status']].lower()} | {cell(item['title'], 300)} ({cell(item['id'])}) | {cell(show(item['expected']))} "
                    f"| {cell(show(item['observed'], item['unit']))} | {cell(item['reason'] or '', 300)} |"
                )
    return "\n".join(lines) + "\n"


def phase_word(phase: Mapping) -> str:
    """The verdict of a phase in a word; a phase that requires nothing was only done, not passed."""
    return "done" if phase["verdict"] == rec.PASS and not phase["required"] else WORDS[phase["verdict"]].lower()


def facts_of(report: Mapping) -> list[tuple[str, str]]:
    """What a run was, as (name, text) pairs; what nobody stated is left out."""
    facts = report["facts"]
    pairs = [
        ("Service", report["service"]), ("Version", report["version"]), ("Release", report["release"]),
        ("Commit", facts.get("commit")), ("Environment", report["environment"]), ("Unchanged since", facts.get("no_op_of")),
        ("Started", when(report["started"])), ("Took", duration(report["duration_s"])),
        ("Started by", " on ".join(filter(None, (report["user"], report["control_node"])))), ("Approved by", facts.get("approved_by")),
        ("Reason", facts.get("reason")), ("Playbook", report["playbook"]),
        ("Tags", ", ".join(report["tags"]) if report["tags"] not in ([], ["all"]) else None),
        ("Mode", "check: nothing was changed" if report["check"] else None), ("Exit status", report["exit_status"]),
        ("Run", report["run_id"]),
    ]  # fmt: skip
    return [(name, str(value)) for name, value in pairs if value not in (None, "")]


def when(stamp: str | None) -> str | None:
    """An ISO 8601 time in UTC as a person reads it, `2026-11-20 09:12:44 UTC`."""
    if not stamp:
        return None
    try:
        return datetime.datetime.fromisoformat(stamp).strftime("%Y-%m-%d %H:%M:%S UTC")
    except ValueError:
        return stamp


def failure_line(failure: Mapping) -> str:
    """A failed task as one line."""
    where = f" ({failure['where']})" if failure.get("where") else ""
    return f"{failure.get('host')}: task \"{failure.get('task')}\"{where}: {failure.get('reason')}"


def junit(report: Mapping) -> str:
    """The checklist as JUnit XML: a suite for each phase, and one for tasks that failed without evidence."""
    root = ElementTree.Element("testsuites", name=f"greenroom {report['run_id']}", time=f"{report['duration_s'] or 0:.3f}")
    groups = {phase: [] for phase in dict.fromkeys(item["phase"] for item in report["checklist"])}
    for item in report["checklist"]:
        groups[item["phase"]].append(item)
    for phase, items in groups.items():
        bad = [item for item in items if item["status"] in (rec.FAIL, rec.NO_EVIDENCE)]
        broken = [item for item in items if item["status"] == rec.ERROR]
        idle = [item for item in items if item["status"] in (rec.NOT_RUN, rec.NOT_APPLICABLE)]
        suite = ElementTree.SubElement(
            root, "testsuite", name=phase, tests=str(len(items)), failures=str(len(bad)), errors=str(len(broken)), skipped=str(len(idle))
        )
        for item in items:
            seconds = sum(one.get("duration_ms") or 0 for one in item["records"]) / 1000
            case = ElementTree.SubElement(suite, "testcase", classname=f"greenroom.{phase}", name=item["id"], time=f"{seconds:.3f}")
            tag = {rec.FAIL: "failure", rec.NO_EVIDENCE: "failure", rec.ERROR: "error"}.get(item["status"], "skipped")
            if item["status"] != rec.PASS:
                fault = ElementTree.SubElement(case, tag, message=xml_text(f"{item['status']}: {item['reason']}"))
                if tag != "skipped":
                    fault.text = xml_text(f"{item['title']}\nexpected: {show(item['expected'])}\nobserved: {show(item['observed'])}")
    loose = [*map(failure_line, report["failures"]), *report["errors"]]
    loose += [gate.describe(item) for item in report["blockers"] if not any(item["id"] == one["id"] for one in report["checklist"])]
    if loose and report["exit_status"]:
        total = str(len(loose))
        suite = ElementTree.SubElement(root, "testsuite", name="run", tests=total, failures="0", errors=total, skipped="0")
        for number, text in enumerate(loose, 1):
            case = ElementTree.SubElement(suite, "testcase", classname="greenroom.run", name=f"failure {number}", time="0")
            ElementTree.SubElement(case, "error", message=xml_text(text))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def xml_text(text: str) -> str:
    """`text` without the control characters that XML 1.0 cannot hold."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


def _clock(seconds: int) -> str:
    """Seconds on the time axis: `0`, `30 s`, `1:30`, `1:02:00`."""
    if seconds < 60:
        return f"{seconds} s" if seconds else "0"
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def timeline(report: Mapping, width: int = 960, label: int = 110, figures: int = 190, row: int = 30, top: int = 26) -> dict:
    """Geometry of the timeline: bars of the phases on one time axis, in SVG user units."""
    ran = [phase for phase in report["phases"] if phase["seconds"] is not None]
    total = max([report["duration_s"] or 0, *(phase["start_s"] + phase["seconds"] for phase in ran)], default=0) or 1
    room = width - label - figures
    before = (report["changes"] or {}).get("phases") or {}
    step = next(step for step in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 86400) if total / step <= 8 or step == 86400)
    bars = []
    for number, phase in enumerate(report["phases"]):
        bar = {"name": phase["name"], "verdict": phase["verdict"], "y": top + number * row, "x": None, "text": phase["reason"] or "not run"}
        if phase["seconds"] is not None:
            checks = f"{phase['passed']} of {phase['required']}" if phase["required"] else ""
            bar.update(
                x=label + phase["start_s"] / total * room, width=max(phase["seconds"] / total * room, 2),
                text="unchanged" if phase["verdict"] == rec.NOT_RUN else duration(phase["seconds"]), checks=checks,
            )  # fmt: skip
            if isinstance(before.get(phase["name"]), (int, float)):
                bar["before"] = min(max(before[phase["name"]] / total * room, 2), room)
        bars.append(bar)
    ticks = [{"x": label + at * step / total * room, "text": _clock(at * step)} for at in range(int(total / step) + 1)]
    height = top + len(bars) * row + 26
    return {"width": width, "height": height, "row": row, "label": label, "right": width - figures, "bars": bars, "ticks": ticks}


def plots(facts: Mapping) -> list[str]:
    """The plots that the run's measurements have left (`plot.svg`), as SVG; one that is no plot is left out."""
    drawn = []
    for one in facts.get("plots") or []:
        with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
            drawn.append(plot.svg(one))
    return drawn


def html(report: Mapping) -> str:
    """The report as one HTML file without any external resource; everything in it is escaped."""
    import jinja2  # on the control node only
    import markupsafe  # comes with it

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(show=show, duration=duration)
    environment.filters.update(shorten=gate.shorten, when=when)
    groups: dict[str, list] = {}
    for item in report["checklist"]:
        whole = [dict.fromkeys(rec.KEYS) | one for one in item["records"]]
        groups.setdefault(item["phase"], []).append({**item, "records": whole})
    order = [phase["name"] for phase in report["phases"] if phase["name"] in groups]
    ran = {item["phase"] for item in report["checklist"] if item["records"]}
    return environment.get_template("report.html.j2").render(
        plots=[markupsafe.Markup(svg) for svg in plots(report["facts"])], plot_style=plot.STYLE,
        report=report, words=WORDS, facts=facts_of(report), timeline=timeline(report), counted=counted, statuses=rec.STATUSES,
        groups=[(name, groups[name]) for name in [*order, *(name for name in groups if name not in order)]],
        opened=ran | {name for name, items in groups.items() if any(item["required"] for item in items)}, failure_line=failure_line,
    )  # fmt: skip


def summary(report: Mapping) -> list[tuple[str, str]]:
    """The end of a run on the terminal, as (line, verdict that colours it): phases with seconds and verdicts, then the blockers."""
    width = max((len(phase["name"]) for phase in report["phases"]), default=0)
    lines = []
    for phase in report["phases"]:
        seconds = "" if phase["seconds"] is None else duration(phase["seconds"])
        checks = phase["reason"] or (f"{phase['passed']} of {phase['required']} checks" if phase["required"] else "")
        line = f"  {phase['name']:{width}}  {seconds:>12}  {phase_word(phase):12}  {checks}"
        lines.append((line.rstrip(), phase["verdict"]))
    lines.append(("", rec.PASS))
    loose = report["failures"] if report["exit_status"] else []
    return lines + [(f"  - {line}", rec.FAIL) for line in [*gate.describe_all(report["blockers"]), *map(failure_line, loose)]]
