"""What the guard asks over HTTP: each slot's health page on each app host, and pages of metrics. No key, no login, a deadline each.

Hosts are asked one by one and side by side: the gateway's own balancing would hide an ill one. Standard library only.
"""

from __future__ import annotations

import http.client
import json
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from .guard_rules import Health, Signal, Use, business, resources
from .probes.base import Context, ProbeError, network_problem
from .probes.client import ARGS, Response, request
from .probes.compare import ABSENT, at_path
from .probes.metrics import parse, select

AT_ONCE = 32  # threads
FILE_SYSTEMS = ("ext2", "ext3", "ext4", "xfs", "btrfs", "overlay", "zfs")


def bracketed(address: str) -> str:
    """An address as it stands in a URL."""
    return f"[{address}]" if ":" in address else address


def get(url: str, timeout_s: float) -> Response:
    """One GET. Raises ValueError with the reason in words: the deadline, the network, or what answered."""
    args = {**{key: spec.default for key, spec in ARGS.items()}, "url": url}
    try:
        return request(args, Context(timeout_s))
    except (OSError, http.client.HTTPException, ProbeError) as error:
        raise ValueError(network_problem(error, timeout_s)) from error


def look(url: str, page: Mapping, timeout_s: float) -> Health:
    """One look at a health page. `page` is `health` of the contract: its fields and the one value that means healthy."""
    try:
        answer = get(url, timeout_s)
    except ValueError as error:
        return Health(False, False, str(error))
    try:
        body = json.loads(answer.body)
    except ValueError:
        return Health(False, True, f"HTTP {answer.status}, no JSON")
    status = at_path(body, page["status_field"])
    parts = at_path(body, page["dependency_field"]) if page["dependency_field"] else ABSENT
    states = (
        {name: at_path(part, page["status_field"]) == page["healthy"] for name, part in parts.items()} if isinstance(parts, dict) else {}
    )
    down, well = (frozenset(name for name, state in states.items() if state is wanted) for wanted in (False, True))
    release = at_path(body, page["release_field"]) if page["release_field"] else ABSENT
    ok = answer.status == 200 and status == page["healthy"]
    reason = (
        "" if ok else f"HTTP {answer.status}, {page['status_field']} is {status!r}" + (f", ill: {', '.join(sorted(down))}" if down else "")
    )
    return Health(ok, True, reason, down, well, release if isinstance(release, str) else None)


def side_by_side(jobs: Mapping[tuple, Callable[[], object]]) -> dict:
    """{key: result} of all jobs; each has a deadline of its own."""
    if not jobs:
        return {}
    with ThreadPoolExecutor(min(AT_ONCE, len(jobs))) as pool:
        return {key: future.result() for key, future in {key: pool.submit(job) for key, job in jobs.items()}.items()}


def look_at_slots(hosts: Mapping[str, str], ports: Mapping[str, int], page: Mapping, timeout_s: float) -> dict[str, dict[str, Health]]:
    """{slot: {host: Health}} of both slots on every host ({name: address})."""
    jobs = {}
    for slot, port in ports.items():
        for host, address in hosts.items():
            url = f"http://{bracketed(address)}:{port}{page['path']}"
            jobs[slot, host] = lambda url=url: look(url, page, timeout_s)
    found: dict[str, dict[str, Health]] = {slot: {} for slot in ports}
    for (slot, host), health in side_by_side(jobs).items():
        found[slot][host] = health
    return found


def samples(url: str, timeout_s: float) -> list | None:
    """The samples of a page in Prometheus' text format; None where there is no such page."""
    try:
        answer = get(url, timeout_s)
        return parse(answer.body.decode("utf-8")) if answer.status == 200 else None
    except ValueError:
        return None


def one(page: list, selector: str) -> float | None:
    """The sum of the samples that a selector names; None without any, or if it is no number."""
    values = select(page, selector)
    total = sum(values)
    return total if values and math.isfinite(total) else None


