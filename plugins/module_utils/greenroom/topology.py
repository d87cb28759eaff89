"""Who talks to whom: the network rules of a fleet, derived from the service contract and the inventory's groups.

One place, because three readers need the same answer: the firewall role, the probe that proves it, and PostgreSQL's pg_hba.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping, Sequence

INTERNAL_PORT = 8079
"""Port of the gateway's internal listener (live colour, slot probes)."""

MONITORING_PORTS = {"node": 9100, "postgresql": 9187, "rabbitmq": 15692, "nginx": 9113, "gateway_log": 3903}
"""Ports of the exporters, by job: those of the distribution's packages."""

LOG_PORT = 6514
"""Port of the log server on the monitoring host (RELP over TLS)."""


class TopologyError(ValueError):
    """Hosts of the inventory have no address; the text names all of them and says what to do."""


def host_addresses(hosts: Iterable[str], hostvars: Mapping[str, Mapping]) -> dict[str, str]:
    """{host: ansible_host or the host's name}. Raises TopologyError for a host that is not in the inventory."""
    unknown = [host for host in hosts if host not in hostvars]
    if unknown:
        raise TopologyError(f"not in the inventory: {', '.join(unknown)}")
    return {host: str(hostvars[host].get("ansible_host") or host) for host in hosts}


def resolved(addresses: Mapping[str, str]) -> dict[str, str]:
    """{host: name or address} -> {host: address}, as the control node resolves it: firewalls and pg_hba want addresses.

    Raises TopologyError naming every host whose name does not resolve.
    """
    found, missing = {}, []
    for host, name in addresses.items():
        try:
            found[host] = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0]
        except OSError as error:
            why = error.strerror or error
            missing.append(f"{host}: {name} does not resolve ({why}). Set ansible_host in hosts.yml to a name or address that does.")
    if missing:
        raise TopologyError("; ".join(missing))
    return found


def addresses_of(groups: Mapping[str, Sequence[str]], addresses: Mapping[str, str], *names: str) -> list[str]:
    """The addresses of the hosts of some groups, each once, in the inventory's order.

    groups: group name to host names; addresses: host name to address. A group that is not there counts as empty.
    Raises KeyError for a host without an address: the caller's inventory check names it first.
    """
    hosts = dict.fromkeys(host for name in names for host in groups.get(name, ()))
    return [addresses[host] for host in hosts]


def exporters_of(service: Mapping, groups: Mapping[str, Sequence[str]], host: str) -> list[str]:
    """The exporters that run on one host, keys of `MONITORING_PORTS`: none where the inventory has no monitoring host."""
    if not groups.get("monitoring"):
        return []
    dependencies = service.get("dependencies") or {}
    found = ["node"]
    for group, kind in (("database", "postgresql"), ("broker", "rabbitmq")):
        if host in groups.get(group, ()) and (dependencies.get(group) or {}).get("mode") == "installed":
            found.append(kind)
    return found + (["nginx", "gateway_log"] if host in groups.get("gateway", ()) else [])


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
                rules.append(rule(service["metrics"]["ports"][slot], f"metrics, slot {slot}", "monitoring", "gateway"))
    users_of = {"database": ("app", "monitoring", "restore"), "broker": ("app", "monitoring"), "cache": ("app", "monitoring")}
    for kind, users in users_of.items():
        dependency = dependencies.get(kind)
        if dependency and dependency["mode"] == "installed" and host in groups.get(kind, ()):
            rules.append(rule(dependency["port"], kind, *users))
    # The guard on the gateway looks at the app hosts' pages itself: it must not hang on the monitoring host.
    readers = ("monitoring", "gateway") if host in groups.get("app", ()) else ("monitoring",)
    rules += [rule(MONITORING_PORTS[one], f"metrics, {one}", *readers) for one in exporters_of(service, groups, host)]
    if host in groups.get("monitoring", ()):
        rules.append(rule(LOG_PORT, "logs of every host, TLS", *groups))
    return rules


def firewall_probes(service: Mapping, groups: Mapping[str, Sequence[str]], addresses: Mapping[str, str], host: str) -> list[dict]:
    """What one host must and must not reach on the others: a list of {host, port, expect: open|refused_or_filtered, why}.

    Only ports on which something listens once the phase prepare is done: a port where nobody listens would prove nothing. A host asks
    every other one for the ports of `firewall_rules`, and the rule's sources decide which answer is right.
    """
    listening = {INTERNAL_PORT, service["gateway"]["https_port"]}
    listening |= {one["port"] for one in (service.get("dependencies") or {}).values() if one.get("mode") == "installed"}
    own = addresses[host]

    def expected(rule: Mapping) -> str:
        return "open" if not rule["from"] or own in rule["from"] else "refused_or_filtered"

    return [
        {"host": addresses[other], "port": rule["port"], "expect": expected(rule), "why": f"{rule['why']} on {other}"}
        for other in dict.fromkeys(name for group in ("gateway", "database", "broker", "cache") for name in groups.get(group, ()))
        if other != host for rule in firewall_rules(service, groups, addresses, other) if rule["port"] in listening
    ]  # fmt: skip
