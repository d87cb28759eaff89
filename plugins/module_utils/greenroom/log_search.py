"""What every host wrote about one request: the tool `greenroom-logs` on the log server.

`greenroom-logs REQUEST_ID` reads the collected JSON lines (role log_server), those of rotated and packed files too, and shows gateway,
service and worker in the order of time. `--audit` counts what is wrong with a program's lines. Standard library only.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ERRORS = {"error", "err", "critical", "crit", "alert", "emerg", "panic", "fatal"}
_LEVELS = ("debug", "info", "warning", "error", "critical")
_TIMES = ("timestamp", "time", "ts")


def lines(folder: Path, days: float) -> Iterator[str]:
    """The collected lines of files that were written to within `days` days, newest files last. Raises OSError."""
    found = [file for file in folder.glob("*.jsonl*") if time.time() - file.stat().st_mtime <= days * 86400]
    for file in sorted(found, key=lambda one: one.stat().st_mtime):
        with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8", errors="replace") as text:
            yield from text


def _id_of(line: dict) -> str | None:
    data = line.get("data")
    return data.get("request_id") if isinstance(data, dict) else None


def is_error(line: dict) -> bool:
    """Whether a line tells of an error: by its own level, by syslog's, or an answer of 5xx that the gateway gave."""
    data = line.get("data") if isinstance(line.get("data"), dict) else {}
    status = data.get("status")
    level = str(data.get("level", "" if data else line.get("severity", ""))).lower()
    return level in ERRORS or (isinstance(status, int) and status >= 500)


def search(folder: Path, wanted: str | None, days: float, errors: bool = False) -> list[dict]:
    """The lines of one request (`wanted`; None: of any), oldest first by the writer's time; `errors`: only such as tell of one.

    A line of text counts if it holds the id as a word. A line that is no JSON (a cut file) is passed over.
    """
    word = re.compile(rf"(?<![\w.-]){re.escape(wanted)}(?![\w.-])") if wanted else None
    found = []
    for raw in lines(folder, days):
        if wanted and wanted not in raw:
            continue
        try:
            line = json.loads(raw)
        except ValueError:
            continue
        if not isinstance(line, dict) or (errors and not is_error(line)):
            continue
        if wanted and _id_of(line) != wanted and not ("text" in line and word.search(line["text"])):
            continue
        found.append(line)
    return sorted(found, key=_moment)


def audit(folder: Path, program: str, since: float, days: float, level: str) -> dict:
    """Counts of a program's lines (`program`: the beginning of its name) since a moment: {lines, not_json, below_level, requests,
    without_request_id, errors, first_bad}. A line about a request is one that names a method, a path or a route.
    """
    found = {"lines": 0, "not_json": 0, "below_level": 0, "requests": 0, "without_request_id": 0, "errors": 0, "first_bad": None}
    least = _LEVELS.index(level.lower())
    for raw in lines(folder, days):
        try:
            line = json.loads(raw)
            if not line["program"].startswith(program) or datetime.datetime.fromisoformat(_zoned(line["time"])).timestamp() < since:
                continue
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        data = line.get("data")
        found["lines"] += 1
        bad = []
        if not isinstance(data, dict):
            bad, data = ["not_json"], {}
        elif str(data.get("level", "info")).lower() in _LEVELS[:least]:
            bad.append("below_level")
        if {"method", "path", "route"} & set(data):
            found["requests"] += 1
            bad += [] if data.get("request_id") else ["without_request_id"]
        bad += ["errors"] if is_error(line) else []
        for kind in bad:
            found[kind] += 1
        if bad and not found["first_bad"]:
            found["first_bad"] = f"{line['host']} {line['program']} {line['time']}: {', '.join(bad)}"
    return found


def _zoned(text: str) -> str:
    return text.replace("Z", "+00:00")


def _moment(line: dict) -> str:
    data = line.get("data") if isinstance(line.get("data"), dict) else {}
    own = next((data[name] for name in _TIMES if isinstance(data.get(name), str)), line.get("time", ""))
    return _zoned(own)


def shown(line: dict) -> str:
    """A line for people."""
    data, hidden = line.get("data"), (*_TIMES, "request_id", "service", "logger")
    said = line.get("text", "")
    if isinstance(data, dict):
        said = " ".join(f"{key}={value}" for key, value in data.items() if key not in hidden)
    return f"{_moment(line)[:23]} {line.get('host', '-')} {line.get('program', '-')}: {said}"


def main(argv: list[str] | None = None) -> int:
    """0: something was found; 1: nothing; 2: the logs cannot be read."""
    parser = argparse.ArgumentParser(prog="greenroom-logs", description=__doc__.splitlines()[0])
    parser.add_argument("request_id", nargs="?", help="the X-Request-Id that the gateway answered with")
    parser.add_argument("--dir", type=Path, default=Path("/var/log/greenroom"))
    parser.add_argument("--days", type=float, default=7)
    parser.add_argument("--errors", action="store_true", help="only lines that tell of an error; without an id those of every request")
    parser.add_argument("--json", action="store_true", help="the lines as they are kept")
    parser.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="keep looking until something is found")
    parser.add_argument("--audit", metavar="PROGRAM", help="count what is wrong with the lines of programs whose name begins so")
    parser.add_argument("--since", type=float, default=0, metavar="SECONDS", help="with --audit: only lines after this moment (since 1970)")
    parser.add_argument("--level", default="info", choices=_LEVELS, help="with --audit: the least level there may be")
    asked = parser.parse_args(argv)
    if not (asked.request_id or asked.errors or asked.audit):
        parser.error("give a request id, --errors or --audit")
    if asked.audit:
        print(json.dumps(audit(asked.dir, asked.audit, asked.since, asked.days, asked.level)))
        return 0
    until = time.monotonic() + asked.wait
    while True:
        try:
            if not asked.dir.is_dir():
                raise FileNotFoundError(2, "there is no such folder; logs are collected on the monitoring host", str(asked.dir))
            found = search(asked.dir, asked.request_id, asked.days, asked.errors)
        except OSError as error:
            print(f"greenroom-logs: {error.filename}: {error.strerror}", file=sys.stderr)
            return 2
        if found or time.monotonic() >= until:
            break
        time.sleep(0.5)
    for line in found:
        print(json.dumps(line, ensure_ascii=False) if asked.json else shown(line))
    if not found:
        print(f"greenroom-logs: nothing in {asked.dir} within {asked.days:g} days", file=sys.stderr)
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
