"""HTTP: status, JSON fields by equality, headers, body pattern, latency as the P95 of real samples.

Health is read from parsed fields, never by looking for a word in the text: "unhealthy" contains "healthy"
(001 §5.3, 003 L394-415).
"""

from __future__ import annotations

import http.client
import json
import re

from .base import Arg, Context, Findings, Outcome, Probe, network_problem
from .client import ARGS, address, check, request
from .compare import ABSENT, compare, compare_paths, expectation, percentile


def run(args: dict, context: Context) -> Outcome:
    latency = args["latency_ms"]
    samples = args["samples"] or (20 if latency is not None else 1)
    body, extra = None, {}
    if args["json_body"] is not None:
        body, extra = json.dumps(args["json_body"]).encode(), {"Content-Type": "application/json"}
    elif args["body_key"] or args["body"] is not None:
        body = (context.secret(args["body_key"]) if args["body_key"] else args["body"]).encode()
    times: list = []
    for index in range(samples):
        where = f"{args['method'].upper()} {address(args)}" + (f" (request {index + 1} of {samples})" if samples > 1 else "")
        try:
            answer = request(args, context, body, extra)
        except (OSError, http.client.HTTPException) as error:
            seen = network_problem(error, context.timeout_s)
            return Outcome(False, f"HTTP {_codes(args)}", seen, f"{where}: {seen}", {"samples": len(times)})
        times.append(round(answer.seconds * 1000, 2))
        found = _judge(args, answer)
        found.detail.update(status=answer.status, samples=len(times), **({"tls": answer.tls} if answer.tls else {}))
        if found.problems:
            return found.outcome(where)
    p95 = percentile(times, 95)
    found.detail.update(p95_ms=p95, min_ms=min(times), max_ms=max(times))
    if latency is None:
        found.add(None, f"{p95:g} ms")
    else:
        found.add(
            f"P95 of {samples} requests ≤ {latency:g} ms", f"P95 {p95:g} ms", p95 <= latency, f"P95 {p95:g} ms is over {latency:g} ms"
        )
    return found.outcome(f"{args['method'].upper()} {address(args)}")


def _codes(args: dict) -> str:
    if args["status_below"]:
        return f"below {args['status_below']}"
    return " or ".join(map(str, args["status"]))


def _header_rules(args: dict) -> dict:
    return {name: {"present": rule} if isinstance(rule, bool) else rule for name, rule in args["response_headers"].items()}


def _judge(args: dict, answer) -> Findings:
    found = Findings()
    ok = answer.status < args["status_below"] if args["status_below"] else answer.status in args["status"]
    found.add(f"HTTP {_codes(args)}", f"HTTP {answer.status}", ok, f"answered HTTP {answer.status}, not {_codes(args)}")
    if args["json"]:
        try:
            compare_paths(args["json"], json.loads(answer.body), found)
        except ValueError:
            kind = answer.headers.get("content-type", "no content type")
            found.add("a JSON body", f"{len(answer.body)} bytes that are not JSON", False, f"the body ({kind}) is not JSON")
    for name, rule in _header_rules(args).items():
        ok, seen = compare(rule, answer.headers.get(name.lower(), ABSENT))
        text = f"header {name} {expectation(rule)}"
        found.add(text, f"header {name}: {seen}", ok, f"header {name} is {seen}, not {expectation(rule)}")
    if args["body_matches"]:
        ok = re.search(args["body_matches"], answer.body.decode("utf-8", "replace")) is not None
        found.add(f"body matches {args['body_matches']}", "body matches" if ok else f"body of {len(answer.body)} bytes does not match", ok)
    return found


def _check(args: dict) -> list:
    problems = check(args)
    if sum(args[key] is not None for key in ("body", "body_key", "json_body")) > 1:
        problems.append(("body", "give one of body, body_key, json_body"))
    if args["samples"] is not None and args["samples"] < 1:
        problems.append(("samples", "must be at least 1"))
    if args["body_matches"]:
        try:
            re.compile(args["body_matches"])
        except re.error as error:
            problems.append(("body_matches", f"is no regular expression: {error}"))
    return problems


PROBE = Probe(
    "http",
    "an HTTP request answers with the wanted status, JSON fields, headers, body and latency",
    {
        **ARGS,
        "body": Arg("str", "request body"),
        "body_key": Arg("secret", "key of a secret that is the request body"),
        "json_body": Arg("any", "request body, sent as JSON"),
        "status": Arg("list", "accepted status codes, one or several", default=[200], elements="int"),
        "status_below": Arg("int", "accept every status below this one instead"),
        "json": Arg(
            "dict", "dotted path to expected value, or to operators (eq, ne, gt, ge, lt, le, in, matches, min_length, present)", default={}
        ),
        "response_headers": Arg("dict", "header name to expected value, operators, or true for any value", default={}),
        "body_matches": Arg("str", "regular expression found in the body"),
        "latency_ms": Arg("float", "limit of the P95, connection included, in milliseconds"),
        "samples": Arg("int", "requests to send one after the other; default 1, with latency_ms 20"),
    },
    run,
    _check,
)
