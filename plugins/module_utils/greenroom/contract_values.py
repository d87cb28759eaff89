"""Rules on values and probes of a contract, judged by the libraries that judge them again at their place.

Values of the environment: env_rules (also behind `env_file_check`). Functional checks: the probes' own argument lists
(also behind `health_check`). Here they are refused before the first change, together with everything else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from . import env_rules
from .contract_rules import SHORTEST_SECRET, Context, needed_secrets
from .contract_secrets import VAULT
from .env_file import Entry, text_of
from .health_check import SpecError, plan
from .probes import PROBES
from .problems import Problem

BASE_URL = "https://slot.invalid"  # stands for the slot's address, and later the gateway's
LEFT_OUT = ("missing_key", "unknown_key")  # named by contract_secrets


def environment(context: Context) -> Iterator[Problem]:
    """Every value of the environment can be written, has its type, and is no sample; every secret is strong (001 §2.3)."""
    declared, entries, paths = context.contract["env"], [], {}
    for index, item in enumerate(declared):
        key = item["key"]
        if not item["secret"] and "value" in item:
            paths[key], value = f"service.env[{index}].value", item["value"]
        elif item["secret"] and isinstance(context.secret_env.get(key), str) and len(context.secret_env[key]) >= SHORTEST_SECRET:
            paths[key], value = f"{VAULT}.{key}", context.secret_env[key]
        else:
            continue
        try:
            entries.append(Entry(key, text_of(key, value), 0))
        except ValueError as error:
            yield Problem(paths[key], str(error).removeprefix(f"{key}: "), "Write a value that an environment variable can hold")
    # A pattern that does not compile is named by contract_rules.
    sound = [{**item, "pattern": None} if not _compiles(item.get("pattern")) else item for item in declared]
    for found in env_rules.check(entries, "", sound):
        if found.code not in LEFT_OUT:
            yield Problem(paths[found.key], found.message, found.fix[:1].upper() + found.fix[1:])


def _compiles(pattern: str | None) -> bool:
    try:
        re.compile(pattern or "")
    except re.error:
        return False
    return True


def passwords(context: Context) -> Iterator[Problem]:
    """Secrets that are no part of the environment (owner's password, what commands read from standard input) are no samples and strong."""
    if context.secrets is None:
        return
    declared = {item["key"] for item in context.contract["env"]}
    values = {f"{VAULT}.{key}": value for key, value in context.secret_env.items() if key not in declared}
    values |= {name: context.secrets.get(name) for name in needed_secrets(context.contract)}
    for path, value in values.items():
        if not isinstance(value, str) or len(value) < SHORTEST_SECRET:
            continue  # named by contract_secrets
        key = path.rsplit(".", 1)[-1]
        if env_rules.is_placeholder(value, True):
            yield Problem(path, "the value is a placeholder or a sample", "Set the real value")
            continue
        weakness = env_rules.secret_weakness(key, value)
        if weakness:
            yield Problem(path, weakness[1], "Make a new one, for instance with `openssl rand -hex 32`")


def probes(context: Context) -> Iterator[Problem]:
    """Every functional check is a probe with arguments it knows; the secrets it names exist."""
    secrets = dict.fromkeys([*(item["key"] for item in context.contract["env"] if item["secret"]), *context.secret_env], "")
    for index, item in enumerate(context.contract["checks"]):
        given = {
            key: value.replace("{base_url}", "https://slot.invalid") if isinstance(value, str) else value for key, value in item.items()
        }
        probe = PROBES.get(item["type"])
        if probe and "base_url" in probe.args and "url" not in given:
            given.setdefault("base_url", "https://slot.invalid")  # what the role puts there: the slot's address, then the gateway's
        try:
            plan([given], secrets)
        except SpecError as error:
            for text in error.problems:
                yield Problem(f"service.checks[{index}]", text.split(": ", 1)[-1], f"See `ansible-doc health_check`, type {item['type']}")


VALUE_RULES: list[tuple[tuple[str, ...], Callable[[Context], Iterator[Problem]]]] = [
    (("env",), environment),
    (("env", "dependencies"), passwords),
    (("env", "checks"), probes),
]
