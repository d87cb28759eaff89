"""Alertmanager's webhook on loopback, handed on to the channel of the contract: the one that the guard and the deploy write to, too.

`python -m greenroom.monitoring.relay --config FILE --port PORT`. A message is kept until the channel took it (`notify.Outbox`), so
Alertmanager is answered 200 once it is kept. `/status` tells {sent, dropped, waiting, problem}, `/metrics` the same for Prometheus.
Standard library only.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from .. import notify

BODY_LIMIT = 1024 * 1024
FLUSH_EVERY_S = 10.0
SHOWN = 20  # alerts of a group that a message names


def as_message(group: Mapping) -> dict:
    """Alertmanager's webhook of one group as a message of `notify`. Raises ValueError for anything else."""
    try:
        alerts, firing = group["alerts"], group["status"] == "firing"
        labels = [one["labels"] for one in alerts]
        names = sorted({one["alertname"] for one in labels})
        lines = [f"{one['labels'].get('host', '-')}: {one['annotations'].get('summary', one['labels']['alertname'])}" for one in alerts]
        worst = max((one.get("severity", "warning") for one in labels), key=lambda one: notify.SEVERITIES.index(one))
        runbooks = sorted({one["annotations"]["runbook_url"] for one in alerts if "runbook_url" in one["annotations"]})
        proofs = sorted({one["proof"] for one in labels if "proof" in one})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"is no webhook of Alertmanager: {error}") from None
    return notify.message(
        "alertmanager.firing" if firing else "alertmanager.resolved",
        worst if firing else "info",
        ("" if firing else "resolved: ") + ", ".join(names),
        "\n".join(lines[:SHOWN]) + (f"\n… and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""),
        runbook=", ".join(runbooks) or None,
        proof=", ".join(proofs) or None,
    )


class Relay:
    """The channel, and what became of the messages since the start."""

    def __init__(self, outbox: notify.Outbox):
        self.outbox, self.sent, self.dropped, self.problem = outbox, 0, 0, None
        self._lock = threading.Lock()

    def take(self, body: bytes) -> str | None:
        """Keep one webhook and try to deliver it; None, or why it was not kept. Raises ValueError if it is none."""
        kept = self.outbox.put(as_message(json.loads(body)))
        if kept is None:
            self.flush()
        return kept

    def flush(self) -> None:
        """Deliver what waits."""
        with self._lock:
            done = self.outbox.flush()
            self.sent, self.dropped, self.problem = self.sent + done["sent"], self.dropped + done["dropped"], done["problem"]

    def status(self) -> dict:
        """{sent, dropped, waiting, problem, channel}: counts since the start, and why something waits."""
        waiting = len(list(Path(self.outbox.config["spool"]).glob("[0-9]*-*.json")))
        counts = {"sent": self.sent, "dropped": self.dropped, "waiting": waiting}
        return {**counts, "problem": self.problem, "channel": bool(self.outbox.config["url"])}

    def metrics(self) -> str:
        """The same in Prometheus' text format."""
        kinds, now = {"sent_total": "counter", "dropped_total": "counter", "waiting": "gauge"}, self.status()
        lines = [f"# TYPE greenroom_notifications_{name} {kind}\n" for name, kind in kinds.items()]
        return "".join(f"{line}greenroom_notifications_{name} {now[name.split('_')[0]]}\n" for line, name in zip(lines, kinds, strict=True))


def handler(relay: Relay) -> type[BaseHTTPRequestHandler]:
    """The requests' handler."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def _answer(self, status: int, text: str, kind: str = "text/plain") -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            if self.path == "/status":
                self._answer(200, json.dumps(relay.status()), "application/json")
            elif self.path == "/metrics":
                self._answer(200, relay.metrics(), "text/plain; version=0.0.4")
            else:
                self._answer(404, "not found\n")

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not length.isdigit() or int(length) > BODY_LIMIT:
                self._answer(413, "too large, or without a length\n")
                return
            try:
                kept = relay.take(self.rfile.read(int(length)))
            except ValueError as error:  # what cannot be read now cannot be read later: Alertmanager gives up on 4xx
                self._answer(400, f"{error}\n")
                return
            self._answer(200 if kept is None else 503, f"{kept or 'kept'}\n")

        def log_message(self, *_args: object) -> None:
            return

    return Handler


def main(argv: list[str] | None = None) -> int:
    """Serve until ended."""
    parser = argparse.ArgumentParser(prog="greenroom.monitoring.relay", description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="the channel's configuration")
    parser.add_argument("--port", required=True, type=int)
    asked = parser.parse_args(argv)
    try:
        relay = Relay(notify.Outbox(notify.load_config(asked.config)))
        server = ThreadingHTTPServer(("127.0.0.1", asked.port), handler(relay))
    except (notify.NotifyError, OSError) as error:
        print(f"alert relay: {error}", file=sys.stderr)
        return 1
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while True:
        relay.flush()
        time.sleep(FLUSH_EVERY_S)


if __name__ == "__main__":
    sys.exit(main())
