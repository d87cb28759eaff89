"""A small service in one slot of one host, with faults that a file tells at every request.

python3 guard_service.py ADDRESS PORT RELEASE FILE

File: {health: ok|ill|dependency|hang|silent, error_percent, delay_s, cpu: lines of node exporter's page, metrics: lines of the service's}.
"""

import http.server
import itertools
import json
import sys
import time

ADDRESS, PORT, RELEASE, FAULTS = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
COUNT = itertools.count()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        with open(FAULTS, encoding="utf-8") as stream:
            faults = json.load(stream)
        if self.path == "/health":
            self.health(faults.get("health", "ok"))
        elif self.path in ("/metrics", "/node"):
            text = faults.get(self.path[1:])
            self.answer(404 if text is None else 200, (text or "").encode())
        else:
            time.sleep(faults.get("delay_s", 0))
            percent, number = faults.get("error_percent", 0), next(COUNT)
            bad = number * percent // 100 != (number + 1) * percent // 100  # spread evenly
            self.answer(500 if bad else 200, json.dumps({"release": RELEASE}).encode())

    def health(self, state: str) -> None:
        if state == "hang":
            time.sleep(30)
        database = "unhealthy" if state == "dependency" else "healthy"
        body = {
            "status": "healthy" if state == "ok" else "unhealthy", "version": RELEASE.split("-", 1)[1], "release": RELEASE,
            "dependencies": {"database": {"status": database}},
        }  # fmt: skip
        self.answer(200 if state == "ok" else 503, json.dumps(body).encode())

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True
    allow_reuse_address = True


Server((ADDRESS, PORT), Handler).serve_forever(poll_interval=0.05)
