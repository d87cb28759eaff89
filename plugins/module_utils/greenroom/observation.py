"""The observation period after a deployment: one record a day, and the verdict over all of them.

`python -m greenroom.observation --config FILE` is what the timer on the monitoring host runs; it needs no key to any other host, only the
HTTP address of Prometheus and the collected logs. A day that is missing, or on which something could not be measured, makes the verdict
`incomplete`: nobody can say of such a period that it was quiet. Sources: 000 observation plan, 001 observation.
"""

from __future__ import annotations

import argparse
import datetime
import glob
import itertools
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import health_check
from . import records as rec
from .durable import write_atomic
from .monitoring import gate
from .monitoring.prometheus import ApiError, Prometheus

DAY_S = 86_400
GRACE_S = 2 * 3600  # a day counts as missed this long after its time
CLOCK_S = 3600  # more than this between wall clock and running time since the day before is a clock that was set
LOG_LIMIT_S = 300
EXIT_DAYS = 14  # 000 L223: two stable weeks
METRIC = "greenroom_observation_last_day_timestamp_seconds"


# --- one day ----------------------------------------------------------------------------------------------------------


def started(config: Mapping) -> dict | None:
    """What `begin` has written for this release: {first, release, at}; None if nothing was begun for it. Raises OSError, ValueError."""
    path = Path(config["folder"]) / "start.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if found["release"] == config["release"] and datetime.date.fromisoformat(found["first"]) else None
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is damaged ({error}); move it away and begin anew") from None


def begin(config: Mapping, now: float) -> dict:
    """Start the period of this release: {first (date of its first record), release, at}. Raises OSError.

    The first record is due the day after: then there is a whole day to look back on.
    """
    days = Path(config["folder"]) / "days"
    days.mkdir(mode=0o755, parents=True, exist_ok=True)
    for old in days.glob("*.json"):
        old.unlink()  # another release's days prove nothing about this one
    found = {"first": str(_date(now) + datetime.timedelta(days=1)), "release": config["release"], "at": now}
    write_atomic(days.parent / "start.json", (json.dumps(found) + "\n").encode())
    return found


def measure(config: Mapping, now: float) -> dict:
    """Measure the day that ends now: {day, at, uptime_s, boot, evidence, values}. Never raises for what it measures."""
    prometheus = Prometheus(config["prometheus"])
    evidence = [gate.judge(prometheus, check, now - check["window_s"], now) for check in config["checks"]]
    evidence += _logs(config["logs"], now)
    return {
        "day": str(_date(now)), "at": now, "release": config["release"], "uptime_s": time.clock_gettime(time.CLOCK_BOOTTIME),
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(), "evidence": evidence,
        "values": {one["key"]: _value(prometheus, one, now) for one in config["values"]},
    }  # fmt: skip


def _logs(logs: Mapping, now: float) -> list[dict]:
    """Errors in the collected logs of the last day, one record a file; no file, or none with a line, is no evidence."""
    since, globs = now - DAY_S, logs["globs"]
    files = sorted({path for pattern in globs for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)})
    fresh = [path for path in files if os.path.getmtime(path) >= since]
    if not fresh:
        reason = f"no file of {', '.join(globs) or 'no pattern'} was written to since yesterday ({len(files)} are there)"
        return [rec.record("observe.daily.logs", rec.NO_EVIDENCE, "logs without errors", reason=reason)]
    probes = [
        {
            "id": "observe.daily.logs",
            "type": "log",
            "path": path,
            "format": "json",
            "since": since,
            "timeout_s": LOG_LIMIT_S,
            "level_field": logs["level_field"],
            "time_field": logs["time_field"],
        }
        for path in fresh
    ]
    return health_check.run(health_check.plan(probes))


def _value(prometheus: Prometheus, wanted: Mapping, now: float) -> dict:
    """{series: number} of one trend; empty if it cannot be had: then it is a hole in the line, not a zero."""
    try:
        found = prometheus.query(wanted["query"], now)
    except ApiError:
        return {}
    return {labels.get("host", wanted["key"]): round(value, 4) for labels, value in found if math.isfinite(value)}


