"""Reads the reports of a service's own tests: JUnit XML, and coverage as coverage.py's JSON or Cobertura XML.

They were written by an unprivileged process, so nothing in them is believed that can be counted instead.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import xml.etree.ElementTree as ElementTree
from pathlib import Path

REPORT_LIMIT = 50 * 1024 * 1024  # bytes; a greater report is refused unread


class ReportError(Exception):
    """A report that is missing, cut or of another form; says what to do."""


def read_report(path: str | os.PathLike) -> bytes:
    """The bytes of a report that an unprivileged process wrote. Raises ReportError unless it is a plain file of sane size:
    root follows no link out of a folder that somebody else can write to."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ReportError("it was not written") from None
    except OSError as error:
        raise ReportError(f"it cannot be read: {error.strerror}") from error
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise ReportError("it is no plain file")
        if found.st_size > REPORT_LIMIT:
            raise ReportError(f"it has {found.st_size} bytes, more than {REPORT_LIMIT}")
        return file.read(REPORT_LIMIT)


def _xml(data: bytes) -> ElementTree.Element:
    if re.search(rb"<!\s*(DOCTYPE\s+[^>]*\[|ENTITY)", data):  # entities can make a small file huge; no reporter needs them
        raise ReportError("it declares entities")
    try:
        return ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise ReportError(f"it is no whole XML document: {error}") from error


def parse_junit(data: bytes) -> dict:
    """What a JUnit report says: {tests, passed, failures, errors, skipped: int, seconds: float, failed, skips: [name…]}.

    The test cases are counted, not the totals that the file claims. A case is an error, a failure or skipped, in this order; an
    expected failure (pytest's xfail) is no pass either and counts as skipped. Raises ReportError.
    """
    root = _xml(data)
    if root.tag not in ("testsuites", "testsuite"):
        raise ReportError(f"it is no JUnit report: its root is {root.tag}")
    found = {"tests": 0, "passed": 0, "failures": 0, "errors": 0, "skipped": 0, "seconds": 0.0, "failed": [], "skips": []}
    outcomes: dict[tuple, set] = {}
    reasons: dict[tuple, str] = {}
    for number, case in enumerate(root.iter("testcase")):
        # A test that fails and whose teardown fails too stands twice in pytest's report; a nameless one is always its own.
        key = (case.get("classname", ""), case.get("name") or f"#{number}")
        seen = outcomes.setdefault(key, set())
        for child in case:
            if child.tag in ("failure", "error", "skipped"):
                seen.add(child.tag)
                reasons.setdefault(key, " ".join((child.get("message") or child.get("type") or "").split()))
        found["seconds"] += _seconds(case.get("time"))
    for key, seen in outcomes.items():
        name = "::".join(part for part in key if part)
        found["tests"] += 1
        if "error" in seen:
            found["errors"] += 1
        elif "failure" in seen:
            found["failures"] += 1
        elif "skipped" in seen:
            found["skipped"] += 1
        else:
            found["passed"] += 1
        if seen & {"error", "failure"}:
            found["failed"].append(name)
        elif "skipped" in seen:
            found["skips"].append(f"{name} ({reasons[key][:120]})" if reasons.get(key) else name)
    found["seconds"] = round(found["seconds"], 3)
    return found


def _seconds(text: str | None) -> float:
    try:
        value = float(text or 0)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) and value >= 0 else 0.0


def parse_coverage(data: bytes, package: str) -> dict:
    """What a coverage report (coverage.py's JSON, or Cobertura XML) says about `package`, e.g. `example_service`.

    Returns {percent: float, lines, covered, files: int}: line coverage of the package's own files, in percent. Files of other packages
    and of the tests do not count. Raises ReportError, also if no line of the package was measured.
    """
    counted = _coverage_json(data) if data.lstrip()[:1] == b"{" else _coverage_xml(data)
    parts = package.split(".")
    own = {name: lines for name, lines in counted.items() if _inside(name, parts)}
    lines, covered = sum(total for total, _ in own.values()), sum(hit for _, hit in own.values())
    if not lines:
        raise ReportError(f"it measured no line of the package {package}")
    if not 0 <= covered <= lines:
        raise ReportError(f"it claims {covered} of {lines} lines")
    return {"percent": round(100 * covered / lines, 2), "lines": lines, "covered": covered, "files": len(own)}


def _inside(name: str, package: list[str]) -> bool:
    parts = list(Path(name.replace("\\", "/")).parts)
    if parts and parts[-1] == f"{package[-1]}.py":  # the package is one module
        parts[-1] = package[-1]
    return any(parts[at : at + len(package)] == package for at in range(len(parts) - len(package) + 1)) and "tests" not in parts


def _coverage_json(data: bytes) -> dict[str, tuple[int, int]]:
    try:
        files = json.loads(data)["files"]
        return {str(name): (int(one["summary"]["num_statements"]), int(one["summary"]["covered_lines"])) for name, one in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReportError(f"it is no coverage report of coverage.py: {type(error).__name__}: {error}") from error


def _coverage_xml(data: bytes) -> dict[str, tuple[int, int]]:
    root = _xml(data)
    if root.tag != "coverage":
        raise ReportError(f"it is no Cobertura report: its root is {root.tag}")
    # File names are relative to one of the sources; with a single one the whole path is known.
    sources = [source.text.strip() for source in root.iter("source") if source.text]
    prefix = f"{sources[0]}/" if len(sources) == 1 else ""
    files: dict[str, dict[str, bool]] = {}
    for entry in root.iter("class"):
        seen = files.setdefault(prefix + entry.get("filename", ""), {})
        for line in entry.iterfind("lines/line"):
            try:
                seen[line.get("number", "")] = seen.get(line.get("number", ""), False) or int(line.get("hits", "0")) > 0
            except ValueError as error:
                raise ReportError(f"it counts hits that are no number: {line.get('hits')!r}") from error
    return {name: (len(seen), sum(seen.values())) for name, seen in files.items()}