class HostUse:
    """Percent used of a host's resources, from node exporter's page, and the service's own share, from its page of metrics.

    CPU needs two samples: the first one only begins.
    """

    def __init__(self) -> None:
        self._before: tuple[float, float, float | None] | None = None  # seconds idle, seconds in all, seconds of the service

    def take(self, node: list, service: list | None) -> Use:
        """One sample. `service` is None where the service offers no metrics: then its share is not known."""
        used: dict[str, float] = {}
        own: dict[str, float | None] = {}
        total, free = one(node, "node_memory_MemTotal_bytes"), one(node, "node_memory_MemAvailable_bytes")
        if total and free is not None:
            used["memory"] = 100 * (1 - free / total)
            resident = one(service, "process_resident_memory_bytes") if service else None
            own["memory"] = None if resident is None else 100 * resident / total
        used |= self._disks(node)
        idle, every = one(node, 'node_cpu_seconds_total{mode="idle"}'), one(node, "node_cpu_seconds_total")
        if idle is None or every is None:
            self._before = None
            return Use(used, own)
        mine = one(service, "process_cpu_seconds_total") if service else None
        before, self._before = self._before, (idle, every, mine)
        if before and every > before[1]:
            passed = every - before[1]
            used["cpu"] = 100 * (1 - (idle - before[0]) / passed)
            known = mine is not None and before[2] is not None and mine >= before[2]
            own["cpu"] = 100 * (mine - before[2]) / passed if known else None
        return Use(used, own)

    @staticmethod
    def _disks(node: list) -> dict[str, float]:
        """{`disk <mount point>`: percent}; whose files they are is not known."""
        kinds = {(labels.get("mountpoint"), labels.get("fstype")) for name, labels, _value in node if name == "node_filesystem_size_bytes"}
        found = {}
        for mount, kind in kinds:
            if kind in FILE_SYSTEMS:
                size, free = (one(node, f'node_filesystem_{what}_bytes{{mountpoint="{mount}"}}') for what in ("size", "avail"))
                if size and free is not None:
                    found[f"disk {mount}"] = 100 * (1 - free / size)
        return found


class Pages:
    """The signals that pages of metrics give, each over its window: resources of the hosts, and the service's named number."""

    def __init__(self, hosts: Mapping[str, str], metrics: Mapping | None, limits: Mapping):
        self.hosts, self.metrics, self.limits = hosts, metrics, limits
        self.uses = {host: HostUse() for host in hosts}
        self.clear()

    def clear(self) -> None:
        """Forget the samples: another release serves."""
        self._series: dict[str, list] = {}  # {host, or business: [(moment, sample)]}
        self._counter: tuple[float, float] | None = None

    def signals(self, moment: float, slot: str) -> list[Signal]:
        """Take one sample of each page and judge; nothing for what the contract does not ask for."""
        source, wanted = self.limits["resources"]["source"], self.limits.get("business")
        jobs = {}
        for host, address in self.hosts.items():
            urls = {"node": source.replace("{host}", bracketed(address))} if source else {}
            if self.metrics and (source or wanted):
                urls["service"] = f"http://{bracketed(address)}:{self.metrics['ports'][slot]}{self.metrics['path']}"
            for kind, url in urls.items():
                jobs[kind, host] = lambda url=url: samples(url, self.limits["probe_timeout_s"])
        got = side_by_side(jobs)
        made = []
        if source:
            window = self.limits["resources"]["window_s"]
            for host, use in self.uses.items():
                page = got["node", host]
                self._keep(host, moment, window, use.take(page, got.get(("service", host))) if page else None)
            made.append(resources({host: self._values(host) for host in self.hosts}, self.limits["resources"]))
        if wanted:
            values = [one(page, wanted["series"]) for (kind, _host), page in got.items() if kind == "service" and page]
            self._keep(
                "business", moment, wanted["window_s"], self._number(moment, [value for value in values if value is not None], wanted)
            )
            made.append(business(self._values("business"), wanted))
        return made

    def _number(self, moment: float, values: list[float], wanted: Mapping) -> float | None:
        """The sum over all hosts, or how much it grew in a second; None without evidence, and where a counter began anew."""
        if not values or not wanted["per_second"]:
            return sum(values) if values else None
        before, self._counter = self._counter, (moment, sum(values))
        grown = before and self._counter[1] - before[1]
        return grown / (moment - before[0]) if before and grown >= 0 and moment > before[0] else None

    def _keep(self, name: str, moment: float, window_s: float, sample: object) -> None:
        recent = [item for item in self._series.get(name, []) if item[0] > moment - window_s]
        self._series[name] = recent if sample is None else [*recent, (moment, sample)]

    def _values(self, name: str) -> list:
        return [sample for _moment, sample in self._series.get(name, [])]
