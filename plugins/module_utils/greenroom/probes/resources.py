"""Resources: cores, memory, disk space and inodes. What a control group grants comes before what the machine has:
in a container MemTotal, the number of CPUs and `df /` are the machine's."""

from __future__ import annotations

import math
import os

from .base import Arg, Context, Findings, Outcome, Probe

GB = 1_000_000_000
_UNLIMITED = 1 << 60  # cgroup v1 writes a huge number where there is no limit


def run(args: dict, context: Context) -> Outcome:
    found = Findings()

    def at_least(what, wanted, have, unit, source, advice):
        problem = f"{what}: {have:g} {unit}{source} is less than {wanted:g} {unit}; {advice}"
        found.add(f"≥ {wanted:g} {unit} {what}", f"{have:g} {unit} {what}{source}", have >= wanted, problem)

    if args["cpu"] is not None:
        cores, source = cpu_cores()
        found.detail["cpu_cores"] = cores
        at_least("CPU", args["cpu"], cores, "cores", source, "give the host more cores")
    if args["memory_gb"] is not None:
        size, source = memory_bytes()
        found.detail["memory_bytes"] = size
        at_least("memory", args["memory_gb"], round(size / GB, 2), "GB", source, "give the host more memory")
    for path in args["paths"]:
        there = existing(path)
        system = os.statvfs(there)
        label = path if there == path else f"{path} ({there})"
        free = system.f_bavail * system.f_frsize
        found.detail[path] = {"free_bytes": free, "free_inodes": system.f_favail, "inodes": system.f_files}
        if system.f_flag & os.ST_RDONLY:
            found.add(f"{path} writable", f"{label} is mounted read-only", False, f"{label} is mounted read-only; remount it read-write")
        if args["disk_gb"] is not None:
            at_least(
                f"free on {label}", args["disk_gb"], round(free / GB, 2), "GB", "", f"free space below {there} or enlarge its file system"
            )
        if args["inodes_percent"] is not None and system.f_files:  # btrfs and the like have no fixed number
            share = round(100 * system.f_favail / system.f_files, 1)
            at_least(f"inodes free on {label}", args["inodes_percent"], share, "%", "", f"delete what fills {there} with many small files")
    return found.outcome()


def existing(path: str) -> str:
    """The nearest folder of `path` that exists: space is asked for before the folder is made."""
    path = os.path.abspath(path)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def cpu_cores(proc: str = "/proc", cgroup: str = "/sys/fs/cgroup") -> tuple[float, str]:
    """(cores this host may use, where the figure comes from): the smallest of the control groups' quotas, else the machine's."""
    machine = float(len(os.sched_getaffinity(0)))
    quota = math.inf
    for folder in cgroup_folders("cpu", proc, cgroup):
        parts = (_read(f"{folder}/cpu.max") or "").split()
        if len(parts) == 2 and parts[0] != "max":
            quota = min(quota, int(parts[0]) / int(parts[1]))
        limit, period = _read(f"{folder}/cpu.cfs_quota_us"), _read(f"{folder}/cpu.cfs_period_us")
        if limit and period and int(limit) > 0:
            quota = min(quota, int(limit) / int(period))
    return (round(quota, 2), " (control group)") if quota < machine else (machine, "")


def memory_bytes(proc: str = "/proc", cgroup: str = "/sys/fs/cgroup") -> tuple[int, str]:
    """(bytes of memory this host may use, where the figure comes from), by the same rule as `cpu_cores`."""
    with open(f"{proc}/meminfo", encoding="ascii") as lines:
        machine = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:"))
    limit = _UNLIMITED
    for folder in cgroup_folders("memory", proc, cgroup):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(f"{folder}/{name}")
            if text and text.isdigit():
                limit = min(limit, int(text))
    return (limit, " (control group)") if limit < machine else (machine, "")


def cgroup_folders(controller: str, proc: str, cgroup: str) -> list:
    """The folders of this process's control groups for `controller`, v2 and v1, each with all its parents: every limit counts.

    Process 1's groups count too: a session of a user may lie beside them, and the container's limit is theirs.
    """
    found = []
    for pid in ("self", "1"):
        for line in (_read(f"{proc}/{pid}/cgroup") or "").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and controller not in controllers.split(","):
                continue
            roots = (
                [os.path.join(cgroup, name) for name in {controllers, controller}]
                if controllers
                else [cgroup, os.path.join(cgroup, "unified")]
            )
            for root in roots:
                inner = path.strip("/")
                while inner and not inner.startswith(".."):
                    found.append(os.path.join(root, inner))
                    inner = os.path.dirname(inner)
                found.append(root)
    return list(dict.fromkeys(found))


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None


def _check(args: dict) -> list:
    if args["paths"] and args["disk_gb"] is None and args["inodes_percent"] is None:
        return [("disk_gb", "give disk_gb or inodes_percent beside paths")]
    if (args["disk_gb"] is not None or args["inodes_percent"] is not None) and not args["paths"]:
        return [("paths", "missing beside disk_gb or inodes_percent")]
    if args["cpu"] is None and args["memory_gb"] is None and not args["paths"]:
        return [("cpu", "give at least one of cpu, memory_gb, paths")]
    return []


PROBE = Probe(
    "resources",
    "the host has enough cores, memory, disk space and inodes (its control group's limits count first)",
    {
        "cpu": Arg("float", "cores at least"),
        "memory_gb": Arg("float", "memory at least, in 10^9 bytes (a machine sold as 4 GB has a little less than 4 GiB)"),
        "paths": Arg(
            "list",
            "folders whose file systems are looked at; one that does not exist stands for its nearest parent",
            default=[],
            elements="str",
        ),
        "disk_gb": Arg("float", "free space at least on each of them, in 10^9 bytes"),
        "inodes_percent": Arg("float", "free inodes at least on each of them, in percent"),
    },
    run,
    _check,
)
