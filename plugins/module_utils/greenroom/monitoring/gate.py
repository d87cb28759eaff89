"""Thresholds over a window of Prometheus' data: a verdict only from enough real samples.

What is absent, not a number, or too little is `no_evidence`, never a pass: a metric that was renamed must not open the gate.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

from ..probes.base import shown
from ..probes.compare import compare, expectation
from ..records import ERROR, FAIL, NO_EVIDENCE, PASS, record, utc_now
from .prometheus import ApiError, Prometheus

JUDGED: dict[str, Callable[[Sequence[float]], float]] = {
    "max": max, "min": min, "mean": statistics.fmean, "last": lambda values: values[-1],
}  # fmt: skip
"""How the samples of a window become the one value that is compared."""


def judge(prometheus: Prometheus, check: Mapping, start: float, end: float) -> dict:
    """The evidence record of one check over [start, end] (seconds since 1970).

    check: {id, name, query, expect, judged, step_s, samples_min, series_min, unit}. Every series of the query must meet `expect` (a value
    or operators) with its judged value, and have `samples_min` samples that are numbers.
    """
    started, clock = utc_now(), time.monotonic()
    wanted = f"{check['judged']} over {end - start:.0f} s {expectation(check['expect'])}"
    detail = {
        "target": check["name"], "query": check["query"], "window_s": round(end - start, 1), "samples_min": check["samples_min"],
    }  # fmt: skip

    def made(status: str, observed: object, reason: str | None) -> dict:
        return record(
            check["id"], status, wanted, observed, unit=check.get("unit"), reason=reason and f"{check['name']}: {reason}", detail=detail,
            started=started, duration_ms=round((time.monotonic() - clock) * 1000, 1),
        )  # fmt: skip

    try:
        series = prometheus.query_range(check["query"], start, end, check["step_s"])
    except ApiError as error:
        return made(ERROR, None, str(error))
    if len(series) < check["series_min"]:
        few = f"{len(series)} series"
        return made(NO_EVIDENCE, few, f"{few} of {check['series_min']}: is the metric there, and so named?")
    blind, problems, values, fewest = [], [], [], None
    for labels, samples in series:
        where = ", ".join(f"{key}={value}" for key, value in sorted(labels.items()) if key != "__name__") or "the one series"
        numbers = [value for _, value in samples if not math.isnan(value)]
        fewest = len(numbers) if fewest is None else min(fewest, len(numbers))
        if len(numbers) < check["samples_min"]:
            nan = f" and {len(samples) - len(numbers)} that are no number" if len(samples) > len(numbers) else ""
            blind.append(f"{where} has {len(numbers)} samples of {check['samples_min']}{nan}")
            continue
        value = JUDGED[check["judged"]](numbers)
        values.append(value)
        if not compare(check["expect"], value)[0]:
            problems.append(f"{where} is {value:.6g}, not {expectation(check['expect'])}")
    detail |= {"samples": fewest or 0, "series": len(series)}
    observed = shown(", ".join(f"{value:.6g}" for value in values)) if len(values) != 1 else values[0]
    if problems:
        return made(FAIL, observed, "; ".join([*problems[:5], *blind[:5]]))
    if blind:
        return made(NO_EVIDENCE, observed or None, "; ".join(blind[:5]))
    return made(PASS, observed, None)


def run(prometheus: Prometheus, checks: Sequence[Mapping], window_s: float, since: float | None, wait_s: float,
        clock: Callable[[], float] = time.time, sleep: Callable[[float], None] = time.sleep) -> list[dict]:  # fmt: skip
    """Judge every check over the newest `window_s` seconds; with `since` none of them is older than that moment.

    A window that begins at `since` is not over yet just after a switch: up to `wait_s` seconds are waited for its end, and what is without
    evidence then is asked again until they are over. What fails is told at once.
    """
    deadline = clock() + wait_s
    if since is not None and clock() < since + window_s:
        sleep(max(0.0, min(since + window_s, deadline) - clock()))
    while True:
        end = clock()
        start = end - window_s if since is None else max(end - window_s, since)
        found = [judge(prometheus, check, start, end) for check in checks]
        undecided = [one for one in found if one["status"] in (NO_EVIDENCE, ERROR)]
        if not undecided or clock() >= deadline or any(one["status"] == FAIL for one in found):
            return found
        sleep(min(2.0, max(0.0, deadline - clock())))
