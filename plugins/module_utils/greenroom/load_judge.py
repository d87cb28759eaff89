"""The verdict of a load test: pass, fail, no_evidence, or invalid where the generator, not the service, was the limit.

`invalid` is neither: every figure is then `no_evidence` and the run itself an `error` (design §6). Thresholds are the contract's
`thresholds`; CPU and memory are those of every host during the whole window (runbook weaknesses C10, C15).
Sources: 000 phase 6 and acceptance, 001 §6.1, §6.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from . import load_profile
from . import records as rec

CPU_LIMIT = 90.0  # percent of a core: above it a sending process delays its own requests
LAG_SHARE, LAG_MS = 0.1, 100.0  # of the P95 limit, and at most: what the generator may add to a latency
SENT_SHARE = 0.75  # of what its users could send with the answers' times: below it they were kept from sending
PRESENCE = 0.8  # of the window's seconds that a process, or a sampler, must have seen
FIGURES = ("load.p95", "load.throughput", "load.error_rate")
NOISE_MS = 10.0  # a P95 that moved less than this is no regression, whatever the share


def generator_problems(figures: Mapping, profile: Mapping, thresholds: Mapping, outcome: Mapping) -> list[str]:
    """Why a result says nothing about the service; empty if it does. outcome: {status, result} of the generator's process."""
    found = []
    if outcome.get("result") not in (None, "success"):
        found.append(f"its unit ended with {outcome['result']}")
    elif outcome.get("status") != 0:
        found.append(f"locust ended with exit status {outcome.get('status')}")
    processes = figures["generator"]
    if len(processes) != profile["processes"]:
        found.append(f"{len(processes)} of {profile['processes']} sending processes left figures")
    if sum(one["users"] for one in processes) < profile["users"]:
        found.append(f"{sum(one['users'] for one in processes)} of {profile['users']} users were there")
    limit_ms = min(LAG_SHARE * thresholds["p95_ms"], LAG_MS)
    for one in processes:
        name = f"process {one['pid']}"
        if not one["ended"]:
            found.append(f"{name} did not live to the end")
        if one["seconds"] < PRESENCE * profile["duration_s"]:
            found.append(f"{name} was seen in {one['seconds']} of {profile['duration_s']} seconds")
        if one["still_s"] > (1 - PRESENCE) * profile["duration_s"]:
            found.append(f"{name} stood still for {one['still_s']:g} of {profile['duration_s']} seconds")
        if one["cpu_percent"] is not None and one["cpu_percent"] > CPU_LIMIT:
            found.append(f"{name} used {one['cpu_percent']:g} % of a core, at most {CPU_LIMIT:g} % is fair")
        if one["lag_p95_ms"] is not None and one["lag_p95_ms"] > limit_ms:
            found.append(f"{name} woke {one['lag_p95_ms']:g} ms late (P95), at most {limit_ms:g} ms is fair")
        if one["user_errors"]:
            found.append(f"{name}: the locust file raised {one['user_errors']} times ({next(iter(figures['failures']), '')})")
    if not figures["samples"]:
        return [*found, "no request was measured"]
    possible = load_profile.possible_rps(profile, figures["mean_ms"])
    if figures["sent_rps"] < SENT_SHARE * possible:
        text = f"{figures['sent_rps']:g} requests/s were sent, with answers after {figures['mean_ms']:g} ms {possible:.0f} could have been"
        found.append(f"{text}; or the locust file pauses for longer than load.think_time_s says")
    return found


