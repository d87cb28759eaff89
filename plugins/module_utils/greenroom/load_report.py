"""What is kept of a load test beside its evidence: figures as JSON, one page with plots, and the plots for the run's report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from . import load_profile, plot
from .durable import write_atomic

POINTS = 300  # of a line: more cannot be told apart on a page


def thinned(points: list) -> list:
    """At most POINTS of the points, the highest of each stretch: a peak is never thinned away."""
    step = -(-len(points) // POINTS)
    stretches = [points[at : at + step] for at in range(0, len(points), step)] if step else []
    return [max(one, key=lambda point: -1 if point[1] is None else point[1]) for one in stretches]


def plots(figures: Mapping, hosts: Mapping, profile: Mapping, thresholds: Mapping) -> list[dict]:
    """Rate, latency, and of every host CPU, memory and connections, over the seconds since the first request (`plot.svg` draws them).

    hosts: {host: [sample of load_sampler, with `at` on the generator's clock]}.
    """

    def line(name: str, key: str) -> dict:
        return {"name": name, "points": thinned([[one["at"], one[key]] for one in figures["series"]])}

    made = [
        {"title": "Load: good answers and errors", "unit": "a second", "x_unit": "s", "limit": thresholds["throughput_rps"],
         "series": [line("good", "rps"), line("errors", "errors")]},
        {"title": "Load: latency", "unit": "ms", "x_unit": "s", "limit": thresholds["p95_ms"],
         "series": [line("P50", "p50_ms"), line("P95", "p95_ms")]},
    ]  # fmt: skip
    begin = figures["window"]["begin"] - profile["warm_up_s"] if figures["window"] else 0
    for key, title, unit, limit in (
        ("cpu", "Load: CPU of the hosts", "%", thresholds["cpu_percent"]),
        ("memory", "Load: memory of the hosts", "%", thresholds["memory_percent"]),
        ("connections", "Load: established connections of the hosts", None, None),
    ):
        series = [
            {"name": host, "points": thinned([[round(one["at"] - begin, 1), one[key]] for one in samples if one["at"] >= begin])}
            for host, samples in sorted(hosts.items())
        ]
        made.append({"title": title, "unit": unit, "x_unit": "s", "limit": limit, "series": series})
    return made


def write(folder: Path, figures: Mapping, verdict: Mapping, drawn: list[dict], profile: Mapping, about: Mapping) -> list[str]:
    """Write load.json and load.html into `folder`; their paths. Raises OSError."""
    data = {"about": dict(about), "profile": dict(profile), "figures": figures, **verdict}
    write_atomic(folder / "load.json", (json.dumps(data, indent=1) + "\n").encode(), mode=0o600)
    rows = [
        (one["id"], one.get("host") or "", one["expected"], one["observed"], one.get("unit") or "", one["status"], one.get("reason") or "")
        for one in verdict["evidence"]
    ]
    title = f"Load test of {about['service']} {about['release']}: {verdict['verdict']}"
    sentence = f"{load_profile.text_of(profile)}. Run {about['run_id']}. The dashed line is the limit."
    head = ("requirement", "host", "expected", "observed", "unit", "status", "reason")
    write_atomic(folder / "load.html", plot.page(title, sentence, rows, drawn, head).encode(), mode=0o600)
    return [str(folder / "load.json"), str(folder / "load.html")]
