"""What the sections `guard` and `notify` of a service contract must mean beyond their schema. Rules as in contract_rules.py.

A trigger that can never be judged is a guard that sleeps: windows hold the samples they ask for, and nobody is blind before one is full.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from .contract_rules import Context
from .probes.metrics import parse_labels
from .problems import Problem


def windows(context: Context) -> Iterator[Problem]:
    """What is sampled at each look fits into its window; blindness begins after the longest one."""
    guard = context.contract["guard"]
    for name in ("resources", "business"):
        part = guard.get(name)
        if part and part["window_s"] < part["min_samples"] * guard["interval_s"]:
            yield Problem(
                f"service.guard.{name}.window_s",
                f"is {part['window_s']} s, in which there are fewer than {part['min_samples']} looks, one each {guard['interval_s']} s",
                f"Write at least {part['min_samples'] * guard['interval_s']}, or lower min_samples",
            )
    longest = max(guard[name]["window_s"] for name in ("errors", "p95", "resources", "business") if name in guard)
    if guard["blind"]["after_s"] < longest:
        yield Problem(
            "service.guard.blind.after_s",
            f"is {guard['blind']['after_s']} s, but a window is {longest} s: the guard would be blind before it could see",
            f"Write at least {longest}",
        )


def business(context: Context) -> Iterator[Problem]:
    """The named number has a page, a selector that can be read, and bounds that leave room."""
    part = context.contract["guard"].get("business")
    if not part:
        return
    path = "service.guard.business"
    if "metrics" not in context.contract:
        yield Problem(f"{path}.series", "there is no page of metrics in the contract", "Add `metrics`, or remove `business`")
    _name, brace, rest = part["series"].partition("{")
    if brace and parse_labels(brace + rest) is None:
        yield Problem(f"{path}.series", "has labels that cannot be read", 'Write for example `messages_total{result="sent"}`')
    low, high = part.get("minimum"), part.get("maximum")
    if low is None and high is None:
        yield Problem(f"{path}.minimum", "is missing, and there is no `maximum` either", "Say which values are normal")
    elif low is not None and high is not None and low > high:
        yield Problem(f"{path}.minimum", "is above maximum", "Write a minimum that is not above the maximum")


def channel(context: Context) -> Iterator[Problem]:
    """The channel's address is one."""
    address = (context.secrets or {}).get("vault_notify_url")
    if "notify" in context.contract and isinstance(address, str) and not re.fullmatch(r"https?://[^\s/@]+/\S*", address):
        yield Problem("vault_notify_url", "is no http address with a path", "Write the address of the webhook, without a user in it")


GUARD_RULES: list[tuple[tuple[str, ...], Callable[[Context], Iterator[Problem]]]] = [
    (("guard",), windows),
    (("guard", "metrics"), business),
    (("notify",), channel),
]
