"""Ports: free, or held by the processes and units that may hold them; names pid, process and unit (runbook 003 L43-49)."""

from __future__ import annotations

from fnmatch import fnmatch

from .base import Arg, Context, Outcome, Probe
from .processes import describe_process, listeners, socket_owners


def run(args: dict, context: Context) -> Outcome:
    allowed = args["held_by"]
    names = ", ".join(map(str, args["ports"]))
    wanted = f"port {names} free" + (f" or held by {' or '.join(allowed)}" if allowed else "")
    open_ports = listeners()
    taken = {port: {inode for _, inode in open_ports[port]} for port in args["ports"] if port in open_ports}
    owners = socket_owners(set().union(*taken.values())) if taken else {}
    observed, problems, detail = [], [], {}
    for port in args["ports"]:
        if port not in taken:
            observed.append(f"{port} free")
            continue
        pids = sorted({pid for inode in taken[port] for pid in owners.get(inode, [])})
        holders = [describe_process(pid) for pid in pids]
        detail[str(port)] = holders
        texts = [f"{item['process']} (pid {item['pid']}{', ' + item['unit'] if item['unit'] else ''})" for item in holders]
        observed.append(f"{port} held by {', '.join(texts) or 'a process that this user cannot see'}")
        strangers = [text for text, item in zip(texts, holders) if not _ours(item, allowed)]  # noqa: B905 - hosts may have Python 3.9
        if strangers or not holders:
            problems.append(
                f"port {port} is held by {', '.join(strangers) or 'a process that this user cannot see'}; stop it or choose another port"
            )
    return Outcome(not problems, wanted, "; ".join(observed), "; ".join(problems) or None, detail)


def _ours(holder: dict, allowed: list) -> bool:
    return any(fnmatch(holder["process"], name) or (holder["unit"] and fnmatch(holder["unit"], name)) for name in allowed)


PROBE = Probe(
    "ports",
    "TCP ports are free, or held by ours",
    {
        "ports": Arg("list", "port numbers", required=True, elements="int"),
        "held_by": Arg("list", "process or unit names that may hold them, with * and ?", default=[], elements="str"),
    },
    run,
    lambda args: [] if args["ports"] else [("ports", "is empty")],
)
