"""Isolation: none of this environment's hosts, domains, databases or ports is one that production uses (runbook 003 L18-29).

The value that matched is not shown, as it may be part of a secret address; its name and the kind of marker are.
"""

from __future__ import annotations

from ..markers import KINDS, hits
from .base import Arg, Context, Outcome, Probe


def run(args: dict, context: Context) -> Outcome:
    wanted = f"none of {len(args['values'])} names belongs to production"
    count = sum(len(args["markers"].get(kind) or []) for kind in KINDS)
    found = [f"{name} holds a production {KINDS[kind]}" for name, value in args["values"].items() for kind in hits(value, args["markers"])]
    if not args["values"] or (not count and not args["allow_no_markers"]):
        lacking = "no production marker is stated; fill production_markers" if args["values"] else "no name to compare"
        return Outcome("no_evidence", wanted, f"{len(args['values'])} names, {count} markers", lacking)
    seen = "; ".join(found) or f"{len(args['values'])} names, {count} markers, no match"
    return Outcome(not found, wanted, seen, "; ".join(found) or None, {"names": sorted(args["values"]), "markers": count})


def _check(args: dict) -> list:
    unknown = set(args["markers"]) - set(KINDS)
    return [("markers", f"unknown kind {', '.join(sorted(unknown))}; one of {', '.join(KINDS)}")] if unknown else []


PROBE = Probe(
    "isolation",
    "no name of this environment is one of production's",
    {
        "values": Arg("dict", "what is compared: a name for a reader to a host, domain, address, database or port", required=True),
        "markers": Arg("dict", "production's names: hosts, domains, databases, ports", required=True),
        "allow_no_markers": Arg("bool", "an empty list of markers is fine: there is no production", default=False),
    },
    run,
    _check,
)