def keep(config: Mapping, day: Mapping, textfile_dir: str | None = None) -> None:
    """Write the record of a day, and when that was for an alert on days that stay away. Raises OSError."""
    write_atomic(Path(config["folder"]) / "days" / f"{day['day']}.json", (json.dumps(day) + "\n").encode())
    if textfile_dir and os.path.isdir(textfile_dir):
        text = f"# HELP {METRIC} When a day of the observation period was last recorded.\n# TYPE {METRIC} gauge\n{METRIC} {day['at']:.0f}\n"
        write_atomic(Path(textfile_dir) / "greenroom_observation.prom", text.encode())


def read_days(folder: str | os.PathLike) -> dict[str, dict]:
    """{date: record}; a file that is damaged is a day without evidence, not a day that is left out."""
    found = {}
    for path in sorted(Path(folder, "days").glob("????-??-??.json")):
        try:
            day = json.loads(path.read_text(encoding="utf-8"))
            whole = isinstance(day, dict) and day.get("day") == path.stem and isinstance(day.get("evidence"), list)
        except (OSError, ValueError):
            whole = False
        found[path.stem] = day if whole else {"day": path.stem, "at": 0, "evidence": [], "values": {}, "damaged": True}
    return found


# --- the verdict ------------------------------------------------------------------------------------------------------


def due_days(config: Mapping, start: Mapping, now: float) -> list[str]:
    """The dates for which a record must be there by now, at most `days` of them."""
    first = datetime.date.fromisoformat(start["first"])
    hour, minute = map(int, config["at"].split(":"))
    found = []
    for number in range(config["days"]):
        day = first + datetime.timedelta(days=number)
        time_ = datetime.datetime(day.year, day.month, day.day, hour, minute, tzinfo=datetime.UTC).timestamp()
        if time_ + GRACE_S <= now:
            found.append(str(day))
    return found


def state_of(day: Mapping | None, config: Mapping) -> tuple[str, str]:
    """(state, why) of one day: `missed` (no record), `empty` (something was not measured), `red`, `good`."""
    if day is None:
        return "missed", "no record"
    if day.get("damaged"):
        return "empty", "its record is damaged"
    if day.get("release") != config["release"]:
        return "empty", f"it is about release {day.get('release')}"
    evidence = day["evidence"]
    blind = sorted({*(one["id"] for one in evidence if one["status"] not in (rec.PASS, rec.FAIL)),
                    *(set(config["ids"]) - {one["id"] for one in evidence})})  # fmt: skip
    if blind:
        return "empty", f"not measured: {', '.join(blind)}"
    red = sorted({one["id"] for one in evidence if one["status"] == rec.FAIL})
    return ("red", f"red: {', '.join(red)}") if red else ("good", "")


def judge(config: Mapping, start: Mapping, days: Mapping[str, Mapping], now: float) -> dict:
    """{verdict, over, day, evidence, states, plots} of the period.

    verdict: `incomplete` as soon as a day is missed or empty; `fail` if a day or an exit criterion is red; `running` before the end;
    `pass`. Before the end there are no records of what only the end decides.
    """
    due = due_days(config, start, now)
    states = {date: state_of(days.get(date), config) for date in due}
    over = len(due) >= config["days"]
    evidence = [_period(config, start, states, over)]
    evidence += [_over_days(id, due, days, config) for id in config["ids"]] if due else []
    if due and over:
        evidence += _exit(config, due, days)
    evidence = [one for one in evidence if one["status"] != rec.NOT_RUN]  # what is not decided yet is no evidence of anything
    verdict = rec.PASS
    if any(state in ("missed", "empty") for state, _why in states.values()):
        verdict = "incomplete"
    elif any(one["status"] != rec.PASS for one in evidence):
        verdict = rec.FAIL
    elif not over:
        verdict = "running"
    return {
        "verdict": verdict, "over": over, "day": len(due), "evidence": evidence,
        "states": {date: {"state": state, "why": why} for date, (state, why) in states.items()}, "plots": plots(config, start, days, due),
    }  # fmt: skip


