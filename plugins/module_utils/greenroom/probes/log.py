"""Log: every line since a moment is read, errors are counted, lines that are not JSON are named by number.

Nothing to read is no evidence, not cleanliness; `grep ERROR` in the last hundred lines is neither (001 §8.1, runbook 003 L487-499).
"""

from __future__ import annotations

import datetime
import json
import os
import re

from ..masking import mask_lookalikes
from .base import Arg, Context, Outcome, Probe, execute, last_line, shown
from .compare import at_path

LEVELS = {"TRACE": 5, "DEBUG": 10, "INFO": 20, "NOTICE": 25, "WARNING": 30, "WARN": 30, "ERROR": 40, "ERR": 40, "SEVERE": 45,
          "CRITICAL": 50, "CRIT": 50, "FATAL": 50, "ALERT": 55, "EMERG": 60, "PANIC": 60}  # fmt: skip
_PRIORITIES = {0: 60, 1: 55, 2: 50, 3: 40, 4: 30, 5: 25, 6: 20, 7: 10}  # of syslog
_WORD = re.compile(r"\b(" + "|".join(sorted(LEVELS, key=len, reverse=True)) + r")\b|(Traceback \(most recent call last\))", re.IGNORECASE)
_TIME = re.compile(r"(\d{4})[-/](\d\d)[-/](\d\d)[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d+))?\s?(Z|UTC|[+-]\d\d:?\d\d)?")


def run(args: dict, context: Context) -> Outcome:
    since = moment(args["since"]) if args["since"] is not None else None
    minimum = LEVELS[args["level_min"]]
    allow = [re.compile(pattern) for pattern in args["allow"]]
    forbidden = [(key, context.secret(key)) for key in args["absent_secrets"]]
    name = args["unit"] or args["path"]
    wanted = f"≤ {args['errors_max']} lines of {args['level_min']} or worse" + (", every line JSON" if args["format"] == "json" else "")
    wanted += "".join(f", field {field} in every line" for field in args["fields"]) + (", no secret in it" if forbidden else "")
    count = {"lines": 0, "errors": 0, "allowed": 0, "not_json": 0, "missing_fields": 0, "secrets": 0}
    first: dict = {}

    def note(kind: str, number: int, text: str) -> None:
        count[kind] += 1
        first.setdefault(kind, f"line {number}: {text}")

    event = re.compile(args["event"]) if args["event"] else None
    pending: dict = {"key": None, "lines": [], "allowed": False}

    def settle(key: str | None = None) -> None:
        """One event is over: it is allowed if one of its lines is, and counts with all of them."""
        for number, excerpt in pending["lines"]:
            if pending["allowed"]:
                count["allowed"] += 1
            else:
                note("errors", number, excerpt)
        pending.update(key=key, lines=[], allowed=False)

    state: dict = {}
    try:
        for number, text, level in _lines(args, context, since, state):
            if number % 1000 == 0:
                context.remaining()
            data = None
            if args["format"] == "json":
                data = _parse(text)
                if since is not None and data is not None and _before(data, args["time_field"], since):
                    continue
            count["lines"] += 1
            for key, value in forbidden:
                if value and value in text:
                    note("secrets", number, f"holds the secret {key}")
            if args["format"] == "json":
                if data is None:
                    note("not_json", number, f"{len(text)} characters that are no JSON object")
                    continue
                lacking = [
                    field for field in args["fields"] if at_path(data, field) in (None, "") or repr(at_path(data, field)) == "absent"
                ]
                if lacking:
                    note("missing_fields", number, f"has no {', '.join(lacking)}")
                level = _level(data, args["level_field"])
            elif level is None or level < minimum:
                found = [LEVELS[word.upper()] if word else 40 for word, _ in _WORD.findall(text)]
                level = max([level or 0, *found])
            if level >= minimum:
                head = event.match(text) if event else None
                if not head or head.group() != pending["key"]:
                    settle(head.group() if head else None)
                pending["lines"].append((number, _excerpt(text, data, args["message_fields"])))
                pending["allowed"] = pending["allowed"] or any(pattern.search(text) for pattern in allow)
        settle()
    except FileNotFoundError:
        return Outcome("no_evidence", wanted, "no such file", f"{name} does not exist: nothing was read")
    detail = {**count, **state, **{f"first_{kind}": text for kind, text in first.items()}}
    seen = f"{count['lines']} lines, {count['errors']} of {args['level_min']} or worse" + (
        f" ({count['allowed']} more allowed)" if count["allowed"] else ""
    )
    if args["format"] == "json":
        seen += f", {count['not_json']} not JSON"
    if not count["lines"] and not args["allow_empty"]:
        return Outcome(
            "no_evidence",
            wanted,
            seen,
            f"{name} holds no line since then: that shows nothing; does it log there, and at this level?",
            detail,
        )
    problems = []
    if count["errors"] > args["errors_max"]:
        problems.append(f"{count['errors']} lines of {args['level_min']} or worse, the first is {first['errors']}")
    problems += [first[kind] for kind in ("not_json", "missing_fields", "secrets") if count[kind]]
    return Outcome(not problems, wanted, seen, f"{name}: {'; '.join(problems)}" if problems else None, detail)


