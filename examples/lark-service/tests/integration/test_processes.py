"""The real processes: web and worker, from start to SIGTERM."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.unit.conftest import API_KEY, APP, SECRET


class FeishuOverHttp(BaseHTTPRequestHandler):
    """Enough of Feishu for a process: tokens, and messages that take half a second."""

    sent: list = []  # noqa: RUF012

    def do_GET(self):
        self._answer({"code": 0})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if "access_token" in self.path:
            self._answer({"code": 0, "tenant_access_token": "t-from-the-process-tests", "expire": 7200})
        else:
            time.sleep(0.5)
            self.sent.append(body["uuid"])
            self._answer({"code": 0, "data": {"message_id": "om_process"}})

    def _answer(self, body):
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def feishu_url():
    server = ThreadingHTTPServer(("127.0.0.1", 0), FeishuOverHttp)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def start(settings, feishu_url):
    """Starts a process of the service; returns (process, environment)."""
    processes = []

    def begin(module):
        environ = {
            **os.environ,
            "PYTHONPATH": ":".join(sys.path),
            "FEISHU_BASE_URL": feishu_url,
            "PORT": str(free_port()),
            "METRICS_PORT": str(free_port()),
            "LISTEN_ADDRESS": "127.0.0.1",
            "GREENROOM_SLOT": "blue",
        }
        process = subprocess.Popen([sys.executable, "-m", f"lark_service.{module}"], env=environ, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process, environ

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as response:
        return response.read().decode()


def healthy(environ, seconds=20):
    end = time.monotonic() + seconds
    while True:
        try:
            return json.loads(get(f"http://127.0.0.1:{environ['PORT']}/health"))
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def cli(environ, *arguments, stdin=""):
    done = subprocess.run(
        [sys.executable, "-m", "lark_service.cli", *arguments, "--json"], env=environ, input=stdin, capture_output=True, text=True
    )
    return done.returncode, json.loads(done.stdout)


def test_web(start):
    process, environ = start("web")
    body = healthy(environ)
    assert (body["status"], body["slot"]) == ("healthy", "blue")
    assert json.loads(get(f"http://127.0.0.1:{environ['PORT']}/v1/apps", **{"X-API-Key": API_KEY}))["apps"] == []
    metrics = get(f"http://127.0.0.1:{environ['METRICS_PORT']}/metrics")
    assert "lark_service_in_flight_requests 0.0" in metrics
    assert 'lark_service_dependency_up{dependency="database"} 1.0' in metrics
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=10)
    lines = [json.loads(line) for line in out.splitlines()]
    assert {"started", "stopped"} <= {line["event"] for line in lines}
    assert process.returncode in (0, -signal.SIGTERM)


def test_worker_finishes_what_it_began(start, database):
    worker, environ = start("worker")
    assert cli(environ, "app", "add", APP, "--name", "Example", stdin=SECRET + "\n")[0] == 0
    for line in worker.stdout:
        if json.loads(line)["event"] == "started":
            break
    status, message = cli(environ, "message", "send", APP, "--to", "ou_1", "--text", "hello")
    assert (status, message["status"]) == (0, "queued")
    end = time.monotonic() + 10
    while database.execute("SELECT count(*) FROM tokens").fetchone()[0] == 0 and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.1)  # now Feishu is "sending" for half a second
    worker.send_signal(signal.SIGTERM)
    worker.communicate(timeout=10)
    assert worker.returncode == 0
    assert FeishuOverHttp.sent == [message["id"]]
    assert database.execute("SELECT status FROM messages").fetchall() == [("sent",)]


def test_cli_check_and_refresh(start):
    _, environ = start("web")
    assert cli(environ, "check")[1]["status"] == "healthy"
    cli(environ, "app", "add", APP, "--name", "Example", stdin=SECRET + "\n")
    assert cli(environ, "tokens", "refresh")[1]["refreshed"] == 1
    assert cli(environ, "token", "obtain", APP)[1]["source"] == "store"