def _period(config: Mapping, start: Mapping, states: Mapping, over: bool) -> dict:
    expected = f"{config['days']} days, each with a record and none of them empty"
    bad = [f"{date} {state} ({why})" for date, (state, why) in states.items() if state in ("missed", "empty")]
    observed = f"{len(states) - len(bad)} of {len(states)} days measured since {start['first']}"
    detail = {"samples": len(states), "first": start["first"]}
    if bad:
        return rec.record("observe.period", rec.FAIL, expected, observed, reason=f"incomplete: {'; '.join(bad[:10])}", detail=detail)
    if not over:
        return rec.record("observe.period", rec.NOT_RUN, expected, observed, reason=f"day {len(states)} of {config['days']}")
    return rec.record("observe.period", rec.PASS, expected, observed, detail=detail)


def _over_days(id: str, due: Sequence[str], days: Mapping, config: Mapping) -> dict:
    """One requirement over all days so far; a weekly one counts on the last day of each week."""
    asked = due[6::7] if id.startswith("observe.weekly.") else due
    if not asked:
        return rec.record(id, rec.NOT_RUN, "every week", reason="the first week is not over")
    red, blind = [], []
    for date in asked:
        mine = [one for one in (days.get(date) or {}).get("evidence", []) if one["id"] == id]
        if not mine or any(one["status"] not in (rec.PASS, rec.FAIL) for one in mine):
            why = next((one.get("reason") for one in mine if one["status"] not in (rec.PASS, rec.FAIL)), "no record")
            blind.append(f"{date}: {why}")
        red += [f"{date}: {one.get('reason')}" for one in mine if one["status"] == rec.FAIL]
    what = "weeks" if id.startswith("observe.weekly.") else "days"
    observed = f"{len(asked) - len(red) - len(blind)} of {len(asked)} {what} good" if len(red) + len(blind) <= len(asked) else "not good"
    status = rec.NO_EVIDENCE if blind else rec.FAIL if red else rec.PASS
    reason = "; ".join([*blind, *red][:8]) or None
    return rec.record(id, status, f"measured and good in all {what}", observed, reason=reason, detail={"samples": len(asked)})


def _exit(config: Mapping, due: Sequence[str], days: Mapping) -> list[dict]:
    """The exit criteria: two stable weeks, no incident of priority 0 or 1, what people state; and the review of the errors."""
    seen = [days[date] for date in due if date in days]
    incidents = [(day["day"], sum(day["values"].get("incidents", {}).values())) for day in seen]
    counted = all(day["values"].get("incidents") for day in seen) and len(seen) == len(due)
    bad = [f"{date}: {count:g}" for date, count in incidents if count]
    status = rec.FAIL if bad else rec.PASS if counted else rec.NO_EVIDENCE
    reason = f"incidents on {'; '.join(bad)}" if bad else None if counted else "on some day nobody counted"
    total = sum(count for _date, count in incidents)
    found = [
        _stable(config, due, days),
        rec.record("observe.end.no_incidents", status, 0, total if counted or bad else None, reason=reason, detail={"samples": len(seen)}),
    ]
    for id, key, what in (("observe.end.team", "team", "who knows the operations procedures"),
                          ("observe.end.production", "production", "what is prepared for production")):  # fmt: skip
        said = config.get(key)
        status, reason = (rec.PASS, None) if said else (rec.NO_EVIDENCE, f"nobody has stated {what} (service.observation.{key})")
        found.append(rec.record(id, status, "stated", said, reason=reason))
    errors = [one for day in seen for one in day["evidence"] if one["id"] == "observe.daily.logs"]
    lines = sum((one.get("detail") or {}).get("errors", 0) for one in errors)
    known = len(errors) >= len(due) and all(one["status"] in (rec.PASS, rec.FAIL) for one in errors)
    reason = None if known else "on some day the logs were not read"
    found.append(rec.record("observe.weekly.errors", rec.PASS if known else rec.NO_EVIDENCE, "the logs of every day are summed up",
                            f"{lines} lines of ERROR or worse in {len(due)} days", reason=reason))  # fmt: skip
    return found


