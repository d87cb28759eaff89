"""What the sections `load` and `observation` of a service contract must mean beyond their schema. Rules as in contract_rules.py.

Sources: 000 phase 6, 001 §6.1 (profile and thresholds); runbook weaknesses C3 and C4 (a profile that cannot reach its target); 001 §6.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from . import load_profile
from .contract_rules import Context
from .gate import is_placeholder
from .problems import Problem, nearest


def profile(context: Context) -> Iterator[Problem]:
    """The profile can show what its thresholds ask for, before ten minutes are spent on it."""
    load = context.contract.get("load")
    if not load:
        return
    if "source" not in context.contract:
        text = "there is no repository to take the locust file from (the release is a prebuilt archive)"
        yield Problem("service.load", text, "Remove `load`, or write `source`")
    limit = context.contract["gateway"]["rate_limit"]
    for key, text, fix in load_profile.problems(load, context.contract["thresholds"], limit):
        yield Problem(f"service.load.{key}", text, fix)


def generator(context: Context) -> Iterator[Problem]:
    """There is a host that sends, and it is none of those whose figures count."""
    load = context.contract.get("load")
    if not load or context.groups is None:
        return
    group = load["group"]
    hosts = context.groups.get(group) or ()
    if not hosts:
        text = f"group {group} has no hosts{nearest(group, context.groups)}"
        yield Problem("service.load.group", text, "Write a group that has a host apart from the service's own")
    for serving in ("gateway", "app", "database", "broker") if hosts else ():
        if hosts[0] in (context.groups.get(serving) or ()):
            text = f"{hosts[0]} also belongs to {serving}: it would measure its own load"
            yield Problem("service.load.group", text, "Write a group whose first host serves nothing")


def secrets(context: Context) -> Iterator[Problem]:
    """The secrets that the locust file needs are there, and no variable is given twice."""
    load = context.contract.get("load")
    if not load:
        return
    known = {item["key"] for item in context.contract["env"] if item["secret"]} | set(context.secret_env)
    for name, key in load["secret_env"].items():
        path = f"service.load.secret_env.{name}"
        if name in load["env"]:
            yield Problem(path, f"{name} is also in `env`", "Remove one of the two")
        if context.secrets is not None and key not in known:
            yield Problem(path, f"{key} is no secret{nearest(key, known)}", f"Add `{key}` to vault_service_env")


def statements(context: Context) -> Iterator[Problem]:
    """What a person states about the end of the observation is no placeholder."""
    observation = context.contract.get("observation") or {}
    for key in ("team", "production"):
        if observation.get(key) is not None and is_placeholder(observation[key]):
            yield Problem(f"service.observation.{key}", "is a placeholder", "Say who or what, or leave it out until it is so")


LOAD_RULES: list[tuple[tuple[str, ...], Callable[[Context], Iterator[Problem]]]] = [
    (("load", "thresholds", "gateway", "source", "artefact"), profile),
    (("load",), generator),
    (("load", "env"), secrets),
    (("observation",), statements),
]
