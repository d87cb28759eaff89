"""The guard's judgement, as pure functions: samples in, verdict out, with reasons. No clock, no file, no network.

Sources: automatic rollback on more than 3 failed health checks, an error rate above 5 %, P95 above 2 s, resources above 90 %, a business
metric that is abnormal (004 L136-140). What the runbooks leave open is decided here and said in docs/guard.md: failures count in a row; a
threshold needs samples; a dependency that is down is no bad release; what another process uses up is none either; no data is "blind".
Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

HEALTHY, BAD_RELEASE, DEPENDENCY_DOWN, BLIND, WAITING = "healthy", "bad_release", "dependency_down", "blind", "waiting"

GOOD, BAD, FOREIGN, FEW, NONE = "good", "bad", "foreign", "few", "none"
"""Of a signal: within its limit; beyond it; beyond it but not by the service; not sure yet; no evidence."""


class Health(NamedTuple):
    """One look at a slot's health page on one host.

    answered: whether there was an HTTP answer. down, well: dependencies that the page calls ill and healthy. release: what it says it is.
    """

    ok: bool
    answered: bool
    reason: str = ""
    down: frozenset = frozenset()
    well: frozenset = frozenset()
    release: str | None = None


class Use(NamedTuple):
    """One sample of a host: percent used of each resource, and percent used by the service itself (None: not known)."""

    used: Mapping[str, float]
    own: Mapping[str, float | None]


class Signal(NamedTuple):
    """What one trigger says. samples: how many it judged by."""

    name: str
    state: str
    text: str
    samples: int = 0


class Verdict(NamedTuple):
    """kind: one of the five; reasons: why; alerts: {event: text}, what people are told although nothing is done."""

    kind: str
    reasons: list[str]
    alerts: dict[str, str]


def health(streaks: Mapping[str, int], now: Mapping[str, Health], limits: Mapping) -> Signal:
    """More failures in a row than tolerated, on every host: users have nowhere to go. One ill host among well ones is not the release's.

    streaks: failed looks in a row of each host; now: its newest look.
    """
    samples = sum(max(1, streaks[host]) for host in now)
    if not now:
        return Signal("health", NONE, "there is no host to look at")
    least = min(streaks[host] for host in now)
    said = "; ".join(f"{host}: {look.reason}" for host, look in now.items() if not look.ok)
    if least > limits["tolerated"]:
        return Signal("health", BAD, f"{least} health checks in a row failed on every host ({said})", samples)
    if least:
        return Signal("health", FEW, f"{least} health checks in a row failed, {limits['tolerated']} are tolerated ({said})", samples)
    return Signal("health", GOOD, f"healthy on {sum(look.ok for look in now.values())} of {len(now)} hosts", samples)


def ill_hosts(streaks: Mapping[str, int], limits: Mapping) -> list[str]:
    """Hosts that fail for longer than tolerated while another one serves."""
    ill = [host for host, failures in streaks.items() if failures > limits["tolerated"]]
    return ill if len(ill) < len(streaks) else []


def errors(count: int, failed: int, limits: Mapping) -> Signal:
    """The share of failed requests in the window."""
    if count < limits["min_samples"]:
        return Signal("errors", NONE, f"{count} requests in {limits['window_s']} s, {limits['min_samples']} are needed to judge", count)
    percent = 100 * failed / count
    text = f"{percent:.1f} % of {count} requests failed in {limits['window_s']} s, limit {limits['percent']:g} %"
    return Signal("errors", BAD if percent > limits["percent"] else GOOD, text, count)


def latency(count: int, p95_s: float | None, limits: Mapping) -> Signal:
    """The 95th percentile of the requests' time in the window."""
    if p95_s is None or count < limits["min_samples"]:
        return Signal("p95", NONE, f"{count} requests in {limits['window_s']} s, {limits['min_samples']} are needed to judge", count)
    text = f"P95 {p95_s * 1000:.0f} ms of {count} requests in {limits['window_s']} s, limit {limits['ms']:g} ms"
    return Signal("p95", BAD if p95_s * 1000 > limits["ms"] else GOOD, text, count)


