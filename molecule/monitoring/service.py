"""A tiny service for the scenario: a health page and metrics in one slot, a JSON line for each request, and a switch that makes it fail."""

import http.server
import json
import sys
import threading
import time
from pathlib import Path

PORT, METRICS_PORT = int(sys.argv[1]), int(sys.argv[2])
BROKEN = Path("/run/example-broken")
count = {"requests": 0}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5

    def do_GET(self) -> None:
        if self.server.server_address[1] == METRICS_PORT:
            body = f"example_requests_total {count['requests']}\nexample_pool_in_use 1\n".encode()
        else:
            count["requests"] += 1
            body = b'{"status": "healthy"}\n'
            line = {"timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "level": "info", "event": "request", "path": self.path,
                    "request_id": self.headers.get("X-Request-Id")}  # fmt: skip
            print(json.dumps(line), flush=True)
        self.send_response(500 if BROKEN.exists() and self.server.server_address[1] == PORT else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        return


page = http.server.ThreadingHTTPServer(("", METRICS_PORT), Handler)
threading.Thread(target=page.serve_forever, daemon=True).start()
http.server.ThreadingHTTPServer(("", PORT), Handler).serve_forever()
