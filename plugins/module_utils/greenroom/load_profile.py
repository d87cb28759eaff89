"""A load profile: what it means, and whether it can show at all what is asked of it, before anything runs.

A closed load of U users with think time Z sends at most U / (Z + latency) requests a second (Little's law), so a target rate leaves each
request U / rate - Z on average (runbook weaknesses C3, C4; profile and thresholds: 000 phase 6, 001 §6.1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from .durable import digest

LEAST_SAMPLES = 1000  # below it a 95th percentile rests on fewer than 50 requests
PERSISTENT = ("users", "spawn_rate", "warm_up_s", "duration_s", "think_time_s", "pace_rps", "processes", "request_timeout_s")


def samples_needed(thresholds: Mapping) -> int:
    """Requests that a run must have measured: enough for the percentile, and for one failure to be no more than the error limit."""
    limit = thresholds["error_rate_percent"]
    return max(LEAST_SAMPLES, math.ceil(100 / limit)) if limit > 0 else LEAST_SAMPLES


def mean_latency_left_ms(profile: Mapping, thresholds: Mapping) -> float:
    """The mean latency (milliseconds) at which the profile just reaches the throughput; 0 or less: it never does."""
    return 1000 * (profile["users"] / thresholds["throughput_rps"] - profile["think_time_s"])


def possible_rps(profile: Mapping, mean_ms: float) -> float:
    """What the users can send if a request takes `mean_ms` on average, in requests a second; no more than the pace."""
    free = profile["users"] / max(profile["think_time_s"] * (profile["pace_rps"] is None) + mean_ms / 1000, 1e-6)
    return free if profile["pace_rps"] is None else min(free, profile["pace_rps"])


def problems(profile: Mapping, thresholds: Mapping, rate_limit: Mapping | None = None) -> list[tuple[str, str, str]]:
    """What makes a profile unable to prove its thresholds, as (key, what is wrong, what to do). `rate_limit` is the gateway's."""
    found = []
    wanted, pace = thresholds["throughput_rps"], profile["pace_rps"]
    if pace is None and mean_latency_left_ms(profile, thresholds) <= 0:
        most = profile["users"] / profile["think_time_s"]
        text = f"{profile['users']} users that pause {profile['think_time_s']:g} s send at most {most:g} requests/s, {wanted:g} are wanted"
        found.append(("users", text, "Write more users, a shorter think_time_s, or a lower thresholds.throughput_rps"))
    if pace is not None and pace <= wanted:
        text = f"is {pace:g} requests a second, but more than {wanted:g} are wanted (thresholds.throughput_rps)"
        found.append(("pace_rps", text, "Write a pace about a tenth above the wanted throughput"))
    if rate_limit and pace is None:
        text = f"is missing: the gateway lets one client send {rate_limit['requests_per_s']} requests/s, and the generator is one client"
        found.append(("pace_rps", text, "Write a pace below that limit and above thresholds.throughput_rps"))
    if rate_limit and pace is not None and pace > rate_limit["requests_per_s"]:
        text = f"is {pace:g} requests a second, above the gateway's limit of {rate_limit['requests_per_s']} for one client"
        found.append(("pace_rps", text, "Write a pace below gateway.rate_limit.requests_per_s, or raise that limit"))
    spawning = profile["users"] / profile["spawn_rate"]
    if spawning > profile["warm_up_s"]:
        text = f"is {profile['warm_up_s']} s, but it takes {spawning:g} s until all users are there: the measurement would hold the ramp"
        found.append(("warm_up_s", text, f"Write at least {math.ceil(spawning)}, or a higher spawn_rate"))
    expected, needed = wanted * profile["duration_s"], samples_needed(thresholds)
    if expected < needed:
        text = f"is {profile['duration_s']} s: {expected:g} requests at the wanted rate, {needed} are needed for the figures"
        found.append(("duration_s", text, f"Write at least {math.ceil(needed / wanted)}"))
    if profile["users"] < profile["processes"]:
        text = f"is {profile['processes']} for {profile['users']} users: some would have nobody to send for"
        found.append(("processes", text, "Write fewer processes"))
    return found


def notes(profile: Mapping, thresholds: Mapping) -> list[str]:
    """What a reader of the result must know about the profile: a limit that another one makes unreachable."""
    left = mean_latency_left_ms(profile, thresholds)
    if left <= thresholds["p95_ms"] / 2:
        return [
            f"{thresholds['throughput_rps']:g} requests/s from {profile['users']} users need a mean latency below {left:.0f} ms, so the "
            f"limit of {thresholds['p95_ms']:g} ms binds only for the slowest requests"
        ]
    return []


def text_of(profile: Mapping) -> str:
    """The profile in a line."""
    pace = f", {profile['pace_rps']:g} requests/s" if profile["pace_rps"] else ""
    return (
        f"{profile['users']} users, {profile['spawn_rate']:g} a second{pace}, {profile['duration_s']} s after {profile['warm_up_s']} s of "
        f"warm-up, think time {profile['think_time_s']:g} s, {profile['processes']} processes"
    )


def identity(profile: Mapping, file_sha256: str) -> str:
    """What two results must share to be comparable, as a digest: the profile and the locust file."""
    return digest({**{key: profile[key] for key in PERSISTENT}, "file": file_sha256})


def run_time_s(profile: Mapping) -> int:
    """Seconds for which the generator sends."""
    return profile["warm_up_s"] + profile["duration_s"]


def limit_s(profile: Mapping) -> int:
    """Seconds after which the generator's unit is ended: the run, its last requests, and a minute to start and to write its page."""
    return run_time_s(profile) + math.ceil(profile["request_timeout_s"]) + 60