def resources(samples: Mapping[str, Sequence[Use]], limits: Mapping) -> Signal:
    """A resource of a host beyond the limit in every sample of the window; by the service itself, or by another process.

    It is the service's if it uses at least `own_percent` of what is used. A share that is not known is not the service's: no guess.
    """
    least = min((len(series) for series in samples.values()), default=0)
    total = sum(len(series) for series in samples.values())
    if least < limits["min_samples"]:
        return Signal("resources", NONE, f"{least} samples of a host in {limits['window_s']} s, {limits['min_samples']} are needed", total)
    own, foreign = [], []
    for host, series in samples.items():
        for kind in series[-1].used:
            values = [use.used.get(kind) for use in series]
            if any(value is None or not value > limits["percent"] for value in values):
                continue
            shares = [100 * (use.own.get(kind) or 0) / use.used[kind] for use in series]
            share = sum(shares) / len(shares)
            text = f"{kind} of {host} at {values[-1]:.0f} %, {share:.0f} % of it by the service"
            (own if share >= limits["own_percent"] else foreign).append(text)
    if own:
        return Signal("resources", BAD, "; ".join(own), total)
    if foreign:
        return Signal("resources", FOREIGN, "; ".join(foreign), total)
    return Signal("resources", GOOD, f"below {limits['percent']:g} % on {len(samples)} hosts", total)


def business(values: Sequence[float], limits: Mapping) -> Signal:
    """A named number of the service's own, outside its bounds in every sample of the window."""
    name, low, high = limits["name"], limits.get("minimum"), limits.get("maximum")
    if len(values) < limits["min_samples"]:
        return Signal(
            "business", NONE, f"{name}: {len(values)} samples in {limits['window_s']} s, {limits['min_samples']} are needed", len(values)
        )
    wrong = [value for value in values if (low is not None and value < low) or (high is not None and value > high)]
    bounds = " and ".join([*([f"at least {low:g}"] if low is not None else []), *([f"at most {high:g}"] if high is not None else [])])
    text = f"{name} is {values[-1]:g}, must be {bounds} ({len(wrong)} of {len(values)} samples were not)"
    return Signal("business", BAD if len(wrong) == len(values) else GOOD, text, len(values))


def not_the_release(live: Mapping[str, Health], other: Mapping[str, Health]) -> str | None:
    """Why what is seen is not the release's doing; None if nothing speaks for that.

    The other slot is the control experiment: a dependency that it calls healthy is up, whatever the live release says of it.
    """
    if not live:
        return None
    ill = [look for look in live.values() if not look.ok]
    named = frozenset().union(*(look.down for look in ill)) - frozenset().union(*(look.well for look in other.values()))
    if named:
        who = ", ".join(host for host, look in live.items() if look.down & named)
        return f"{', '.join(sorted(named))} down, as {who} says, and the other slot does not say otherwise"
    if len(ill) < len(live):
        return None
    answering = [look for look in other.values() if look.answered]
    if answering and not any(look.ok for look in answering):
        return "the other slot is ill as well"
    if not answering and not any(look.answered for look in live.values()):
        return "neither slot answers: hosts or network are down, or the other slot is cold"
    return None


def not_ready(target: Mapping[str, Health], other: Mapping[str, Health], release: str | None) -> str | None:
    """Why users cannot go to a slot: a host that answers in either slot is ill there or runs something else than `release`; None if ready.

    A host that answers in neither slot is down, and keeps nobody from going back. release None: the page does not say which it is.
    """
    up = [host for host in target if target[host].answered or other[host].answered]
    wrong = [f"{host}: {target[host].reason}" for host in up if not target[host].ok]
    if release:
        wrong += [f"{host} runs {target[host].release}" for host in up if target[host].ok and target[host].release != release]
    return "; ".join(wrong) or (None if up else "no host answers")


def judge(signals: Sequence[Signal], blind_s: Mapping[str, float], excuse: str | None, limits: Mapping) -> Verdict:
    """The verdict over all signals.

    blind_s: for how long each signal gave no evidence (seconds); excuse: `not_the_release`; limits: `guard.blind` of the contract.
    """
    bad = [signal.text for signal in signals if signal.state == BAD]
    alerts = {signal.name: signal.text for signal in signals if signal.state == FOREIGN}
    if bad and excuse:
        return Verdict(DEPENDENCY_DOWN, [excuse, *bad], alerts)
    if bad:
        return Verdict(BAD_RELEASE, bad, alerts)
    unseen = [signal for signal in signals if signal.state == NONE]
    long = [signal for signal in unseen if blind_s.get(signal.name, 0) >= limits["after_s"]]
    if long:
        return Verdict(BLIND, [f"{one.name} for {blind_s[one.name]:.0f} s: {one.text}" for one in long], alerts)
    open_ones = [signal.text for signal in signals if signal.state in (NONE, FEW)]
    return Verdict(WAITING, open_ones, alerts) if open_ones else Verdict(HEALTHY, [signal.text for signal in signals], alerts)
