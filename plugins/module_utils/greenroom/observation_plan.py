"""What each day of an observation period measures, from the service contract: queries, limits, values for trends.

Metrics are those of the monitoring host's recording rules. Sources: 000 observation plan, 001 observation (daily and weekly checks).
"""

from __future__ import annotations

from collections.abc import Mapping

DAY_S, WEEK_S = 86_400, 7 * 86_400
DAILY = ("observe.daily.logs", "observe.daily.resources", "observe.daily.connections", "observe.daily.errors", "observe.daily.alerts")
WEEKLY = ("observe.weekly.performance", "observe.weekly.backups")
STEP_S = 300
PRESENCE = 0.8  # of a window's samples that must be there: an hour without data is no day


def checks(service: Mapping) -> list[dict]:
    """The checks of a day as `monitoring.gate.judge` takes them, each with its `window_s`; those that cannot apply are not there."""
    limits, accepted = service["monitoring"]["alerts"], service["thresholds"]
    found = [
        _daily("observe.daily.resources", "CPU", "host:cpu_busy:percent", {"le": limits["cpu_percent"]}, "mean", "%"),
        _daily("observe.daily.resources", "memory", "host:memory_used:percent", {"le": limits["memory_percent"]}, "max", "%"),
        _daily("observe.daily.resources", "disk", "max by (host) (host:disk_used:percent)", {"le": limits["disk_percent"]}, "max", "%"),
        _moment("observe.daily.errors", "share of failed requests", _errors("1d"), {"le": accepted["error_rate_percent"]}, "%"),
        _moment(
            "observe.daily.alerts", "notifications that failed",
            "sum(increase(alertmanager_notifications_failed_total[1d]))", {"le": 0}, "notifications",
        ),
        _moment(
            "observe.weekly.performance", "median P95", "1000 * quantile_over_time(0.5, gateway:latency:p95_seconds[7d])",
            {"le": accepted["p95_ms"]}, "ms",
        ),
    ]  # fmt: skip
    if (service.get("dependencies") or {}).get("database"):
        query, most = "database:connections:percent", {"le": limits["connections_percent"]}
        found.append(_daily("observe.daily.connections", "connections in use", query, most, "max", "%"))
    if service.get("backup"):
        query = "max by (host, place) (time() - greenroom_backup_last_success_timestamp_seconds) / 3600"
        found.append(_moment("observe.weekly.backups", "age of the newest backup", query, {"le": limits["backup_age_h"]}, "h"))
    return found


def values(service: Mapping) -> list[dict]:
    """What is kept of each day for the trends: {key, title, unit, query, limit}; one value for each series of the query."""
    limits, accepted = service["monitoring"]["alerts"], service["thresholds"]
    severities = "|".join(service["observation"]["incident_severities"])
    return [
        {"key": "p95", "title": "P95, median of the day", "unit": "ms", "limit": accepted["p95_ms"],
         "query": "1000 * quantile_over_time(0.5, gateway:latency:p95_seconds[1d])"},
        {"key": "rate", "title": "Requests", "unit": "a second", "limit": None,
         "query": "sum(increase(gateway_requests_total[1d])) / 86400"},
        {"key": "errors", "title": "Failed requests", "unit": "%", "limit": accepted["error_rate_percent"], "query": _errors("1d")},
        {"key": "cpu", "title": "CPU of the hosts, mean of the day", "unit": "%", "limit": limits["cpu_percent"],
         "query": "avg_over_time(host:cpu_busy:percent[1d])"},
        {"key": "memory", "title": "Memory of the hosts, maximum of the day", "unit": "%", "limit": limits["memory_percent"],
         "query": "max_over_time(host:memory_used:percent[1d])"},
        {"key": "disk", "title": "Fullest disk of the hosts", "unit": "%", "limit": limits["disk_percent"],
         "query": "max by (host) (max_over_time(host:disk_used:percent[1d]))"},
        {"key": "incidents", "title": "Incidents: alerts of priority 0 or 1", "unit": None, "limit": None,
         "query": f'count(max_over_time(ALERTS{{alertstate="firing",severity=~"{severities}"}}[1d])) or vector(0)'},
    ]  # fmt: skip


def expected_ids(service: Mapping) -> list[str]:
    """The daily and weekly requirements that apply to this service."""
    there = {"observe.daily.logs", *(check["id"] for check in checks(service))}
    return [id for id in (*DAILY, *WEEKLY) if id in there]


def config(service: Mapping, release: str, prometheus: str, logs: Mapping, folder: str) -> dict:
    """The content of observation-<service>.json on the monitoring host. service: the normalised contract with its section `observation`.

    logs: {globs (patterns of the collected files), level_field, time_field (of their JSON lines)}.
    """
    section = service["observation"]
    return {
        "service": service["name"], "release": release, "folder": folder, "prometheus": prometheus, "logs": dict(logs),
        **{key: section[key] for key in ("days", "at", "stable_percent", "team", "production")},
        "ids": expected_ids(service), "checks": checks(service), "values": values(service),
    }  # fmt: skip


def _errors(window: str) -> str:
    """Share of failed requests in percent; without a request it is nothing, without a failure 0."""
    every = f"sum(increase(gateway_requests_total[{window}]))"
    return f'100 * (sum(increase(gateway_requests_total{{status=~"5.."}}[{window}])) or 0 * {every}) / ({every} > 0)'


def _daily(id: str, name: str, query: str, expect: Mapping, judged: str, unit: str) -> dict:
    return {
        "id": id, "name": name, "query": query, "expect": dict(expect), "judged": judged, "unit": unit, "window_s": DAY_S, "step_s": STEP_S,
        "samples_min": int(PRESENCE * DAY_S / STEP_S), "series_min": 1,
    }  # fmt: skip


def _moment(id: str, name: str, query: str, expect: Mapping, unit: str) -> dict:
    """A query that looks back by itself: its value at the end counts."""
    return {
        "id": id, "name": name, "query": query, "expect": dict(expect), "judged": "last", "unit": unit, "window_s": STEP_S,
        "step_s": STEP_S, "samples_min": 1, "series_min": 1,
    }  # fmt: skip