def _stable(config: Mapping, due: Sequence[str], days: Mapping) -> dict:
    """Two weeks whose medians of P95 and of the request rate differ by no more than the contract allows."""
    id, limit = "observe.end.stable", config["stable_percent"]
    expected = f"two weeks whose medians differ by at most {limit:g} %"
    if len(due) < EXIT_DAYS:
        return rec.record(id, rec.FAIL, expected, f"{len(due)} days", reason=f"{len(due)} days were observed, the exit needs {EXIT_DAYS}")
    moved, said = [], []
    for key, unit in (("p95", "ms"), ("rate", "requests/s")):
        weeks = []
        for dates in (due[-14:-7], due[-7:]):
            numbers = [value for date in dates for value in ((days.get(date) or {}).get("values") or {}).get(key, {}).values()]
            weeks.append(statistics.median(numbers) if len(numbers) >= 5 else None)
        if None in weeks:
            return rec.record(id, rec.NO_EVIDENCE, expected, reason=f"a week has fewer than 5 values of {key}")
        said.append(f"{key} {weeks[0]:.4g} -> {weeks[1]:.4g} {unit}")
        if abs(weeks[1] - weeks[0]) > limit / 100 * max(weeks[0], 1e-9):
            moved.append(said[-1])
    set_ = clock_jumps([days[date] for date in due if date in days])
    detail = {"samples": len(due), "clock_jumps": set_}
    reason = f"moved by more than {limit:g} %: {'; '.join(moved)}" if moved else None
    return rec.record(id, rec.FAIL if moved else rec.PASS, expected, "; ".join(said), reason=reason, detail=detail)


def clock_jumps(days: Sequence[Mapping]) -> list[str]:
    """Dates before which the clock was set: wall time and running time since the day before differ by more than an hour."""
    found = []
    for before, after in itertools.pairwise(days):
        if before.get("boot") and before.get("boot") == after.get("boot"):
            apart = (after["at"] - before["at"]) - (after["uptime_s"] - before["uptime_s"])
            if abs(apart) > CLOCK_S:
                found.append(f"{after['day']}: {apart:+.0f} s")
    return found


def plots(config: Mapping, start: Mapping, days: Mapping, due: Sequence[str]) -> list[dict]:
    """The trends, a point a day; a day without a value is a hole (`plot.svg` draws them)."""
    made = []
    for wanted in config["values"]:
        names = sorted({name for date in due for name in ((days.get(date) or {}).get("values") or {}).get(wanted["key"], {})})
        series = [
            {"name": name, "points": [[number + 1, ((days.get(date) or {}).get("values") or {}).get(wanted["key"], {}).get(name)]
                                      for number, date in enumerate(due)]} for name in names
        ]  # fmt: skip
        title = f"Observation: {wanted['title']}"
        made.append({"title": title, "unit": wanted["unit"], "x_unit": "day", "limit": wanted["limit"], "series": series})
    return made


def _date(now: float) -> datetime.date:
    return datetime.datetime.fromtimestamp(now, datetime.UTC).date()


def main(arguments: list[str] | None = None) -> int:
    """Measure the day that ends now and keep its record; nothing to do when the period is over."""
    parser = argparse.ArgumentParser(prog="greenroom.observation", description=main.__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--textfile-dir")
    chosen = parser.parse_args(arguments)
    config = json.loads(Path(chosen.config).read_text(encoding="utf-8"))
    now = time.time()
    start = started(config)
    if start is None:
        print(f"observation: no period of release {config['release']} was begun. Run playbooks/observe.yml", file=sys.stderr)
        return 1
    last = datetime.date.fromisoformat(start["first"]) + datetime.timedelta(days=config["days"] - 1)
    if not datetime.date.fromisoformat(start["first"]) <= _date(now) <= last:
        print(f"observation: no record is due today; the period is {start['first']} to {last}")
        return 0
    day = measure(config, now)
    keep(config, day, chosen.textfile_dir)
    state, why = state_of(day, config)
    print(f"observation: {day['day']} is {state}{f' ({why})' if why else ''}")
    return 0 if state == "good" else 1


if __name__ == "__main__":
    sys.exit(main())
