"""The load generator of upgrades, against a small real server: every lost request is counted, and a run that measured nothing is red."""

import asyncio
import importlib.machinery
import importlib.util
import json
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent.parent / "scripts" / "bench_upgrade"
_loader = importlib.machinery.SourceFileLoader("bench_upgrade", str(SCRIPT))
_spec = importlib.util.spec_from_loader("bench_upgrade", _loader)
subject = importlib.util.module_from_spec(_spec)
sys.modules["bench_upgrade"] = subject
_loader.exec_module(subject)

QUICK = ["--rate", "100", "--connections", "10", "--before", "0.5", "--after", "0.5", "--window", "0.2", "--limit", "20"]


class Server(ThreadingHTTPServer):
    """Answers `{"release": …}`; `every` and `fault` say which requests it spoils, and how."""

    daemon_threads = True
    release, every, fault, seen = "1-0.1.0", 0, "", 0
    lock = threading.Lock()

    def handle_error(self, request, client_address):
        pass


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        with self.server.lock:
            self.server.seen += 1
            spoil = self.server.every and self.server.seen % self.server.every == 0
        fault = self.server.fault if spoil else ""
        if fault == "drop":
            self.close_connection = True
            self.connection.close()
            return
        body = json.dumps({"release": self.server.release}).encode()
        self.send_response(503 if fault == "status" else 200)
        if fault == "close":
            self.send_header("Connection", "close")
        if fault == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
            return
        self.send_header("Content-Length", str(len(body) + (5 if fault == "cut" else 0)))
        self.end_headers()
        self.wfile.write(body)
        if fault == "cut":
            self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    made = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def run(server, *options, tmp_path, scheme="http", command=()):
    out = tmp_path / "figures.json"
    argv = ["--url", f"{scheme}://localhost:{server.server_port}/health", "--connect", "127.0.0.1", *QUICK, "--json", str(out), *options]
    status = subject.main([*argv, "--", *command] if command else argv)
    return status, json.loads(out.read_text())


def test_a_good_server_loses_nothing_and_connections_stay(server, tmp_path, capsys):
    status, found = run(server, tmp_path=tmp_path)
    assert (status, found["failed"], found["reconnects"], found["problems"]) == (0, 0, 0, [])
    assert 80 <= found["requests"] <= 120
    assert 0 < found["p50_ms"] <= found["p95_ms"] <= found["p99_ms"] <= found["max_ms"]
    assert "requests/s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fault", "cause"),
    [("drop", "connection closed instead of an answer"), ("status", "status 503"), ("cut", "answer cut")],
)
def test_one_lost_request_in_a_hundred_is_reported(server, tmp_path, capsys, fault, cause):
    server.fault, server.every = fault, 50
    status, found = run(server, "--before", "1", "--after", "1", tmp_path=tmp_path)
    assert status == 1
    assert found["failed"] == server.seen // 50 >= 3
    assert found["failures"] == {cause: found["failed"]}
    assert cause in capsys.readouterr().err


def test_a_polite_close_is_no_failure_and_is_counted(server, tmp_path):
    server.fault, server.every = "close", 10
    status, found = run(server, tmp_path=tmp_path)
    assert (status, found["failed"]) == (0, 0)
    assert found["reconnects"] > 3


def test_chunked_answers_are_read(server, tmp_path):
    server.fault, server.every = "chunked", 1
    status, found = run(server, "--mark", "release", tmp_path=tmp_path)
    assert status == 0 and found["marks"] == {"1-0.1.0": found["requests"]}


def test_the_switch_is_seen_and_the_parts_are_told_apart(server, tmp_path):
    def switch():
        server.release = "2-0.2.0"

    timer = threading.Timer(1.5, switch)
    timer.start()
    options = ["--mark", "release", "--expect-switch"]
    status, found = run(server, *options, tmp_path=tmp_path, command=[sys.executable, "-c", "import time; time.sleep(2)"])
    timer.join()
    assert status == 0 and set(found["marks"]) == {"1-0.1.0", "2-0.2.0"}
    assert 0.5 < found["switch_at_s"] < 1.6 and 2 <= found["command_s"] < 4
    assert set(found["parts"]) == {"before", "command", "switch", "after"}
    assert sum(part["requests"] for part in found["parts"].values()) == found["requests"]