def judge(
    figures: Mapping, *, profile: Mapping, thresholds: Mapping, outcome: Mapping, hosts: Mapping, rate_limit: Mapping | None = None,
    baseline: Mapping | None = None, margin_percent: float = 20,
) -> dict:  # fmt: skip
    """{verdict, invalid: [reason…], evidence: [record…]} of a run.

    hosts: {host: load_sampler.summary}, of every host that has a part in serving. baseline: what `load_baseline.find` gave.
    """
    invalid = generator_problems(figures, profile, thresholds, outcome)
    evidence = [_profile(profile, thresholds, rate_limit), _executed(figures, profile, invalid)]
    if invalid:
        reason = f"the result is invalid, the generator was the limit: {'; '.join(invalid)}"
        evidence += [rec.record(id, rec.NO_EVIDENCE, reason=reason) for id in FIGURES]
    else:
        evidence += _measured(figures, thresholds)
    for host, summary in sorted(hosts.items()):
        evidence += _host(host, summary, thresholds, profile)
    if not hosts:
        reason = "no host was sampled during the load"
        evidence += [rec.record(id, rec.NO_EVIDENCE, reason=reason) for id in ("load.cpu", "load.memory")]
    evidence.append(_bottleneck(hosts, thresholds, figures, invalid))
    sound = all(one["status"] == rec.PASS for one in evidence)
    evidence.append(_baseline(figures, baseline, margin_percent, sound))
    statuses = {one["status"] for one in evidence}
    verdict = "invalid" if invalid else next((one for one in (rec.FAIL, rec.ERROR, rec.NO_EVIDENCE) if one in statuses), rec.PASS)
    return {"verdict": verdict, "invalid": invalid, "evidence": evidence}


def _profile(profile: Mapping, thresholds: Mapping, rate_limit: Mapping | None) -> dict:
    found = load_profile.problems(profile, thresholds, rate_limit)
    notes = load_profile.notes(profile, thresholds)
    reason = "; ".join(f"load.{key} {text}" for key, text, _fix in found) or None
    return rec.record(
        "load.profile", rec.FAIL if found else rec.PASS, "a profile that can show what is asked of it", load_profile.text_of(profile),
        reason=reason, detail={"notes": notes} if notes else None,
    )  # fmt: skip


def _executed(figures: Mapping, profile: Mapping, invalid: Sequence[str]) -> dict:
    processes = figures["generator"]
    detail = {
        "samples": figures["samples"], "failed": figures["failed"], "names": figures["names"], "failures": figures["failures"],
        "generator": processes, "window": figures["window"],
    }  # fmt: skip
    observed = f"{figures['samples']} requests in {profile['duration_s']} s by {len(processes)} processes"
    status, reason = (rec.ERROR, f"invalid: {'; '.join(invalid)}") if invalid else (rec.PASS, None)
    return rec.record("load.executed", status, "to its end, by a generator that was not the limit", observed, reason=reason, detail=detail)


def _measured(figures: Mapping, thresholds: Mapping) -> list[dict]:
    """P95, throughput and error rate. A limit that is broken fails whatever the number of requests; one that holds needs enough of them."""
    needed, samples = load_profile.samples_needed(thresholds), figures["samples"]
    few = f"{samples} requests were measured, {needed} are needed" if samples < needed else None
    detail = {"samples": samples, "p50_ms": figures["p50_ms"], "p99_ms": figures["p99_ms"], "max_ms": figures["max_ms"]}

    def made(id: str, limit: float, value: float | None, ok: bool, unit: str, reason: str, **detail) -> dict:
        status = rec.FAIL if not ok else rec.NO_EVIDENCE if few else rec.PASS
        return rec.record(id, status, limit, value, unit=unit, reason=reason if not ok else few, detail={"samples": samples, **detail})

    p95, rps, errors = figures["p95_ms"], figures["rps"], figures["error_percent"]
    worst = ", ".join(f"{text} ({count})" for text, count in list(figures["failures"].items())[:3])
    return [
        made("load.p95", thresholds["p95_ms"], p95, p95 is not None and p95 < thresholds["p95_ms"], "ms",
             "no request was answered well" if p95 is None else f"95 % of the good answers took up to {p95:g} ms", **detail),
        made("load.throughput", thresholds["throughput_rps"], rps, rps is not None and rps > thresholds["throughput_rps"], "requests/s",
             f"{rps:g} good answers a second; the generator had room for more"),
        made("load.error_rate", thresholds["error_rate_percent"], errors, errors < thresholds["error_rate_percent"] or not errors, "%",
             f"{figures['failed']} of {samples} requests failed: {worst}", failed=figures["failed"]),
    ]  # fmt: skip


