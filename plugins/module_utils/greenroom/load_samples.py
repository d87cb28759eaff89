"""Reads what a load generator left behind: raw samples and its own seconds, and makes figures of them.

The files are those of roles/load_test/files/record_samples.py. They were written by an unprivileged process, so no link is followed and
sizes have limits. Percentiles are nearest-rank over raw samples (runbook weaknesses A9, C5, C12): a figure is a value that was measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

SAMPLE = struct.Struct("<dfBH")
SIZE_LIMIT = 1 << 30
NAMES_SHOWN = 20
STILL_MS = 500  # a lag above it is a process that stood still


class SamplesError(Exception):
    """A file of the generator cannot be read; the text names it."""


def read_plain(path: Path) -> bytes:
    """The bytes of a plain file. Raises SamplesError for a link, another kind of file, or one that is too large."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as stream:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode) or about.st_size > SIZE_LIMIT:
                raise SamplesError(f"{path.name}: is no plain file below {SIZE_LIMIT} bytes")
            return stream.read()
    except OSError as error:
        raise SamplesError(f"{path.name}: {error.strerror}") from error


def json_lines(data: bytes) -> list[dict]:
    """The whole lines of a JSON lines file; a last line that was cut is left out."""
    found = []
    for line in data.splitlines():
        with contextlib.suppress(ValueError):
            item = json.loads(line)
            if isinstance(item, dict):
                found.append(item)
    return found


def read_processes(folder: Path) -> list[dict]:
    """What each sending process left: {pid, version, seconds: [line…], names, failures, ended, samples: [(began, ms, failed, name)…]}."""
    found = []
    for path in sorted(folder.glob("seconds-*.jsonl")):
        lines = json_lines(read_plain(path))
        last = lines[-1] if lines else {}
        samples = folder / path.name.replace("seconds-", "samples-").replace(".jsonl", ".bin")
        data = read_plain(samples) if samples.exists() else b""
        names = last.get("names") or []
        raw = SAMPLE.iter_unpack(data[: len(data) - len(data) % SAMPLE.size])
        found.append({
            "pid": path.stem.removeprefix("seconds-"), "version": lines[0].get("locust") if lines else None,
            "seconds": [line for line in lines if "cpu" in line], "names": names, "failures": last.get("failures") or {},
            "ended": bool(last.get("ended")), "user_errors": last.get("user_errors", 0),
            "samples": [(began, ms, bool(failed), names[name] if name < len(names) else "?") for began, ms, failed, name in raw],
        })  # fmt: skip
    return found


