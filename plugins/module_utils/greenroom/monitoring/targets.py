"""What Prometheus scrapes and probes, from the contract and the inventory's groups: as static targets, and the list a verdict needs.

Ports are those of Debian's packages; the firewall opens them to the group `monitoring` only (`topology.firewall_rules`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..topology import MONITORING_PORTS, exporters_of


def scrape_targets(service: Mapping, groups: Mapping[str, Sequence[str]], addresses: Mapping[str, str]) -> dict[str, list[dict]]:
    """{job: [{targets: [address:port], labels: {host, slot?}}]}, each list what Prometheus' static_configs takes.

    service: the normalised contract; addresses: {host: address}. Jobs without a target are not there. An exporter runs where `exporters_of`
    says, the service's own page on every app host, one target a slot.
    """
    found: dict[str, list[dict]] = {}

    def add(job: str, host: str, port: int, **labels: str) -> None:
        address = f"[{addresses[host]}]" if ":" in addresses[host] else addresses[host]
        found.setdefault(job, []).append({"targets": [f"{address}:{port}"], "labels": {"host": host, **labels}})

    for host in dict.fromkeys(host for group in groups.values() for host in group if host in addresses):
        for exporter in exporters_of(service, groups, host):
            add(exporter, host, MONITORING_PORTS[exporter])
    if service.get("metrics"):
        for host in groups.get("app", ()):
            for slot, port in sorted(service["metrics"]["ports"].items()):
                add("service", host, port, slot=slot)
    return found


def probe_targets(service: Mapping, groups: Mapping[str, Sequence[str]], addresses: Mapping[str, str]) -> dict[str, list[dict]]:
    """{job: targets} of the blackbox exporter: the service's health page and the gateway's certificate, both through the gateway."""
    gateway = groups["gateway"][0]
    address = f"[{addresses[gateway]}]" if ":" in addresses[gateway] else addresses[gateway]
    origin = f"https://{address}:{service['gateway']['https_port']}"
    health = (service.get("health") or {}).get("path", "/health")
    return {
        "probe_service": [{"targets": [origin + health], "labels": {"host": gateway}}],
        "probe_gateway": [{"targets": [f"{origin}/-/gateway/health"], "labels": {"host": gateway}}],
    }


def target_problems(expected: Mapping[str, list], active: Sequence[Mapping], live: str | None, now: float, fresh_s: float) -> list[dict]:
    """What is wrong with the targets: a list of {job, target, host, why}; empty if each is up and was scraped within `fresh_s` seconds.

    expected: as `scrape_targets` and `probe_targets`; active: `activeTargets` of Prometheus' API, with `lastScrape` as seconds since 1970;
    live: the slot users are on, whose targets alone must be up (the other slot may be cold); None asks for both.
    """
    known = {(one["labels"]["job"], one["discoveredLabels"]["__address__"]): one for one in active}
    wrong = []
    for job, entries in expected.items():
        for entry in entries:
            address, labels = entry["targets"][0], entry["labels"]
            if live and labels.get("slot", live) != live:
                continue
            one = known.get((job, address))
            if one is None:
                why = "Prometheus does not know it: the configuration it runs is another one"
            elif one["health"] != "up":
                why = f"is {one['health']}: {one.get('lastError') or 'not scraped yet'}"
            elif not 0 <= now - one["lastScrape"] + 1 <= fresh_s + 1:
                why = f"was scraped {now - one['lastScrape']:.0f} s ago"
            else:
                continue
            wrong.append({"job": job, "target": address, "host": labels["host"], "why": why})
    return wrong
