"""A small client of Prometheus' and Alertmanager's HTTP API: verified TLS or loopback, a deadline for each exchange, errors in words."""

from __future__ import annotations

import datetime
import http.client
import json
import re
from collections.abc import Mapping
from urllib.parse import urlencode

from ..probes.base import Context, ProbeError, network_problem
from ..probes.client import ARGS, request


class ApiError(Exception):
    """The API cannot be asked, or answered something else; the text says which address and why."""


def call(base_url: str, path: str, parameters: Mapping | None = None, *, body: object = None, ca_file: str | None = None,
         timeout_s: float = 10.0) -> object:  # fmt: skip
    """The JSON that `base_url` + `path` answers with (None for an empty answer); with `body`, that is posted as JSON. Raises ApiError."""
    url = base_url.rstrip("/") + path + (f"?{urlencode(parameters)}" if parameters else "")
    args = {key: spec.default for key, spec in ARGS.items()} | {"url": url, "ca_file": ca_file}
    if body is not None:
        args |= {"method": "POST", "headers": {"Content-Type": "application/json"}}
    try:
        answer = request(args, Context(timeout_s), None if body is None else json.dumps(body).encode())
    except (OSError, http.client.HTTPException, ProbeError, ValueError) as error:
        why = str(error) if isinstance(error, ProbeError) else network_problem(error, timeout_s)
        raise ApiError(f"{base_url}{path}: {why}") from None
    if not answer.body.strip() and answer.status == 200:
        return None
    try:
        said = json.loads(answer.body)
    except ValueError:
        raise ApiError(f"{base_url}{path}: answered HTTP {answer.status} without JSON") from None
    if answer.status != 200:
        why = said.get("error") or said.get("message") if isinstance(said, Mapping) else said
        raise ApiError(f"{base_url}{path}: HTTP {answer.status}: {why}")
    return said


class Prometheus:
    """Prometheus' API below `url`. Every method raises ApiError."""

    def __init__(self, url: str, ca_file: str | None = None, timeout_s: float = 10.0):
        self.url, self._how = url, {"ca_file": ca_file, "timeout_s": timeout_s}

    def _data(self, path: str, **parameters: object):
        said = call(self.url, f"/api/v1/{path}", parameters, **self._how)
        if not isinstance(said, Mapping) or said.get("status") != "success":
            raise ApiError(f"{self.url}/api/v1/{path}: is no answer of Prometheus")
        return said["data"]

    def query(self, expression: str, at: float) -> list[tuple[dict, float]]:
        """[(labels, value)] at one moment; a scalar has no labels."""
        data = self._data("query", query=expression, time=f"{at:.3f}")
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        if data["resultType"] != "vector":
            raise ApiError(f"{expression}: gives a {data['resultType']}, not a value for each series")
        return [(one["metric"], float(one["value"][1])) for one in data["result"]]

    def query_range(self, expression: str, start: float, end: float, step: float) -> list[tuple[dict, list[tuple[float, float]]]]:
        """[(labels, [(time, value)])] of a span."""
        data = self._data("query_range", query=expression, start=f"{start:.3f}", end=f"{end:.3f}", step=f"{step:g}")
        return [(one["metric"], [(float(when), float(value)) for when, value in one["values"]]) for one in data["result"]]

    def targets(self) -> list[dict]:
        """The active targets, `lastScrape` as seconds since 1970 (0: never)."""
        return [{**one, "lastScrape": _epoch(one["lastScrape"])} for one in self._data("targets", state="active")["activeTargets"]]

    def rules(self) -> list[dict]:
        """Every rule that is loaded, with `name`, `type`, `health` and `lastError`."""
        return [rule for group in self._data("rules")["groups"] for rule in group["rules"]]

    def names(self) -> list[str]:
        """The names of all metrics there are."""
        return self._data("label/__name__/values")


def _epoch(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 time with up to nine decimals; the year 1 is Prometheus' `never`."""
    if text.startswith("0001-"):
        return 0.0
    parts = re.fullmatch(r"(.+?)(\.\d+)?(Z|[+-]\d\d:\d\d)", text)
    if not parts:
        raise ApiError(f"{text!r} is no time")
    head, fraction, zone = parts.groups()
    return datetime.datetime.fromisoformat(head + zone.replace("Z", "+00:00")).timestamp() + float(fraction or 0)