def percentile(ordered: Sequence[float], percent: float) -> float | None:
    """Nearest-rank percentile of sorted values; None without any."""
    return ordered[max(1, -int(-len(ordered) * percent // 100)) - 1] if ordered else None


def window_of(processes: Iterable[Mapping], warm_up_s: float, duration_s: float) -> tuple[float, float] | None:
    """(begin, end) of what is measured, seconds since 1970: `warm_up_s` after the first request; None if there was none."""
    first = min((sample[0] for process in processes for sample in process["samples"]), default=None)
    return None if first is None else (first + warm_up_s, first + warm_up_s + duration_s)


def figures(processes: Sequence[Mapping], profile: Mapping) -> dict:
    """The figures of a run.

    A request counts if some part of it lay in the window: one that began in the warm-up and hangs, and one that is under way at the end,
    are seen. Throughput counts good answers that came within the window. Latencies are those of good answers; the others are errors.
    """
    window = window_of(processes, profile["warm_up_s"], profile["duration_s"])
    begin, end = window or (0.0, 0.0)
    mine = sorted(one for process in processes for one in process["samples"] if one[0] < end and one[0] + one[1] / 1000 >= begin)
    good = [one for one in mine if not one[2]]
    took = sorted(one[1] for one in good)
    in_time = sum(one[0] + one[1] / 1000 < end for one in good)
    failed = len(mine) - len(good)
    names: dict[str, list] = {}
    for one in mine:
        names.setdefault(one[3], []).append(one)
    failures: dict[str, int] = {}
    for process in processes:
        for text, count in process["failures"].items():
            failures[text] = failures.get(text, 0) + count
    return {
        "window": {"begin": begin, "end": end} if window else None, "samples": len(mine), "failed": failed,
        "error_percent": round(100 * failed / len(mine), 4) if mine else None,
        "rps": round(in_time / profile["duration_s"], 1) if window else None,
        "sent_rps": round(len(mine) / profile["duration_s"], 1) if window else None,
        "mean_ms": _rounded(sum(one[1] for one in mine) / len(mine) if mine else None),
        **{f"p{percent}_ms": _rounded(percentile(took, percent)) for percent in (50, 95, 99)},
        "max_ms": _rounded(took[-1] if took else None),
        "names": {
            name: {"samples": len(ones), "failed": sum(one[2] for one in ones),
                   "p95_ms": _rounded(percentile(sorted(one[1] for one in ones if not one[2]), 95))}
            for name, ones in sorted(names.items())[:NAMES_SHOWN]
        },
        "failures": dict(sorted(failures.items(), key=lambda item: -item[1])[:10]),
        "generator": [generator_of(process, begin, end) for process in processes],
        "series": series(processes, begin - profile["warm_up_s"], profile["warm_up_s"] + profile["duration_s"]) if window else [],
    }  # fmt: skip


def generator_of(process: Mapping, begin: float, end: float) -> dict:
    """How one sending process fared within the window: its CPU (share of a core, mean), the P95 of its event loop's lag, for how
    long it stood still, its seconds."""
    inside = [line for line in process["seconds"] if begin <= line.get("at", 0) <= end + 1]
    lags = sorted(lag for line in inside for lag in line.get("lags_ms") or [])
    return {
        "pid": process["pid"], "version": process["version"], "ended": process["ended"], "seconds": len(inside),
        "cpu_percent": round(100 * sum(line["cpu"] for line in inside) / len(inside), 1) if inside else None,
        "lag_p95_ms": _rounded(percentile(lags, 95)),
        "still_s": round(sum(lag for lag in lags if lag > STILL_MS) / 1000, 1),
        "users": max((line.get("users", 0) for line in inside), default=0),
        "user_errors": process["user_errors"],
    }  # fmt: skip


def series(processes: Iterable[Mapping], start: float, length_s: int) -> list[dict]:
    """For each second since `start`: {at, rps (good answers), errors, p50_ms, p95_ms}, by when requests ended."""
    seconds: list[list] = [[] for _ in range(int(length_s))]
    for process in processes:
        for began, ms, failed, _name in process["samples"]:
            at = int(began + ms / 1000 - start)
            if 0 <= at < len(seconds):
                seconds[at].append((ms, failed))
    found = []
    for at, ones in enumerate(seconds):
        good = sorted(ms for ms, failed in ones if not failed)
        found.append({
            "at": at, "rps": len(good), "errors": len(ones) - len(good),
            "p50_ms": _rounded(percentile(good, 50)), "p95_ms": _rounded(percentile(good, 95)),
        })  # fmt: skip
    return found


def progress(folder: Path, profile: Mapping) -> dict:
    """How far a run is, from the processes' newest lines: {seconds, of, users, requests, failed, text}."""
    lasts, first = [], None
    for path in sorted(folder.glob("seconds-*.jsonl")):
        lines = json_lines(read_plain(path))
        if lines:
            first = min(filter(None, (first, lines[0].get("at"))))
            lasts.append(lines[-1])
    of = profile["warm_up_s"] + profile["duration_s"]
    done = min(round(max((line.get("at", 0) for line in lasts), default=0) - first), of) if first else 0
    users, requests, failed = (sum(line.get(key, 0) for line in lasts) for key in ("users", "requests", "failed"))
    rate = f", {requests / done:,.0f} requests/s" if done else ""
    text = f"{done} of {of} s, {users} users{rate}, {failed} failed" if lasts else "the generator starts"
    return {"seconds": done, "of": of, "users": users, "requests": requests, "failed": failed, "text": text}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
