"""The systemd units of a service, derived from its contract: names, command lines, and which of them run for the live slot only.

A unit is a template with the slot as its instance. What belongs to a release (command, interval) lies in the release's folder as a drop-in,
which `/etc/systemd/system/<unit>@<slot>.<type>.d/` links to through the slot: it changes, and rolls back, with the slot's link.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .switch import SLOTS


def exec_start(service: str, command: str) -> str:
    """The `ExecStart` of a process: its first word is a program of the virtual environment of the slot's release.

    systemd splits the rest and expands `${KEY}` from the env files; a `%` stands for itself. Raises ValueError for a program with a slash.
    """
    program, _, rest = command.strip().partition(" ")
    if "/" in program or not re.match(r"[A-Za-z0-9._-]+\Z", program):
        raise ValueError(
            f"{command!r} must begin with the name of a program of the virtual environment, not with {program!r}"
        )
    return (
        f"/opt/{service}/slots/%i/venv/bin/{program} {rest.strip()}".rstrip().replace("%", "%%").replace("%%i", "%i", 1)
    )


def process_units(service: Mapping) -> list[dict]:
    """The unit templates of a service: [{name, process, kind, exec, every}], one for each copy of a process.

    `name` is without `@`; `exec` the ExecStart; `every` the interval of a scheduled process, else None.
    """
    made = []
    for process in service["processes"]:
        for copy in range(1, process.get("count", 1) + 1):
            made.append(
                {
                    "name": f"{service['name']}-{process['name']}" + (f"-{copy}" if copy > 1 else ""),
                    "process": process["name"],
                    "kind": process["kind"],
                    "exec": exec_start(service["name"], process["command"]),
                    "every": process.get("every"),
                }
            )
    return made


def web_unit(service: Mapping, slot: str) -> str:
    """The unit of the web process in a slot. Raises ValueError if there is none."""
    for one in process_units(service):
        if one["kind"] == "web":
            return f"{one['name']}@{slot}.service"
    raise ValueError("service.processes: no process is of kind web")


def background_units(service: Mapping, slot: str) -> list[str]:
    """What the slot agent runs in a slot while it is live: services of workers, timers of scheduled processes."""
    suffix = {"worker": "service", "scheduled": "timer"}
    return [f"{one['name']}@{slot}.{suffix[one['kind']]}" for one in process_units(service) if one["kind"] in suffix]


def all_units(service: Mapping, slot: str) -> list[str]:
    """Every service unit of a slot (no timers): what can be judged for its hardening."""
    return [f"{one['name']}@{slot}.service" for one in process_units(service)]


def agent_units(service: Mapping, slot: str, known: Mapping | None) -> dict[str, list[str]]:
    """The slot agent's units once `slot` leads to a release of this contract.

    The other slot keeps what the agent knew (`known`, its present units): its release may have other processes.
    """
    kept = {one: list((known or {}).get(one) or []) for one in SLOTS}
    return {**kept, slot: background_units(service, slot)}
