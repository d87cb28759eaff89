"""Metrics: the endpoint speaks Prometheus' text format, the required names are there, values are as wanted.

The format is parsed whole, line by line; a word found in a page proves nothing (001 §8.2: 9090 may well be Prometheus itself).
An absent series or NaN is no evidence.
"""

from __future__ import annotations

import http.client
import math
import re

from .base import Arg, Context, Outcome, Probe, network_problem
from .client import ARGS, address, check, request
from .compare import compare, expectation

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\\n]|\\.)*)"\s*(?:,|(?=\}))')
_SAMPLE = re.compile(rf"({_NAME})(\{{.*\}})?\s+(\S+)(?:\s+(-?\d+))?\s*$")
_VALUE = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?Inf|NaN", re.IGNORECASE)
_ESCAPES = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


def parse(text: str) -> list:
    """Samples as (name, labels, value) of Prometheus' text exposition format. Raises ValueError with the line's number."""
    samples = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        found = _SAMPLE.match(line)
        if not found or not _VALUE.fullmatch(found.group(3)):
            raise ValueError(f"line {number} is no sample")
        labels = parse_labels(found.group(2) or "{}")
        if labels is None:
            raise ValueError(f"line {number} has labels that cannot be read")
        samples.append((found.group(1), labels, float(found.group(3))))
    return samples


def parse_labels(text: str) -> dict | None:
    """`{a="x",b="y"}` as a dict; None if it is not of that form."""
    labels, position = {}, 1
    while text[position:].strip() != "}":
        found = _LABEL.match(text, position)
        if not found:
            return None
        labels[found.group(1)] = re.sub(r'\\[\\"n]', lambda match: _ESCAPES[match.group(0)], found.group(2))
        position = found.end()
    return labels


def select(samples: list, selector: str) -> list:
    """The values of the samples that `name` or `name{label="value"}` names; further labels do not matter."""
    name, brace, rest = selector.partition("{")
    labels = parse_labels(brace + rest) if brace else {}
    return [value for found, have, value in samples if found == name and labels.items() <= have.items()]


def run(args: dict, context: Context) -> Outcome:
    expected = (
        ["text format"]
        + [f"{name} present" for name in args["required"]]
        + [f"{name} {expectation(rule)}" for name, rule in args["values"].items()]
    )
    wanted, where = "; ".join(expected), address(args)
    try:
        answer = request(args, context)
    except (OSError, http.client.HTTPException) as error:
        seen = network_problem(error, context.timeout_s)
        return Outcome(False, wanted, seen, f"{where}: {seen}")
    if answer.status != 200:
        return Outcome(False, wanted, f"HTTP {answer.status}", f"{where}: answered HTTP {answer.status}, not 200")
    try:
        samples = parse(answer.body.decode("utf-8"))
    except ValueError as error:
        return Outcome(False, wanted, f"not the text format: {error}", f"{where}: not Prometheus' text format: {error}")
    names = {name for name, _, _ in samples}
    observed, problems, blind = [f"{len(samples)} samples"], [], []
    for name in args["required"]:
        # A histogram or summary is there when its parts are.
        found = name in names or {f"{name}_bucket", f"{name}_sum", f"{name}_count"} & names
        observed.append(f"{name} {'present' if found else 'absent'}")
        if not found:
            blind.append(f"{name} is absent")
    for selector, rule in args["values"].items():
        values = select(samples, selector)
        observed.append(f"{selector} = {', '.join(f'{value:g}' for value in values[:5]) or 'absent'}")
        if not values:
            blind.append(f"{selector} is absent")
        elif any(math.isnan(value) for value in values):
            blind.append(f"{selector} is not a number")
        else:
            problems += [f"{selector} is {value:g}, not {expectation(rule)}" for value in values if not compare(rule, value)[0]][:5]
    detail = {"samples": len(samples), "names": len(names)}
    status = False if problems else ("no_evidence" if blind or not samples else True)
    reason = "; ".join(problems + blind) or (None if samples else "no sample at all")
    return Outcome(status, wanted, "; ".join(observed), reason and f"{where}: {reason}", detail)


def _check(args: dict) -> list:
    problems = check(args)
    for selector in args["values"]:
        name, brace, rest = selector.partition("{")
        if not re.fullmatch(_NAME, name) or (brace and parse_labels(brace + rest) is None):
            problems.append(("values", f'{selector!r} is no name or name{{label="value"}}'))
    if not args["required"] and not args["values"]:
        problems.append(("required", "give required or values"))
    return problems


PROBE = Probe(
    "metrics",
    "a Prometheus endpoint offers the required series with the wanted values",
    {
        **ARGS,
        "required": Arg("list", "names that must be there", default=[], elements="str"),
        "values": Arg("dict", 'name or name{label="value"} to expected value or operators; all matching series must meet it', default={}),
    },
    run,
    _check,
)
