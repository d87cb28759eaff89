"""Who talks to whom: the network rules of a fleet, derived from the service contract and the inventory's groups.

One place, because three readers need the same answer: the firewall role, the probe that proves it, and PostgreSQL's pg_hba.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

INTERNAL_PORT = 8079
"""Port of the gateway's internal listener (live colour, slot probes)."""


def addresses_of(groups: Mapping[str, Sequence[str]], addresses: Mapping[str, str], *names: str) -> list[str]:
    """The addresses of the hosts of some groups, each once, in the inventory's order.

    groups: group name to host names; addresses: host name to address. A group that is not there counts as empty.
    Raises KeyError for a host without an address: the caller's inventory check names it first.
    """
    hosts = dict.fromkeys(host for name in names for host in groups.get(name, ()))
    return [addresses[host] for host in hosts]


def firewall_rules(service: Mapping, groups: Mapping[str, Sequence[str]], addresses: Mapping[str, str], host: str) -> list[dict]:
    """What may come in at one host, SSH apart: a list of {port, protocol, from, why}; `from` empty means anywhere.

    service: the normalised contract. Source: runbook 001 §9.2 ("only the necessary ports").
    """

    def rule(port: int, why: str, *sources: str) -> dict:
        return {"port": port, "protocol": "tcp", "from": addresses_of(groups, addresses, *sources) if sources else [], "why": why}

    rules: list[dict] = []
    dependencies = service.get("dependencies") or {}
    if host in groups.get("gateway", ()):
        rules.append(rule(service["gateway"]["https_port"], "users, TLS"))
        rules.append(rule(INTERNAL_PORT, "live colour and slot probes", "app", "gateway", "monitoring"))
    if host in groups.get("app", ()):
        for slot in ("blue", "green"):
            rules.append(rule(service["ports"][slot], f"web process, slot {slot}", "gateway"))
            if service.get("metrics"):
                rules.append(rule(service["metrics"]["ports"][slot], f"metrics, slot {slot}", "monitoring"))
    for kind, users in (("database", ("app", "monitoring", "restore")), ("broker", ("app", "monitoring"))):
        dependency = dependencies.get(kind)
        if dependency and dependency["mode"] == "installed" and host in groups.get(kind, ()):
            rules.append(rule(dependency["port"], kind, *users))
    return rules
