"""Proof that alerts arrive: a synthetic alert of each severity goes through Alertmanager to the channel, and is read back from it.

An alert that Alertmanager accepted has not arrived, and /api/v1/alerts, which 004 looks at, lists only what fires: an empty list proves
nothing. The receipt is a page that the channel's messages can be read from (`receipts_url`); without one nothing is proved.
"""

from __future__ import annotations

import datetime
import http.client
import secrets
import time
from collections.abc import Sequence

from ..probes.base import Context, ProbeError, network_problem
from ..probes.client import ARGS, request
from ..records import ERROR, FAIL, NO_EVIDENCE, PASS, record, utc_now
from .prometheus import ApiError, call

NAME = "GreenroomProof"
POLL_S = 0.25


def _alerts(severities: Sequence[str], nonce: str, ended: bool) -> list[dict]:
    now = datetime.datetime.now(datetime.UTC)
    ends = now if ended else now + datetime.timedelta(minutes=5)
    return [
        {
            "labels": {"alertname": NAME, "severity": severity, "proof": f"{nonce}-{severity}"},
            "annotations": {"summary": f"A proof that alerts of severity {severity} arrive; nothing is wrong."},
            "startsAt": (now - datetime.timedelta(seconds=1)).isoformat(), "endsAt": ends.isoformat(),
        }
        for severity in severities
    ]  # fmt: skip


def _received(url: str, ca_file: str | None, nonce: str, timeout_s: float) -> str:
    """The text of the page of receipts; what it is made of does not matter, only whether it holds the proof's mark."""
    args = {key: spec.default for key, spec in ARGS.items()}
    args |= {"url": url.replace("{proof}", nonce), "ca_file": ca_file}
    try:
        answer = request(args, Context(timeout_s))
    except (OSError, http.client.HTTPException, ProbeError, ValueError) as error:
        raise ApiError(f"{url}: {error if isinstance(error, ProbeError) else network_problem(error, timeout_s)}") from None
    if answer.status != 200:
        raise ApiError(f"{url}: answered HTTP {answer.status}")
    return answer.body.decode("utf-8", "replace")


def prove(alertmanager_url: str, relay_url: str, receipts_url: str | None, severities: Sequence[str], within_s: float,
          ca_file: str | None = None, timeout_s: float = 5.0) -> list[dict]:  # fmt: skip
    """Evidence: `alert.channel` once, `alert.delivery` for each severity with the seconds from raised to received.

    receipts_url: a page whose text holds the messages that the channel got; `{proof}` in it is the mark to look for. The alerts end when
    the proof does.
    """
    nonce, started, clock = f"greenroom-{secrets.token_hex(6)}", utc_now(), time.monotonic()
    wanted, arrived, trouble = list(dict.fromkeys(severities)), {}, None

    def made(what: str, status: str, expected: object, observed: object, reason: str | None = None, **more: object) -> dict:
        return record(what, status, expected, observed, reason=reason, started=started,
                      duration_ms=round((time.monotonic() - clock) * 1000, 1), **more)  # fmt: skip

    taken = f"{len(wanted)} messages taken, none waits"
    limit = f"≤ {within_s:g}"
    try:
        before = call(relay_url, "/status", timeout_s=timeout_s)
        call(alertmanager_url, "/api/v2/alerts", body=_alerts(wanted, nonce, ended=False), timeout_s=timeout_s)
    except ApiError as error:
        return [made("alert.channel", ERROR, taken, None, str(error))] + [
            made("alert.delivery", ERROR, limit, None, str(error), unit="s", detail={"target": one}) for one in wanted
        ]
    now = before
    while True:
        try:
            now, trouble = call(relay_url, "/status", timeout_s=timeout_s), None
            text = _received(receipts_url, ca_file, nonce, timeout_s) if receipts_url else ""
            arrived |= {one: time.monotonic() - clock for one in wanted if one not in arrived and f"{nonce}-{one}" in text}
        except ApiError as error:
            trouble = str(error)
        sent = now["sent"] - before["sent"]
        done = len(arrived) == len(wanted) if receipts_url else sent >= len(wanted)
        if done or time.monotonic() - clock >= within_s:
            break
        time.sleep(POLL_S)
    found = []
    good = sent >= len(wanted) and not now["waiting"]
    why = (
        None
        if good
        else now["problem"] or trouble or ("the contract names no channel" if not now["channel"] else "Alertmanager sent nothing")
    )
    found.append(made("alert.channel", PASS if good else FAIL, taken, f"{sent} taken, {now['waiting']} wait", why))
    for one in wanted:
        more = {"unit": "s", "detail": {"target": one, "proof": f"{nonce}-{one}"}}
        if one in arrived:
            found.append(made("alert.delivery", PASS, limit, round(arrived[one], 2), **more))
        elif receipts_url:
            said = trouble or now["problem"] or "the channel's messages do not hold it"
            found.append(
                made("alert.delivery", FAIL, limit, "not received", f"severity {one} did not arrive within {within_s:g} s: {said}", **more)
            )
        else:
            unread = f"the channel cannot be read back: look for {nonce}-{one} there, or state where its messages can be read"
            found.append(made("alert.delivery", NO_EVIDENCE, limit, "sent" if good else "not sent", unread, **more))
    try:
        call(alertmanager_url, "/api/v2/alerts", body=_alerts(wanted, nonce, ended=True), timeout_s=timeout_s)
    except ApiError as error:  # they end by themselves in five minutes
        found[0].setdefault("detail", {})["not_ended"] = str(error)
    return found
