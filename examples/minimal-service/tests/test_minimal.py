"""The service in a process of its own, over HTTP, as a deployment sees it."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from minimal_service import __version__

SOURCE = Path(__file__).resolve().parents[1] / "src"


@pytest.fixture
def start():
    """Starts the service with further variables and returns (base address, process)."""
    started = []

    def begin(**variables):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE), "PORT": str(port), "LISTEN_ADDRESS": "127.0.0.1", **variables}
        process = subprocess.Popen([sys.executable, "-m", "minimal_service.app"], env=environ)
        started.append(process)
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        return f"http://127.0.0.1:{port}", process

    yield begin
    for process in started:
        process.kill()
        process.wait()


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_health(start):
    base, _ = start(GREENROOM_RELEASE="7-0.1.0", GREENROOM_SLOT="blue")
    status, body = get(f"{base}/health")
    assert (status, body["status"]) == (200, "healthy")
    assert (body["version"], body["release"], body["slot"], body["dependencies"]) == (__version__, "7-0.1.0", "blue", {})


def test_fault_switches(start):
    base, _ = start(FAIL_HEALTH="1")
    status, body = get(f"{base}/health")
    assert (status, body["status"]) == (503, "unhealthy")
    assert subprocess.run([sys.executable, "-m", "minimal_service.app"], env={"PYTHONPATH": str(SOURCE), "FAIL_START": "1"}).returncode == 1
    assert subprocess.run([sys.executable, "-m", "minimal_service.app"], env={"PYTHONPATH": str(SOURCE)}).returncode == 78


def test_a_database_that_is_away_is_unhealthy(start):
    base, _ = start(DATABASE_URL="postgresql://u:p@127.0.0.1:1/none")
    status, body = get(f"{base}/health")
    assert (status, body["dependencies"]["database"]["status"]) == (503, "unhealthy")


def test_values_arrive_byte_for_byte_and_only_listed_keys(start):
    value = "two  words 'q' \"d\" $HOME # no = ü 表 \\n"
    base, _ = start(ECHO_KEYS="A, B", A=value, OTHER="hidden")
    _, body = get(f"{base}/environ/A")
    assert base64.b64decode(body["base64"]).decode() == value
    assert get(f"{base}/environ/B")[1]["set"] is False
    assert get(f"{base}/environ/OTHER")[0] == 404
    assert get(f"{base}/nothing")[0] == 404


def test_a_request_is_finished_on_sigterm(start):
    base, process = start()
    answers = []
    caller = threading.Thread(target=lambda: answers.append(get(f"{base}/slow/1000")))
    caller.start()
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    caller.join()
    assert answers == [(200, {"waited_ms": 1000})]
    process.wait(5)
