"""apt: packages could be installed: dpkg is in order, nobody holds its lock, the package sources answer. Installs and updates nothing."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import struct
from urllib.parse import urlsplit

from .base import Context, Outcome, Probe, execute, last_line, network_problem

_LOCKS = ("/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock", "/var/lib/apt/lists/lock")


def run(args: dict, context: Context) -> Outcome:
    wanted = "dpkg in order, its locks free, the package sources answer"
    observed, problems = [], []
    audit = execute(["dpkg", "--audit"], context)
    broken = audit.returncode != 0 or bool(audit.stdout.strip())
    observed.append("dpkg has unfinished packages" if broken else "dpkg in order")
    if broken:
        problems.append("dpkg has unfinished packages; run `dpkg --configure -a` and `apt-get -f install`")
    held = [f"{path} by pid {pid}" for path in _LOCKS for pid in [lock_holder(path)] if pid]
    observed.append(f"locked: {', '.join(held)}" if held else "no lock held")
    if held:
        problems.append(f"another package tool is at work ({', '.join(held)}); wait for it")
    sources, complaint = _sources(context)
    if complaint:
        observed.append("no package source")
        problems.append(complaint)
    for host, port in sources:
        try:
            socket.create_connection((host, port), context.remaining()).close()
            observed.append(f"{host}:{port} answers")
        except OSError as error:
            seen = network_problem(error, context.timeout_s)
            observed.append(f"{host}:{port} {seen}")
            problems.append(f"package source {host}:{port}: {seen}")
    return Outcome(
        not problems, wanted, "; ".join(observed), "; ".join(problems) or None, {"sources": [f"{host}:{port}" for host, port in sources]}
    )


def lock_holder(path: str) -> int | None:
    """The process that holds a lock on `path`, None if nobody does; asks without taking it."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        question = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack("hhqqi4x", fcntl.fcntl(handle, fcntl.F_GETLK, question))
        return None if kind == fcntl.F_UNLCK else pid
    finally:
        os.close(handle)


def _sources(context: Context) -> tuple[list, str | None]:
    """(host, port) of what `apt-get update` would ask, or of the proxy in their place; local folders have none.

    It prints the addresses and fetches nothing.
    """
    done = execute(["apt-get", "--print-uris", "-o", "Debug::NoLocking=true", "update"], context)
    if done.returncode != 0:
        return [], f"apt-get: {last_line(done.stderr)}"
    settings = execute(["apt-config", "dump", "--format", "%f %v%n"], context).stdout
    proxy = re.search(r"^Acquire::https?::Proxy (\S+)$", settings, re.MULTILINE)
    addresses = [proxy.group(1)] if proxy and proxy.group(1) != "DIRECT" else re.findall(r"^'([^']+)'", done.stdout, re.MULTILINE)
    parts = [urlsplit(address) for address in addresses]
    found = {(part.hostname, part.port or (443 if part.scheme == "https" else 80)) for part in parts if part.hostname}
    return sorted(found), None if parts else "no package source is configured; fill /etc/apt/sources.list.d"


PROBE = Probe("apt", "Debian packages could be installed here: dpkg in order, its locks free, the package sources answer", {}, run)