def test_a_switch_that_never_came_is_red(server, tmp_path):
    status, found = run(server, "--mark", "release", "--expect-switch", tmp_path=tmp_path)
    assert status == 1 and "nothing was switched" in found["problems"][0]


def test_a_failed_command_is_red(server, tmp_path):
    status, found = run(server, tmp_path=tmp_path, command=[sys.executable, "-c", "raise SystemExit(4)"])
    assert status == 1 and found["problems"] == ["the command ended with exit status 4"]


def test_a_command_is_ended_at_the_limit(server, tmp_path):
    status, found = run(server, "--limit", "3", tmp_path=tmp_path, command=[sys.executable, "-c", "import time; time.sleep(60)"])
    assert status == 1 and found["problems"] == ["the command ran out of time"]
    assert found["seconds"] < 6


def test_nobody_listening_is_all_failed(tmp_path):
    closed = Server(("127.0.0.1", 0), Handler)
    closed.server_close()
    status, found = run(closed, tmp_path=tmp_path)
    assert status == 1 and found["failed"] == found["requests"] > 50 and found["p95_ms"] is None


def test_a_server_that_hangs_costs_a_failure_and_every_delayed_request_its_time(tmp_path):
    async def scenario():
        async def answer(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(60)

        made = await asyncio.start_server(answer, "127.0.0.1", 0)
        target = subject.Target(f"http://127.0.0.1:{made.sockets[0].getsockname()[1]}/", timeout_s=0.5)

        async def nothing():
            return 0

        recording = await subject.record(target, nothing, rate=20, connections=2, before_s=1, after_s=1, limit_s=10)
        made.close()
        return recording

    recording = asyncio.run(scenario())
    found = subject.summary(recording, 20)
    assert found["failed"] == found["requests"] > 0
    assert max(sample.took for sample in recording.samples) > 0.6  # counted from the moment it was due, not from when it was sent
    assert any("0.5 s" in cause for cause in found["failures"])


def test_a_load_that_was_not_reached_is_red():
    recording = subject.Recording(samples=[subject.Sample(float(due), 0.01) for due in range(10)], command_status=0)
    (said,) = subject.problems(subject.summary(recording, 200))
    assert "requests/s were sent" in said
    assert subject.problems(subject.summary(subject.Recording(command_status=0), 200))


@pytest.fixture
def certificate(tmp_path):
    import datetime

    from cryptography import x509  # a test of TLS needs a certificate; nothing else here does
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
        .add_extension(x509.BasicConstraints(True, None), True).sign(key, hashes.SHA256())
    )  # fmt: skip
    (tmp_path / "ca.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    (tmp_path / "ca.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return tmp_path / "ca.crt", tmp_path / "ca.key"


def test_tls_is_verified(server, tmp_path, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    status, found = run(server, "--ca", str(certificate[0]), tmp_path=tmp_path, scheme="https")
    assert (status, found["failed"]) == (0, 0)
    status, found = run(server, tmp_path=tmp_path, scheme="https")
    assert status == 1 and found["failed"] == found["requests"]
    assert "certificate verify failed" in next(iter(found["failures"]))


def test_wrong_arguments_end_with_2():
    for wrong in (["--url", "ftp://x/"], ["--url", "http://x/", "--rate", "0"], ["--url", "http://x/", "--limit", "15"]):
        done = subprocess.run([sys.executable, str(SCRIPT), *wrong], capture_output=True, text=True, check=False)
        assert done.returncode == 2 and "error:" in done.stderr
    argv = [sys.executable, str(SCRIPT), "--url", "https://x/", "--ca", "/no/ca"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "bench_upgrade: " in done.stderr and "No such file" in done.stderr


def test_percentiles_are_values_that_were_measured():
    values = list(range(1, 101))
    assert [subject.percentile(values, percent) for percent in (50, 95, 99)] == [50, 95, 99]
    assert subject.percentile([], 95) is None and subject.percentile([7], 99) == 7
