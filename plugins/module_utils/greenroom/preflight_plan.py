"""What is measured on every host before anything is changed: the probes, from the contract and the groups, and the list of blockers.

Nothing is measured here. Host probes need nothing on a host but its own Python. What has no id of its own in the
catalogue belongs to "the server is ready to receive the deployment" (001 §1.1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from .contract import connections_required
from .topology import INTERNAL_PORT

READY = "prep.server.reachable"
BROKER_PORTS = (15672, 15692)  # management and metrics, both on internal addresses
# What to do where the probe only says what it saw; a record carries it in its detail.
WRITE_FIX = {"fix": "free space or inodes there, or remount it read-write"}
REACH_FIX = {"fix": "let this host through to it (route, firewall, DNS), start it, or correct its address in the contract"}


def host_probes(service: Mapping, groups: Mapping, host: str, settings: Mapping, secrets: Mapping, now: float) -> list[dict]:
    """The probes of one host. service: the normalised contract; groups: group to hosts; settings: the role's variables without their
    prefix; secrets: the service's, only hosts and ports of addresses are taken from them; now: the control node's time (seconds)."""
    mine = [group for group, hosts in groups.items() if host in hosts]
    need = service.get("requirements") or {}
    app = "app" in mine
    probes = [
        {"id": READY, "name": "systemd", "type": "systemd", "system": True, "timeout_s": 20},
        {"id": READY, "name": "root rights", "type": "command", "argv": ["id", "-u"], "stdout_matches": "^0$", "show_match": True},
        {"id": READY, "name": "clock", "type": "clock", "controller_epoch": now, "max_offset_s": settings["clock_offset_s"]},
        {"id": "prep.server.os", "type": "os", "supported": list(settings["supported_os"]), "name": "operating system"},
        {
            "id": "prep.python.version",
            "type": "os",
            "name": "Python",
            **_python(service["python"] if app else f">={settings['python_min']}"),
        },
        {
            "id": READY,
            "name": "inodes",
            "type": "resources",
            "paths": list(settings["disk_gb"]),
            "inodes_percent": settings["inodes_percent"],
        },
    ]
    for path, wanted in settings["disk_gb"].items():
        size = max(float(wanted), float(need.get("disk_gb") or 0)) if app and path == "/opt" else wanted
        probes.append({"id": READY, "name": f"disk space of {path}", "type": "resources", "paths": [path], "disk_gb": size})
    for path in settings["writable"]:
        probes.append({"id": READY, "name": f"writes to {path}", "type": "file", "path": path, "writable": True, "nearest_parent": True,
                       "detail": WRITE_FIX})  # fmt: skip
    if app:
        probes += [
            {"id": "prep.server.cpu", "name": "cores", "type": "resources", "cpu": need.get("cpu") or 1},
            {"id": "prep.server.memory", "name": "memory", "type": "resources", "memory_gb": need.get("memory_gb") or 1},
        ]
        probes += reach_probes(service, settings, secrets)
        if settings["wheel_tag"]:
            probes.append({"id": READY, "name": "what the release was built for", "type": "os", "wheel_tag": settings["wheel_tag"]})
    for label, ports, holders in port_rules(service, mine):
        probes.append({"id": READY, "name": f"ports of {label}", "type": "ports", "ports": ports, "held_by": holders, "timeout_s": 15})
    if settings["check_packages"]:
        probes.append({"id": "prep.network.egress", "name": "packages", "type": "apt", "timeout_s": 30})
    return probes


def port_rules(service: Mapping, mine: Sequence[str]) -> list[tuple[str, list[int], list[str]]]:
    """(what for, ports, processes or units that may hold them) of a host that is in the groups `mine`."""
    rules = []
    if "gateway" in mine:
        rules.append(("the gateway", [service["gateway"]["https_port"], INTERNAL_PORT], ["nginx"]))
    if "app" in mine:
        metrics = (service.get("metrics") or {}).get("ports") or {}
        rules.append(("the service", [*service["ports"].values(), *metrics.values()], [f"{service['name']}-*.service"]))
    dependencies = service.get("dependencies") or {}
    for kind, group, more, holders in (
        ("database", "database", (), ["postgres", "postgresql@*.service"]),
        ("broker", "broker", BROKER_PORTS, ["beam.smp", "rabbitmq-server.service"]),
        ("cache", "cache", (), ["redis-server", "redis-server.service"]),
    ):
        found = dependencies.get(kind)
        if found and found["mode"] == "installed" and group in mine:
            rules.append((f"the {kind}", [found["port"], *more], holders))
    return rules


def reach_probes(service: Mapping, settings: Mapping, secrets: Mapping) -> list[dict]:
    """What an app host must be able to reach before a deploy: the contract's `external`, the role's own list, provided dependencies."""
    probes = []
    for item in [*(service.get("external") or []), *settings["reachable"]]:
        probe = {"id": item["id"], "name": item["name"], "timeout_s": settings["reach_timeout_s"], "detail": REACH_FIX}
        if item.get("url"):
            probes.append({**probe, "type": "http", "url": item["url"], "status_below": 500})
        else:
            probes.append({**probe, "type": "tcp", "host": item["host"], "port": item["port"]})
    return probes + dependency_probes(service, {}, {}, secrets, settings["reach_timeout_s"], modes=("provided",))


def dependency_probes(
    service: Mapping,
    groups: Mapping,
    addresses: Mapping,
    secrets: Mapping,
    timeout_s: float,
    modes: Sequence[str] = ("provided", "installed"),
) -> list[dict]:
    """Every service the application depends on answers, seen from an app host (001, deployment steps L372)."""
    probes = []
    for kind, found in (service.get("dependencies") or {}).items():
        if found["mode"] not in modes:
            continue
        host, port = found.get("host"), found.get("port")
        if kind == "cache" and found["mode"] == "provided":
            parts = urlsplit(
                str(secrets.get(found["url_key"]) or next((i.get("value") for i in service["env"] if i["key"] == found["url_key"]), ""))
            )
            host, port = parts.hostname, parts.port or 6379
        places = [host] if host else [addresses[name] for name in groups.get(kind, ())]
        for place in places or [None]:
            if place is None:
                raise ValueError(f"service.dependencies.{kind}: no host is named; set its host, or put one into the group {kind}")
            probes.append({"id": "prep.deps.ready", "name": kind, "type": "tcp", "host": place, "port": port, "timeout_s": timeout_s,
                           "detail": REACH_FIX})  # fmt: skip
    return probes


def control_probes(service: Mapping, groups: Mapping, settings: Mapping) -> list[dict]:
    """The probes of the control node: its tools, and the arithmetic of connections."""
    probes = [
        {"id": "prep.tool.git", "name": "control node", "type": "command", "argv": ["git", "--version"],
         "stdout_matches": r"git version \S+", "show_match": True, "detail": {"fix": "install git"}},
        {"id": "prep.tool.uv", "name": "control node", "type": "command", "argv": [settings["uv"], "--version"],
         "stdout_matches": r"uv \d\S+", "show_match": True, "detail": {"fix": "`make setup` installs it; or set preflight_uv"}},
    ]  # fmt: skip
    if "database" in (service.get("dependencies") or {}):
        figures = connections_required(dict(service), len(groups.get("app", ())))
        allowed = settings["max_connections"]
        probes.append({
            "id": "prep.db.pool", "name": "connections", "type": "connection_budget", "slots": figures["slots"], "hosts": figures["hosts"],
            "processes": figures["processes"], "pool": figures["pool_max"], "reserve": figures["reserve"] + figures["migration"],
            "max_connections": allowed, "role_limit": settings["role_limit"],
        })  # fmt: skip
    return probes


def _python(specifier: str) -> dict:
    """Arguments of the os probe for `>=3.11,<3.14`."""
    lowest, below = re.search(r">=\s*([\d.]+)", specifier), re.search(r"<\s*([\d.]+)", specifier)
    found = {"python_min": lowest.group(1) if lowest else "3.11"}
    return {**found, "python_below": below.group(1)} if below else found


def wheel_target(results: Mapping[str, Mapping]) -> dict:
    """Which wheels all hosts take, as preflight measured them: {python: "3.11", machine, glibc: the oldest}.

    Hosts that differ are joined by "and", which no build accepts. results: host to the result of its health_check. Raises ValueError
    naming a host that was not measured.
    """
    found: dict[str, set] = {"python": set(), "machine": set(), "glibc": set()}
    for host, result in results.items():
        details = {item["id"]: item.get("detail") or {} for item in result.get("evidence") or []}
        system, python = details.get("prep.server.os", {}), details.get("prep.python.version", {})
        if not (system.get("architecture") and system.get("glibc") and python.get("python")):
            raise ValueError(f"{host}: system, C library or Python was not measured; the role preflight does it")
        found["python"].add(".".join(python["python"].split(".")[:2]))
        found["machine"].add(system["architecture"])
        found["glibc"].add(system["glibc"])
    oldest = min(found["glibc"], key=lambda text: [int(number) for number in text.split(".")], default=None)
    return {"python": " and ".join(sorted(found["python"])), "machine": " and ".join(sorted(found["machine"])), "glibc": oldest}


def blockers(results: Mapping[str, Mapping]) -> list[str]:
    """One line for everything that stands in the way, on all hosts. results: host to the result of its health_check (or of its failure)."""
    lines = []
    for host, result in results.items():
        if result.get("unreachable"):
            said = " ".join(str(result.get("msg") or "no answer").split())[:300]
            lines.append(
                f"{host}: {READY}: the host cannot be reached ({said}); start it, or correct its address, user and key in the inventory"
            )
            continue
        evidence = result.get("evidence")
        if not evidence:
            said = " ".join(str(result.get("msg") or "no measurement came back").split())[:600]
            lines.append(f"{host}: nothing was measured: {said}")
        for item in evidence or []:
            if item["status"] not in ("pass", "not_applicable"):
                detail = item.get("detail") or {}
                name, fix = (f" ({detail['target']})" if "target" in detail else ""), (f"; {detail['fix']}" if "fix" in detail else "")
                lines.append(f"{host}: {item['id']}{name}: {item.get('reason') or item['observed']}{fix}")
    return lines