def moment(value) -> float:
    """Seconds since 1970 of a number, of its text, or of an ISO 8601 time (without a zone: the host's own). Raises ValueError."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if re.fullmatch(r"\d+(\.\d+)?", str(value)):
        return float(value)
    found = _TIME.match(str(value))
    if not found:
        raise ValueError("is neither seconds since 1970 nor an ISO 8601 time")
    return _epoch(found)


def _epoch(found) -> float:
    year, month, day, hour, minute, second = (int(part) for part in found.groups()[:6])
    fraction = float(f"0.{found.group(7)}") if found.group(7) else 0.0
    zone = found.group(8)
    when = datetime.datetime(year, month, day, hour, minute, second)
    if zone in ("Z", "UTC"):
        return when.replace(tzinfo=datetime.timezone.utc).timestamp() + fraction  # noqa: UP017 - hosts may have Python 3.9
    if zone:
        minutes = int(zone[1:3]) * 60 + int(zone[-2:])
        shift = datetime.timezone(datetime.timedelta(minutes=minutes if zone[0] == "+" else -minutes))
        return when.replace(tzinfo=shift).timestamp() + fraction
    return when.timestamp() + fraction


def _parse(text: str):
    try:
        data = json.loads(text)
    except ValueError:
        return None
    return data if isinstance(data, dict) else None


def _before(data: dict, field: str, since: float) -> bool:
    value = at_path(data, field)
    try:
        return moment(value) < since
    except (ValueError, TypeError):
        return False  # a line without a time is looked at: better one too many


def _level(data: dict, field: str) -> int:
    value = at_path(data, field)
    if isinstance(value, str):
        return LEVELS.get(value.upper(), 0)
    return int(value) if isinstance(value, (int, float)) else 0


def _excerpt(text: str, data, fields: list) -> str:
    if data is not None:
        text = next((str(data[field]) for field in fields if data.get(field)), "(no message field)")
    return shown(mask_lookalikes(text.strip()))


def _lines(args: dict, context: Context, since, state: dict):
    """Yield (line number, text, level or None); leaves the cursor for the next reading in `state`."""
    return _journal(args, context, since, state) if args["unit"] else _file(args, since, state)


def _file(args: dict, since, state: dict):
    with open(args["path"], "rb") as file:
        found = os.fstat(file.fileno())
        if args["cursor"]:
            inode, _, offset = args["cursor"].partition(":")
            if int(inode) == found.st_ino and int(offset) <= found.st_size:
                file.seek(int(offset))
            else:
                state["rotated"] = True  # another file by now: all of it is new
        keep = since is None or args["format"] == "json"  # JSON lines are judged by their own time field
        for number, raw in enumerate(file, 1):
            text = raw.decode("utf-8", "replace").rstrip("\r\n")
            if since is not None and args["format"] == "text":
                stamp = _TIME.search(text[:80])
                keep = _epoch(stamp) >= since if stamp else keep  # a line without a time belongs to the one before
            if keep and text:
                yield number, text, None
        state["cursor"] = f"{found.st_ino}:{file.tell()}"


def _journal(args: dict, context: Context, since, state: dict):
    argv = ["journalctl", "--no-pager", "--quiet", "--output=json", "--all"]
    argv += [f"--directory={args['journal_directory']}"] if args["journal_directory"] else []
    argv += [f"--since=@{since:.6f}"] if since is not None else []
    argv += [f"--after-cursor={args['cursor']}"] if args["cursor"] else []
    # Only what the unit's processes wrote: with --unit systemd's own lines about the unit come along, which are not JSON.
    done = execute([*argv, f"_SYSTEMD_UNIT={args['unit']}"], context)
    if done.returncode != 0:
        raise RuntimeError(f"journalctl: {last_line(done.stderr) or f'exit status {done.returncode}'}")
    for number, line in enumerate(done.stdout.splitlines(), 1):
        entry = json.loads(line)
        message = entry.get("MESSAGE") or ""
        if isinstance(message, list):  # bytes that are no text
            message = bytes(message).decode("utf-8", "replace")
        state["cursor"] = entry.get("__CURSOR")
        if message:
            yield number, message, _PRIORITIES.get(int(entry.get("PRIORITY", 6)), 20)


def _check(args: dict) -> list:
    problems = []
    if bool(args["unit"]) == bool(args["path"]):
        problems.append(("unit", "give either unit or path"))
    if args["since"] is not None:
        try:
            moment(args["since"])
        except ValueError as error:
            problems.append(("since", str(error)))
    if args["path"] and args["cursor"] and not re.fullmatch(r"\d+:\d+", args["cursor"]):
        problems.append(("cursor", "must be the inode:offset of an earlier reading"))
    for key, patterns in (("allow", args["allow"]), ("event", [args["event"]] if args["event"] else [])):
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                problems.append((key, f"holds what is no regular expression: {error}"))
    if args["fields"] and args["format"] != "json":
        problems.append(("fields", "needs format: json"))
    return problems


PROBE = Probe(
    "log",
    "a unit's journal or a log file holds no errors since a moment, and is JSON where that is wanted",
    {
        "unit": Arg("str", "systemd unit whose journal is read"),
        "path": Arg("str", "or the log file"),
        "since": Arg("any", "seconds since 1970 or an ISO 8601 time; default the beginning"),
        "cursor": Arg("str", "detail.cursor of an earlier reading: read on from there"),
        "format": Arg("str", "json: every line must be a JSON object", default="text", choices=("text", "json")),
        "level_min": Arg("str", "lines of this level or worse count as errors", default="ERROR", choices=tuple(LEVELS)),
        "level_field": Arg("str", "JSON field of the level", default="level"),
        "time_field": Arg("str", "JSON field of the time, for since", default="timestamp"),
        "message_fields": Arg("list", "JSON fields the excerpt is taken from", default=["event", "message", "msg"], elements="str"),
        "fields": Arg("list", "JSON fields that every line must have", default=[], elements="str"),
        "allow": Arg("list", "regular expressions of error lines that are known and accepted", default=[], elements="str"),
        "event": Arg("str", "regular expression of a line's beginning: lines in a row with the same one are one event, allowed if one is"),
        "errors_max": Arg("int", "errors accepted", default=0),
        "allow_empty": Arg("bool", "no line at all is fine", default=False),
        "absent_secrets": Arg("list", "keys of secrets that must not appear in any line", default=[], elements="secret"),
        "journal_directory": Arg("str", "read the journal files of this folder instead of the host's"),
    },
    run,
    _check,
)
