"""Processes, units and listening sockets as /proc and systemctl tell them; shared by the probes systemd, ports and environ."""

from __future__ import annotations

import os
import re

from .base import Context, execute

_LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp


def unit_properties(unit: str, names: list, context: Context) -> dict:
    """Properties of a systemd unit as text. Raises ProbeError without systemctl, RuntimeError when systemd does not answer."""
    done = execute(["systemctl", "show", "--no-pager", f"--property={','.join(names)}", "--", unit], context)
    if done.returncode != 0:
        raise RuntimeError(f"systemctl show {unit}: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def listeners(proc: str = "/proc") -> dict:
    """Listening TCP sockets of this network namespace: port -> list of (address in hex, inode)."""
    found: dict = {}
    for table in ("tcp", "tcp6"):
        try:
            with open(f"{proc}/net/{table}", encoding="ascii") as lines:
                next(lines)
                for line in lines:
                    fields = line.split()
                    if fields[3] == _LISTEN:
                        address, port = fields[1].rsplit(":", 1)
                        found.setdefault(int(port, 16), []).append((address, fields[9]))
        except FileNotFoundError:  # a kernel without IPv6
            continue
    return found


def socket_owners(inodes: set, proc: str = "/proc") -> dict:
    """Which processes hold the sockets with these inodes: inode -> list of pids (root sees all of them)."""
    owners: dict = {}
    for pid in filter(str.isdigit, os.listdir(proc)):
        try:
            handles = os.listdir(f"{proc}/{pid}/fd")
        except OSError:
            continue
        for handle in handles:
            try:
                target = os.readlink(f"{proc}/{pid}/fd/{handle}")
            except OSError:
                continue
            if target.startswith("socket:[") and target[8:-1] in inodes:
                owners.setdefault(target[8:-1], []).append(int(pid))
    return owners


def describe_process(pid: int, proc: str = "/proc") -> dict:
    """{pid, process, unit} of a running process; unit is None outside systemd."""
    try:
        with open(f"{proc}/{pid}/comm", encoding="utf-8", errors="replace") as file:
            name = file.read().strip()
        with open(f"{proc}/{pid}/cgroup", encoding="utf-8", errors="replace") as file:
            groups = file.read()
    except OSError:
        return {"pid": pid, "process": "gone", "unit": None}
    units = re.findall(r"([^/\n]+\.(?:service|socket|scope))(?=[/\n]|$)", groups)
    return {"pid": pid, "process": name, "unit": units[-1] if units else None}
