"""A tiny service for the gateway's tests: every answer says which port, which host, and what came in."""

import http.server
import json
import os
import socket
import sys
import time

PORT = int(sys.argv[1])
SEEN = "/run/backend-posts"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5  # closes idle connections, as uvicorn does

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        if self.command == "POST":
            with open(SEEN, "a") as stream:
                stream.write(f"{PORT} {self.path}\n")
        if self.path.startswith("/slow/"):
            time.sleep(float(self.path.rsplit("/", 1)[1]))
        if self.path.startswith("/die"):
            os._exit(1)  # the connection breaks after the request was read
        body = json.dumps(
            {"port": PORT, "host": socket.gethostname(), "path": self.path, "headers": dict(self.headers)}
        ).encode()
        self.send_response(503 if self.path == "/unavailable" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Frame-Options", "SAMEORIGIN")
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = answer

    def log_message(self, *args: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True


Server(("", PORT), Handler).serve_forever()
