"""Whether monitoring works: targets are fresh, rules are loaded and about metrics that exist, each panel of a dashboard shows data.

A rule about a metric that was renamed never fires, and a dashboard without data looks calm: both are found here. All by Prometheus' API.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..records import measured
from .prometheus import ApiError, Prometheus
from .rules import available
from .targets import target_problems

_NOT_METRICS = {"and", "or", "unless", "bool", "offset", "inf", "nan"}
_LABELS = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)")


def metrics_of(expression: str) -> set[str]:
    """The names of the metrics that a PromQL expression reads."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", expression)
    bare = _LABELS.sub(" ", re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", bare))
    bare = re.sub(r"\b(?:by|on|without|ignoring|group_left|group_right)\b", " ", bare)
    names = re.findall(r"(?<![\w:.])([a-zA-Z_:][\w:]*)(?!\s*\(|[\w:])", bare)
    return {name for name in names if name.lower() not in _NOT_METRICS}


def panels_of(path: str) -> list[dict]:
    """[{title, query}] of a dashboard's file. Raises ValueError if it has no panel with a query, OSError if it cannot be read."""
    board = json.loads(Path(path).read_text(encoding="utf-8"))
    found = [{"title": panel["title"], "query": target["expr"]} for panel in board["panels"] for target in panel.get("targets", ())]
    if not found:
        raise ValueError(f"{path}: no panel has a query")
    return found


def dashboards(paths: Sequence[str], service: Mapping, groups: Mapping[str, Sequence[str]]) -> dict[str, list[dict]]:
    """{path: panels} of the dashboards that can show something in an environment: a tag `needs:<part>` names what one is about."""
    has = available(service, groups)
    found = {}
    for path in sorted(paths):
        tags = json.loads(Path(path).read_text(encoding="utf-8"))["tags"]
        if {tag.partition(":")[2] for tag in tags if tag.startswith("needs:")} <= has:
            found[path] = panels_of(path)
    return found


def _settled(check, until: float):
    """Ask again until nothing is wrong or the time is over; the last answer."""
    while True:
        wrong = check()
        if not wrong or time.monotonic() >= until:
            return wrong
        time.sleep(1)


def live_slot(prometheus: Prometheus, now: float) -> str | None:
    """The slot that the gateway says users are on; None if it says nothing."""
    return next((labels["slot"] for labels, value in prometheus.query("greenroom_slot_live", now) if value == 1), None)


def inspect(prometheus: Prometheus, asked: Mapping) -> list[dict]:
    """Evidence of targets, rules, dashboards and the service's own series; see the module `prometheus_check` for `asked`."""
    records: list[dict] = []
    until = time.monotonic() + asked["within_s"]
    count = sum(len(entries) for entries in asked["targets"].values())
    with measured("mon.metrics.scraped", f"{count} targets up, scraped within {asked['fresh_s']} s", into=records) as check:
        check.detail = {"target": "every target"}
        if not count:
            raise ValueError("there is no target: nothing is watched")
        wrong = _settled(lambda: _targets(prometheus, asked), until)
        check.detail |= {"targets": count, "wrong": len(wrong), "samples": count}
        text = "; ".join(f"{one['job']} of {one['host']} ({one['target']}) {one['why']}" for one in wrong[:5])
        check.judge(not wrong, f"{count - len(wrong)} of {count} up and fresh", text)
    rules = [rule for group in asked["rules"]["groups"] for rule in group["rules"]]
    health: dict = {}
    with measured("alert.rules", f"{len(rules)} rules loaded and evaluated, each about metrics that exist", into=records) as check:
        check.detail = {"target": "every rule", "gaps": asked["gaps"]}
        problems = _settled(lambda: _rules(prometheus, rules, set(asked["late_metrics"]), health), until)
        check.detail |= {"rules": len(rules), "samples": len(rules)}
        check.judge(not problems, f"{len(rules) - len(problems)} of {len(rules)} fine", "; ".join(f"{k}: {v}" for k, v in problems.items()))
    by_name = {rule["alert"]: rule for rule in rules if "alert" in rule}
    for requirement, name in asked["requirements"].items():
        if name not in by_name:
            continue  # the environment has no use for it; the contract's `not_applicable` says why
        with measured(requirement, f"{name} is loaded: {by_name[name]['expr']}", into=records) as check:
            check.detail = {"target": name, "for": by_name[name]["for"], "severity": by_name[name]["labels"]["severity"]}
            why = problems.get(name, "Prometheus does not know it") if name in problems or name not in health else ""
            check.judge(not why, health.get(name, "not loaded"), f"{name}: {why}")
    with measured("mon.dashboard", "each panel's query gives data", into=records) as check:
        empty = _settled(lambda: _empty_panels(prometheus, asked["dashboards"]), until)
        panels = sum(len(found) for found in asked["dashboards"].values())
        check.detail = {"dashboards": len(asked["dashboards"]), "panels": panels, "samples": panels}
        check.judge(not empty, f"{panels - len(empty)} of {panels} panels show data", "without data: " + "; ".join(empty[:5]))
    if "service" in asked["targets"]:
        _service(prometheus, asked, until, records)
    return records


def _targets(prometheus: Prometheus, asked: Mapping) -> list[dict]:
    now = time.time()
    return target_problems(asked["targets"], prometheus.targets(), live_slot(prometheus, now), now, asked["fresh_s"])


def _rules(prometheus: Prometheus, wanted: Sequence[Mapping], late: set, health: dict) -> dict[str, str]:
    """{rule: what is wrong with it}; `health` gets what Prometheus says of each alert."""
    loaded = {rule["name"]: rule for rule in prometheus.rules()}
    names = set(prometheus.names())
    problems = {}
    for rule in wanted:
        name = rule.get("alert") or rule["record"]
        found = loaded.get(name)
        if found is None:
            problems[name] = "is not loaded"
            continue
        health[name] = found["health"]
        if found["health"] != "ok":
            problems[name] = f"is {found['health']}: {found.get('lastError') or 'not evaluated yet'}"
        elif missing := metrics_of(rule["expr"]) - names - late:
            problems[name] = f"there is no {', '.join(sorted(missing))}"
    return problems


def _empty_panels(prometheus: Prometheus, dashboards: Mapping[str, Sequence[Mapping]]) -> list[str]:
    empty, now = [], time.time()
    for board, panels in dashboards.items():
        for panel in panels:
            try:
                values = [value for _, value in prometheus.query(panel["query"], now)]
                why = None if any(not math.isnan(value) for value in values) else "no data" if not values else "not a number"
            except ApiError as error:
                why = str(error)
            if why:
                empty.append(f"{board}: {panel['title']} ({why})")
    return empty


def _service(prometheus: Prometheus, asked: Mapping, until: float, records: list[dict]) -> None:
    """The service's own page: it can be reached, is in the text format, and has the series that the contract names."""
    now = time.time()
    slot = live_slot(prometheus, now)
    chosen = 'job="service"' + (f',slot="{slot}"' if slot else "")
    wanted = sum(1 for entry in asked["targets"]["service"] if not slot or entry["labels"]["slot"] == slot)
    for requirement, query, words in (
        ("mon.metrics.endpoint", f"up{{{chosen}}} == 1", "pages reached"),
        ("mon.metrics.format", f"scrape_samples_scraped{{{chosen}}} > 0", "pages with samples in the text format"),
    ):
        with measured(requirement, f"{wanted} {words}", into=records) as check:
            found = _settled(lambda query=query: wanted - len(prometheus.query(query, time.time())), until)
            check.detail = {"target": f"slot {slot or 'blue and green'}", "samples": wanted}
            check.judge(found == 0, f"{wanted - found} {words}", f"{found} of {wanted} pages do not do: see mon.metrics.scraped")
    with measured("mon.metrics.key", ", ".join(asked["series"]) or "series named by the contract", into=records) as check:
        if not asked["series"]:
            check.status, check.reason = (
                "no_evidence",
                "service.monitoring.series names none: write the names of requests, duration and errors",
            )
            return
        bare = [
            name for name in asked["series"] if not prometheus.query(f'count({{__name__=~"{name}(_bucket|_sum|_count)?",{chosen}}})', now)
        ]
        check.detail = {"samples": len(asked["series"])}
        check.judge(not bare, f"{len(asked['series']) - len(bare)} of {len(asked['series'])} there", f"not offered: {', '.join(bare)}")
