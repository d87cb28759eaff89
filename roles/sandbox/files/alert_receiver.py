#!/usr/bin/python3
"""A stand-in for the channel that people read: it records what it gets, and lets a proof read it back. It tells nobody.

alert_receiver.py --port 8086 --records FILE [--cert FILE --key FILE]
  POST anything                    kept with the time: {"at": seconds since 1970, "path": …, "body": JSON or text}
  GET  /received[?contains=TEXT]   those kept that hold the text, newest last, as JSON
  GET  /healthz                    {"status": "healthy", "stand_in": true}
Every answer carries the header `X-Stand-In`. Standard library only.
"""

import argparse
import collections
import json
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

BODY_LIMIT = 1024 * 1024
KEPT = 1000


def handler(records: Path) -> type[BaseHTTPRequestHandler]:
    """The requests' handler; `records` grows by a line a message, the newest 1,000 are kept in memory."""
    known = collections.deque(maxlen=KEPT)
    if records.exists():
        known.extend(json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()[-KEPT:])
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def _answer(self, status: int, what: object) -> None:
            body = json.dumps(what, ensure_ascii=False).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Stand-In", "alert_receiver: nobody is told")
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            wanted = parse_qs(parts.query).get("contains", [""])[0]
            if parts.path == "/received":
                with lock:
                    self._answer(200, [one for one in known if wanted in json.dumps(one, ensure_ascii=False)])
            elif parts.path == "/healthz":
                self._answer(200, {"status": "healthy", "stand_in": True})
            else:
                self._answer(404, {"error": "not found"})

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not length.isdigit() or int(length) > BODY_LIMIT:
                self._answer(413, {"error": "too large, or without a length"})
                return
            text = self.rfile.read(int(length)).decode("utf-8", "replace")
            try:
                body = json.loads(text)
            except ValueError:
                body = text
            one = {"at": time.time(), "path": self.path, "body": body}
            with lock:
                known.append(one)
                with open(records, "a", encoding="utf-8") as file:
                    file.write(json.dumps(one, ensure_ascii=False) + "\n")
            self._answer(200, {"code": 0, "kept": True})

        def log_message(self, *_args: object) -> None:
            return

    return Handler


def main() -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", default="")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--cert")
    parser.add_argument("--key")
    asked = parser.parse_args()
    server = ThreadingHTTPServer((asked.address, asked.port), handler(asked.records))
    if asked.cert:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(asked.cert, asked.key)
        # The handshake belongs to the connection's own thread: a client that says nothing holds up nobody.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


if __name__ == "__main__":
    main()
