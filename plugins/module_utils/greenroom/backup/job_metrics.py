"""The metrics of a backup job, for node exporter's textfile collector. Ages are told as the time of what they are the age of.

Names follow Prometheus' conventions: `greenroom_` first, base units, `_timestamp_seconds`, `_bytes`, `_total`. Source: 004 L131.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from ..durable import write_atomic
from . import job as jobs

BACKUP = (
    ("last_run_timestamp_seconds", "When the job last ended, or was ended.", ()),
    ("last_run_duration_seconds", "How long the job's last run took.", ()),
    ("last_run_success", "1 if the last run left a good backup in this place, 0 if it did not.", ("place",)),
    ("last_success_timestamp_seconds", "When this place last got a good backup; 0: never.", ("place",)),
    ("size_bytes", "Size of the newest backup as it lies in this place.", ("place",)),
)
ARCHIVE = (
    ("place_up", "1 if the repository in this place answers and is sound.", ("place",)),
    ("wal_archive_up", "1 if the server archives: the last try to archive a segment succeeded.", ()),
    ("wal_last_archived_timestamp_seconds", "When a WAL segment was last archived; 0: never.", ()),
    ("wal_archive_failures_total", "Tries to archive a segment that failed.", ()),
    ("wal_archived_total", "WAL segments archived.", ()),
    ("wal_waiting_segments", "WAL segments that wait to be archived.", ()),
    ("wal_oldest_waiting_timestamp_seconds", "Since when the oldest of them waits; 0: none does.", ()),
    ("wal_directory_bytes", "Size of pg_wal: it grows while nothing can be archived.", ()),
    ("last_look_timestamp_seconds", "When the archive was last looked at.", ()),
)


def values(config: Mapping, job: str, ended_as: str, now: float) -> dict[str, dict[tuple, float]]:
    """{name: {labels' values: value}} of one job's newest result. `ended_as` is systemd's SERVICE_RESULT, `success` by itself."""
    result = jobs.read_result(config, job)
    finished = bool(result.get("ended")) and ended_as in ("success", "exit-code")
    told, names = result.get("places", {}) if finished else {}, jobs._names(config, job)
    if job == "archive":
        figures = result.get("figures", {}) if finished else {}
        found = {
            "place_up": {(place,): float(bool(told.get(place, {}).get("ok"))) for place in names},
            "wal_archive_up": {(): float(bool(figures) and figures.get("failing") is None)},
            "last_look_timestamp_seconds": {(): now},
        }
        for name, key in (
            ("wal_last_archived_timestamp_seconds", "last_archived_s"), ("wal_archive_failures_total", "failed"),
            ("wal_archived_total", "archived"), ("wal_waiting_segments", "waiting"),
            ("wal_oldest_waiting_timestamp_seconds", "oldest_waiting_s"), ("wal_directory_bytes", "wal_bytes"),
        ):  # fmt: skip
            if key in figures:
                found[name] = {(): float(figures[key])}
        return found
    ended = result["ended"] if finished else now
    success = result.get("success", {})
    return {
        "last_run_timestamp_seconds": {(): ended},
        "last_run_duration_seconds": {(): max(0.0, ended - result.get("started", ended))},
        "last_run_success": {(place,): float(bool(told.get(place, {}).get("ok"))) for place in names},
        "last_success_timestamp_seconds": {(place,): success.get(place, 0.0) for place in names},
        "size_bytes": {(place,): float(one["bytes"]) for place, one in told.items() if one.get("ok") and one.get("bytes") is not None},
    }


def text(config: Mapping, job: str, ended_as: str = "success", now: float | None = None) -> str:
    """The page of one job's metrics in Prometheus' text format."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest
    from prometheus_client.core import CounterMetricFamily

    found, registry = values(config, job, ended_as, time.time() if now is None else now), CollectorRegistry()
    fixed = {"service": config["service"]} | ({} if job == "archive" else {"kind": job})

    class Counters:
        """Counters of the server, as it counts them; the library's own kind only counts up from 0."""

        def collect(self):
            for name, text, _labels in ARCHIVE:
                if name.endswith("_total") and name in found:
                    family = CounterMetricFamily(f"greenroom_backup_{name}", text, labels=list(fixed))
                    family.add_metric(list(fixed.values()), found[name][()])
                    yield family

    for name, help_text, labels in ARCHIVE if job == "archive" else BACKUP:
        if name.endswith("_total") or name not in found:
            continue
        gauge = Gauge(f"greenroom_backup_{name}", help_text, [*fixed, *labels], registry=registry)
        for label_values, value in found[name].items():
            gauge.labels(*fixed.values(), *label_values).set(value)
    registry.register(Counters())
    return generate_latest(registry).decode()


def write(config: Mapping, job: str, ended_as: str) -> Path:
    """Write the page for node exporter and return its path; readers see the old one or the new one, never a part."""
    path = Path(config["metrics_dir"]) / f"greenroom_backup_{config['service']}_{job}.prom"
    write_atomic(path, text(config, job, ended_as).encode(), 0o644)
    return path
