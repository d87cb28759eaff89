"""Samples a host each second while something runs elsewhere: CPU, memory, connections; and sums the samples up.

`/usr/bin/python3 -m greenroom.load_sampler --out FILE --seconds N` writes one JSON line a second and ends by itself. Standard library only.
In a container CPU and memory are those of its control group: /proc there is the machine's. Source: runbook weaknesses C10 (figures of an
idle host, taken after the load), C15.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from .load_samples import json_lines, percentile, read_plain
from .probes.resources import cpu_cores, memory_bytes

ESTABLISHED = "01"  # of /proc/net/tcp
PAGE = "inactive_file"  # page cache that goes when it is wanted: not used memory


def _number(path: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text(encoding="ascii"))
    return None


def _field(path: Path, name: str) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        for line in path.read_text(encoding="ascii").splitlines():
            parts = line.split()
            if len(parts) >= 2 and parts[0].rstrip(":") == name:
                return int(parts[1])
    return None


class Host:
    """Where this host's figures are: its own control group if it is a container, else /proc. `proc` and `cgroup` are for tests."""

    def __init__(self, proc: str = "/proc", cgroup: str = "/sys/fs/cgroup"):
        self.proc, root = Path(proc), Path(cgroup)
        self.cores, self.memory_limit = cpu_cores(proc, cgroup)[0], memory_bytes(proc, cgroup)[0]
        self.cpu_group = self.memory_group = None
        for line in (self.proc / "1/cgroup").read_text(encoding="ascii", errors="replace").splitlines():
            _, controllers, path = line.split(":", 2)
            inner = path.strip("/").removesuffix("init.scope").strip("/")
            if not controllers and (root / inner / "memory.current").is_file():  # version 2; the machine's own root has no such file
                self.cpu_group = self.memory_group = root / inner
            for name in controllers.split(",") if inner and ".." not in inner else ():
                folder = next((one for one in (root / name / inner, root / controllers / inner) if one.is_dir()), None)
                if name == "cpuacct":
                    self.cpu_group = folder
                if name == "memory":
                    self.memory_group = folder

    def cpu_seconds(self) -> float:
        """Processor time used so far, all cores together."""
        if self.cpu_group:
            microseconds, nanoseconds = _field(self.cpu_group / "cpu.stat", "usage_usec"), _number(self.cpu_group / "cpuacct.usage")
            if microseconds is not None or nanoseconds is not None:
                return microseconds / 1e6 if microseconds is not None else nanoseconds / 1e9
        with open(self.proc / "stat", encoding="ascii") as lines:
            user, nice, system, _idle, _wait, irq, soft, steal = map(int, lines.readline().split()[1:9])
        return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")

    def memory_percent(self) -> float:
        """Memory in use, percent of what the host may use; page cache does not count."""
        if self.memory_group:
            used = next((n for n in (_number(self.memory_group / name) for name in ("memory.current", "memory.usage_in_bytes")) if n), None)
            if used is not None:
                stat = self.memory_group / "memory.stat"
                cache = next((n for n in (_field(stat, f"total_{PAGE}"), _field(stat, PAGE)) if n is not None), 0)
                return 100 * max(0, used - cache) / self.memory_limit
        total, free = (_field(self.proc / "meminfo", name) for name in ("MemTotal", "MemAvailable"))
        return 100 * (total - free) / total

    def connections(self) -> int:
        """Established TCP connections."""
        count = 0
        for name in ("tcp", "tcp6"):
            with contextlib.suppress(OSError):
                lines = (self.proc / "net" / name).read_text(encoding="ascii").splitlines()[1:]
                count += sum(line.split()[3] == ESTABLISHED for line in lines)
        return count


def sample(host: Host, seconds: float, out: str | os.PathLike, interval_s: float = 1.0) -> None:
    """Write a line each interval for `seconds`: {at (seconds since 1970), cpu (percent of all cores), memory (percent), connections}."""
    until = time.monotonic() + seconds
    before, clock = host.cpu_seconds(), time.monotonic()
    with open(out, "w", buffering=1, encoding="ascii") as file:
        while clock < until:
            time.sleep(interval_s)
            now, moment = host.cpu_seconds(), time.monotonic()
            cpu = 100 * (now - before) / (moment - clock) / host.cores
            line = {
                "at": round(time.time(), 2), "cpu": round(cpu, 1), "memory": round(host.memory_percent(), 1),
                "connections": host.connections(),
            }  # fmt: skip
            file.write(json.dumps(line) + "\n")
            before, clock = now, moment


def read(path: str | os.PathLike) -> list[dict]:
    """The samples of a file. Raises SamplesError if there is none."""
    return [line for line in json_lines(read_plain(Path(path))) if {"at", "cpu", "memory", "connections"} <= line.keys()]


def summary(samples: Iterable[Mapping], window: Mapping | None, offset_s: float = 0.0) -> dict:
    """What a host did within the window: {samples, cpu_mean, cpu_max, cpu_p95, memory_max, connections_max}, percent and counts.

    `offset_s` is how far this host's clock is ahead of the generator's. Without a window or samples there are only `samples` (0) and
    `problem`.
    """
    if not window:
        return {"samples": 0, "problem": "no load was measured"}
    inside = [one for one in samples if window["begin"] <= one["at"] - offset_s <= window["end"] + 1]
    if not inside:
        return {"samples": 0, "problem": "nothing was sampled while the load ran: is its clock right?"}
    cpu = sorted(one["cpu"] for one in inside)
    return {
        "samples": len(inside), "cpu_mean": round(sum(cpu) / len(cpu), 1), "cpu_p95": percentile(cpu, 95), "cpu_max": cpu[-1],
        "memory_max": max(one["memory"] for one in inside), "connections_max": max(one["connections"] for one in inside),
    }  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Sample this host until the time is over."""
    parser = argparse.ArgumentParser(prog="greenroom.load_sampler", description=main.__doc__)
    parser.add_argument("--out", required=True)
    parser.add_argument("--seconds", required=True, type=float)
    chosen = parser.parse_args(arguments)
    sample(Host(), chosen.seconds, chosen.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
