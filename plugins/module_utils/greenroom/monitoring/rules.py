"""Rule files of Prometheus from one data file and the contract's thresholds, and where acceptance and alert thresholds leave a gap.

The data: {records: [{record, expr, needs}], alerts: [{alert, expr, for, severity, summary, source, needs, id}]}; `@name@` in an
expression is a threshold. Sources: 000 L165-168, 001 L315-320, 002 L303-311.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

SEVERITIES = ("critical", "warning", "info")
_THRESHOLD = re.compile(r"@([a-z0-9_]+)@")
_FIELDS = {"alert", "expr", "for", "severity", "summary", "source", "needs", "id"}
INTERVAL_S = 15
"""Seconds between two scrapes, and between two evaluations of the rules."""


class RuleError(ValueError):
    """The data file or the contract does not make rules; the text names the rule and the key."""


def available(service: Mapping, groups: Mapping[str, Sequence[str]]) -> set[str]:
    """What an environment has that a rule or a dashboard may need: database, broker, backup, metrics, pool, guard.

    service: the normalised contract.
    """
    dependencies = service.get("dependencies") or {}
    found = {
        kind for kind in ("database", "broker") if (dependencies.get(kind) or {}).get("mode") == "installed" and groups.get(kind)
    }  # fmt: skip
    parts = {
        "backup": service.get("backup"), "metrics": service.get("metrics"), "pool": service["monitoring"].get("pool"),
        "guard": (service.get("guard") or {}).get("enabled"),
    }  # fmt: skip
    return found | {name for name, value in parts.items() if value}


def thresholds(service: Mapping) -> dict:
    """{name: value} of everything that `@name@` may stand for. The contract's defaults are filled in."""
    limits, pool = (service.get("backup") or {}).get("limits") or {}, service["monitoring"].get("pool") or {}
    return {
        **service["monitoring"]["alerts"],
        "accepted_error_rate_percent": service["thresholds"]["error_rate_percent"],
        "rpo_s": limits.get("rpo_s", 3600),
        "pool": pool.get("in_use", ""),
        "pool_max": pool.get("max") or service.get("pool_max", ""),
    }


def _expression(name: str, text: str, known: Mapping) -> str:
    missing = sorted({found for found in _THRESHOLD.findall(text) if found not in known})
    if missing:
        raise RuleError(f"{name}: no threshold {', '.join(missing)}; there are {', '.join(sorted(known))}")
    return _THRESHOLD.sub(lambda found: str(known[found[1]]), text)


def alert_rules(data: Mapping, service: Mapping, groups: Mapping[str, Sequence[str]], runbook: str = "docs/alerts.md") -> dict:
    """The content of a rule file, {groups: [{name, interval, rules}]}, with those rules that this environment has a use for.

    runbook: address of the page that has a section for each alert. Raises RuleError for an unknown threshold, severity, field or need.
    """
    known, has = thresholds(service), available(service, groups)
    needs = {"database", "broker", "backup", "metrics", "pool", "guard"}
    records, alerts = [], []
    for one in [*data["records"], *data["alerts"]]:
        name = one.get("alert") or one.get("record")
        if unknown := set(one.get("needs", ())) - needs:
            raise RuleError(f"{name}: needs {', '.join(sorted(unknown))}; known are {', '.join(sorted(needs))}")
        if not set(one.get("needs", ())) <= has:
            continue
        expr = _expression(name, one["expr"], known)
        if "record" in one:
            records.append({"record": name, "expr": expr})
            continue
        if unknown := set(one) - _FIELDS:
            raise RuleError(f"{name}: unknown field {', '.join(sorted(unknown))}")
        if one["severity"] not in SEVERITIES:
            raise RuleError(f"{name}: severity {one['severity']!r}; one of {', '.join(SEVERITIES)}")
        alerts.append(
            {
                "alert": name, "expr": expr, "for": one["for"], "labels": {"severity": one["severity"]},
                "annotations": {"summary": one["summary"], "runbook_url": f"{runbook}#{name.lower()}", "source": one["source"]},
            }
        )  # fmt: skip
    interval = f"{INTERVAL_S}s"
    return {"groups": [{"name": name, "interval": interval, "rules": rules} for name, rules in (("records", records), ("alerts", alerts))]}


def threshold_gaps(service: Mapping) -> list[dict]:
    """Where a value may miss what was accepted and still raise no alert: a list of {quantity, unit, accepted, alert}.

    The runbooks accept 0.1 % errors and alert at 1 %, and so on (000 L165-168 against L128-135).
    """
    accepted, alerting = service["thresholds"], service["monitoring"]["alerts"]
    pairs = (("error_rate_percent", "%"), ("p95_ms", "ms"), ("cpu_percent", "%"), ("memory_percent", "%"))
    found = [(name, unit, accepted[name], alerting[name]) for name, unit in pairs]
    found += [
        ("error_rate_percent after a rollback", "%", accepted["error_rate_percent"], alerting["rollback_error_rate_percent"]),
        ("p95_ms after a rollback", "ms", accepted["p95_ms"], alerting["rollback_p95_ms"]),
    ]
    return [{"quantity": name, "unit": unit, "accepted": low, "alert": high} for name, unit, low, high in found if high > low]