def _host(host: str, summary: Mapping, thresholds: Mapping, profile: Mapping) -> list[dict]:
    """CPU (mean) and memory (maximum) of one host."""
    few = summary.get("problem")
    if not few and summary["samples"] < PRESENCE * profile["duration_s"]:
        few = f"{summary['samples']} of {profile['duration_s']} seconds were sampled"
    found = []
    for id, limit, value, most in (
        ("load.cpu", thresholds["cpu_percent"], summary.get("cpu_mean"), summary.get("cpu_max")),
        ("load.memory", thresholds["memory_percent"], summary.get("memory_max"), summary.get("memory_max")),
    ):
        detail = {"samples": summary.get("samples", 0), "max": most, "connections_max": summary.get("connections_max")}
        if few or value is None:
            made = rec.record(id, rec.NO_EVIDENCE, limit, value, unit="%", reason=few or "nothing was sampled", detail=detail, host=host)
        else:
            reason = None if value < limit else f"{value:g} % during the load, at most {limit:g} % is allowed"
            made = rec.record(id, rec.FAIL if reason else rec.PASS, limit, value, unit="%", reason=reason, detail=detail, host=host)
        found.append(made)
    return found


def _bottleneck(hosts: Mapping, thresholds: Mapping, figures: Mapping, invalid: Sequence[str]) -> dict:
    """Which limit is nearest: what would have to be improved first."""
    if invalid:
        return rec.record("load.bottleneck", rec.NO_EVIDENCE, reason="the generator was the limit: give it more processor")
    used = [(value / limit, f"{what} at {value:g} of {limit:g} {unit}") for what, value, limit, unit in (
        *((f"CPU of {host}", one.get("cpu_mean"), thresholds["cpu_percent"], "%") for host, one in sorted(hosts.items())),
        *((f"memory of {host}", one.get("memory_max"), thresholds["memory_percent"], "%") for host, one in sorted(hosts.items())),
        ("P95", figures["p95_ms"], thresholds["p95_ms"], "ms"),
    ) if value is not None]  # fmt: skip
    if not used:
        return rec.record("load.bottleneck", rec.NO_EVIDENCE, reason="nothing was measured that could be one")
    nearest = "; ".join(text for _share, text in sorted(used, reverse=True)[:3])
    return rec.record("load.bottleneck", rec.PASS, "named, with figures", f"nearest to its limit: {nearest}")


def _baseline(figures: Mapping, baseline: Mapping | None, margin: float, sound: bool) -> dict:
    """The result against the last good release's; a result that is not good becomes no baseline."""
    expected = "no worse than the last good release, and kept for the next"
    if not sound:
        return rec.record("load.baseline", rec.NO_EVIDENCE, expected, reason="the run did not pass, so it is kept as no baseline")
    observed = f"P95 {figures['p95_ms']:g} ms, {figures['rps']:g} requests/s"
    samples = {"samples": figures["samples"]}
    if not baseline:
        return rec.record("load.baseline", rec.PASS, expected, f"{observed}: the first of this profile", detail=samples)
    worse = regressions(figures, baseline, margin)
    detail = {**samples, "baseline": dict(baseline), "margin_percent": margin}
    reason = f"worse than release {baseline['release']} by more than {margin:g} %: {'; '.join(worse)}" if worse else None
    return rec.record("load.baseline", rec.FAIL if worse else rec.PASS, expected, observed, reason=reason, detail=detail)


def regressions(figures: Mapping, baseline: Mapping, margin_percent: float) -> list[str]:
    """What is worse than the baseline by more than the margin."""
    found, share = [], margin_percent / 100
    was, now = baseline["p95_ms"], figures["p95_ms"]
    if now > was * (1 + share) and now - was > NOISE_MS:
        found.append(f"P95 {was:g} -> {now:g} ms")
    was, now = baseline["rps"], figures["rps"]
    if now < was * (1 - share):
        found.append(f"throughput {was:g} -> {now:g} requests/s")
    return found
