"""Comparisons of what was measured with what was wanted, shared by the probes: values, versions, percentiles.

Equality is strict, and operators in a dict (`{"ge": 3}`) say the rest; what is compared is also put into words for the record.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .base import Findings, shown


class _Absent:
    def __repr__(self):
        return "absent"


ABSENT = _Absent()
_WORDS = {"eq": "=", "ne": "≠", "gt": ">", "ge": "≥", "lt": "<", "le": "≤", "in": "one of", "matches": "matches",
          "min_length": "length ≥", "present": "present"}  # fmt: skip


def _rules(expected: Any) -> dict:
    if isinstance(expected, Mapping) and expected and set(expected) <= set(_WORDS):
        return dict(expected)
    return {"eq": expected}


def expectation(expected: Any) -> str:
    """What `compare` will ask for, in words: `= ok`, `≥ 3`, `length ≥ 1`."""
    return " and ".join(_WORDS[op] if op == "present" else f"{_WORDS[op]} {shown(value)}" for op, value in _rules(expected).items())


def equal(expected: Any, actual: Any) -> bool:
    """Equality without Python's generosity: true is not 1, and 1 is 1.0."""
    if isinstance(expected, bool) or isinstance(actual, bool):
        return isinstance(expected, bool) and isinstance(actual, bool) and expected == actual
    if isinstance(expected, Mapping) and isinstance(actual, Mapping):
        return expected.keys() == actual.keys() and all(equal(expected[key], actual[key]) for key in expected)
    if isinstance(expected, (list, tuple)) and isinstance(actual, (list, tuple)):
        return len(expected) == len(actual) and all(map(equal, expected, actual))
    return expected == actual


def compare(expected: Any, actual: Any) -> tuple[bool, str]:
    """Does `actual` meet `expected`? Returns (ok, what was seen, for a reader).

    `expected` is a value (equality) or a dict of operators: eq, ne, gt, ge, lt, le, in, matches (regular expression,
    anywhere), min_length, present (true or false). ABSENT meets nothing but `present: false`.
    `matches`, `min_length` and `present` show no value: they are the way to check one that is secret.
    """
    rules = _rules(expected)
    if actual is ABSENT:
        return rules == {"present": False}, "absent"
    results = [_meets(op, wanted, actual) for op, wanted in rules.items()]
    hidden = set(rules) <= {"matches", "min_length", "present"}
    size = f", length {len(actual)}" if hidden and isinstance(actual, (str, list, dict)) else ""
    return all(results), (f"present ({type(actual).__name__}{size})" if hidden else shown(actual))


def _meets(op: str, wanted: Any, actual: Any) -> bool:
    if op == "eq":
        return equal(wanted, actual)
    if op == "ne":
        return not equal(wanted, actual)
    if op == "in":
        return any(equal(item, actual) for item in wanted)
    if op == "present":
        return wanted is True
    if op == "min_length":
        return isinstance(actual, (str, list, tuple, dict)) and len(actual) >= int(wanted)
    if op == "matches":
        return isinstance(actual, str) and re.search(str(wanted), actual) is not None
    if isinstance(actual, bool) or not isinstance(actual, (int, float)):
        return False
    limit = float(wanted)
    return {"gt": actual > limit, "ge": actual >= limit, "lt": actual < limit, "le": actual <= limit}[op]


def at_path(data: Any, path: str) -> Any:
    """The value at a dotted path such as `dependencies.database.status` or `items.0.id`; ABSENT if there is none."""
    if isinstance(data, Mapping) and path in data:
        return data[path]
    for step in path.split("."):
        if isinstance(data, Mapping) and step in data:
            data = data[step]
        elif isinstance(data, list) and re.fullmatch(r"\d+", step) and int(step) < len(data):
            data = data[int(step)]
        else:
            return ABSENT
    return data


def compare_paths(wanted: Mapping[str, Any], data: Any, found: Findings) -> None:
    """Compare each dotted path of `wanted` with `data`, into `found`."""
    for path, rule in wanted.items():
        ok, seen = compare(rule, at_path(data, path))
        text = f"{path} absent" if seen == "absent" else f"{path} = {seen}"
        found.add(f"{path} {expectation(rule)}", text, ok, f"{path} is {seen}, not {expectation(rule)}")


def percentile(samples: list, percent: float) -> float:
    """Nearest-rank percentile of real samples (no interpolation: the answer is a value that was measured)."""
    ordered = sorted(samples)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]


def number(version: str) -> tuple:
    """The leading numbers of a version text, for comparisons: `3.10.8-1` -> (3, 10, 8)."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found.group(0).split(".")) if found else ()


def version_at_least(version: str, minimum: str) -> bool:
    """True if `version` is `minimum` or newer, number by number (3.10 is newer than 3.9)."""
    have, want = number(version), number(minimum)
    width = max(len(have), len(want))
    return bool(have) and have + (0,) * (width - len(have)) >= want + (0,) * (width - len(want))
