"""Probes over HTTP and TCP against real sockets: green on what is right, red on each real fault."""

import http.server
import json
import socket
import threading
import time

import pytest
from ansible.module_utils.greenroom import health_check
from ansible.module_utils.greenroom.probes import metrics


def measure(secrets=None, **probe):
    (record,) = health_check.run(health_check.plan([{"id": "test.id", **probe}], secrets), secrets)
    return record


METRICS = """# HELP app_requests_total Requests.
# TYPE app_requests_total counter
app_requests_total{method="GET",path="/a\\"b\\\\c"} 12
app_requests_total{method="POST",path="/"} 3 1700000000000
# TYPE app_latency_seconds histogram
app_latency_seconds_bucket{le="0.1"} 5
app_latency_seconds_bucket{le="+Inf"} 9
app_latency_seconds_sum 1.5e-1
app_latency_seconds_count 9
app_up 1
app_ratio NaN
"""

PAGES = {
    "/health": (
        200,
        "application/json",
        '{"status": "healthy", "version": "1.2.0", "dependencies": {"database": {"status": "healthy"}}, "items": [{"id": 7}]}',
    ),
    "/unhealthy": (
        200,
        "application/json",
        '{"status": "unhealthy", "dependencies": {"database": {"status": "down"}}, "note": "not healthy"}',
    ),
    "/empty": (200, "application/json", '{"matches": [], "ok": 1, "count": null}'),
    "/html": (200, "text/html", "<html>healthy app_up</html>"),
    "/error": (503, "application/json", '{"detail": "x"}'),
    "/token": (200, "application/json", '{"token": "sup3r-s3cret-token-value"}'),
    "/metrics": (200, "text/plain; version=0.0.4", METRICS),
    "/nothing": (200, "text/plain", "# no samples\n"),
    "/moved": (302, "text/plain", ""),
}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length).decode()
        self.server.seen.append((self.command, self.path, dict(self.headers), body))
        if self.path == "/slow":
            time.sleep(0.12)
        if self.path == "/cut":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")
            self.close_connection = True
            return
        if self.path == "/drip":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            try:
                for _ in range(100):
                    self.wfile.write(b"x")
                    time.sleep(0.05)
            except OSError:
                pass
            return
        status, kind, text = PAGES.get(self.path.partition("?")[0], (200, "application/json", "{}"))
        if self.path == "/echo":
            text = json.dumps(
                {"method": self.command, "auth": self.headers.get("Authorization", ""), "host": self.headers["Host"], "body": body}
            )
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_PUT = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads, httpd.seen = True, []
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    httpd.url = f"http://127.0.0.1:{httpd.server_port}"
    yield httpd
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def closed_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]  # bound and not listening: nobody else can take it, and it refuses


def test_http_reads_fields_not_words(server):
    record = measure(
        type="http",
        url=f"{server.url}/health",
        json={
            "status": "healthy",
            "dependencies.database.status": "healthy",
            "items.0.id": 7,
            "items": {"min_length": 1},
            "version": {"matches": r"^1\."},
        },
    )
    assert record["status"] == "pass", record
    assert "status = healthy" in record["observed"]
    assert record["detail"]["target"] == f"{server.url}/health"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"path": "/unhealthy", "json": {"status": "healthy"}}, "status is unhealthy, not = healthy"),
        (
            {"path": "/unhealthy", "json": {"status": "unhealthy", "dependencies.database.status": "healthy"}},
            "dependencies.database.status is down",
        ),
        ({"path": "/health", "json": {"dependencies.queue.status": "healthy"}}, "dependencies.queue.status is absent"),
        ({"path": "/empty", "json": {"matches": {"min_length": 1}}}, "matches is present (list, length 0)"),
        ({"path": "/empty", "json": {"ok": True}}, "ok is 1, not = True"),
        ({"path": "/empty", "json": {"count": {"ge": 0}}}, "count is None"),
        ({"path": "/html", "json": {"status": "healthy"}}, "text/html) is not JSON"),
        ({"path": "/error"}, "HTTP 503, not 200"),
        ({"path": "/moved"}, "HTTP 302, not 200"),
        ({"path": "/health", "status": [201, 204]}, "HTTP 200, not 201 or 204"),
        ({"path": "/health", "response_headers": {"X-Frame-Options": "SAMEORIGIN"}}, "header X-Frame-Options is DENY"),
        ({"path": "/health", "response_headers": {"Strict-Transport-Security": True}}, "Strict-Transport-Security is absent"),
        ({"path": "/health", "body_matches": "unhealthy"}, "does not match"),
        ({"path": "/slow", "latency_ms": 50, "samples": 3}, "is over 50 ms"),
        ({"path": "/slow", "timeout_s": 0.1}, "no answer within 0.1 s"),
        ({"path": "/drip", "timeout_s": 0.4}, "no answer within 0.4 s"),
        ({"path": "/cut"}, "IncompleteRead"),
    ],
)
def test_http_is_red_on(server, change, told):
    record = measure(**{"type": "http", "base_url": server.url, **change})
    assert record["status"] == "fail"
    assert told in record["reason"], record


def test_http_is_red_on_a_closed_port_and_an_unknown_name(closed_port):
    assert measure(type="http", url=f"http://127.0.0.1:{closed_port}/")["reason"].endswith("connection refused")
    assert "does not resolve" in measure(type="http", url="http://no-such-name.invalid/")["reason"]


def test_http_latency_is_the_p95_of_real_samples(server):
    server.seen.clear()
    record = measure(type="http", url=f"{server.url}/health", latency_ms=2000, samples=40, timeout_s=20)
    assert record["status"] == "pass", record
    assert record["detail"]["samples"] == 40
    assert len(server.seen) == 40
    assert 0 < record["detail"]["min_ms"] <= record["detail"]["p95_ms"] <= record["detail"]["max_ms"]


def test_http_sends_what_it_was_given_and_shows_no_secret(server):
    secrets = {"token": "t0ken-value-123", "password": "p4ssword-value", "body": "s3cret body"}
    record = measure(
        secrets,
        type="http",
        url=f"{server.url}/echo",
        method="POST",
        bearer_key="token",
        body_key="body",
        headers={"Host": "app.internal"},
        json={"auth": "Bearer t0ken-value-123", "host": "app.internal", "method": "POST"},
    )
    assert record["status"] == "pass", record
    assert "t0ken-value-123" not in json.dumps(record)
    record = measure(secrets, type="http", url=f"{server.url}/echo", user="u", password_key="password", json={"auth": "other"})
    assert record["status"] == "fail"
    record = measure(
        secrets,
        type="http",
        url=f"{server.url}/echo",
        secret_headers={"Authorization": "password"},
        json={"auth": {"ne": "p4ssword-value"}},
    )
    assert "p4ssword-value" not in json.dumps(record)
    record = measure(secrets, type="http", url=f"{server.url}/echo", json_body={"a": [1]}, method="PUT", json={"body": '{"a": [1]}'})
    assert record["status"] == "pass"


def test_http_shows_no_value_where_only_presence_was_asked(server):
    record = measure(type="http", url=f"{server.url}/token", json={"token": {"min_length": 10}})
    assert record["status"] == "pass"
    assert "sup3r" not in json.dumps(record)


def test_http_connects_to_another_address_with_the_same_name(server):
    record = measure(
        type="http", url="http://app.internal/echo", connect_to=f"127.0.0.1:{server.server_port}", json={"host": "app.internal"}
    )
    assert record["status"] == "pass", record


def test_http_within_waits_until_the_server_is_there():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    started = []

    def start():
        started.append(http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler))
        started[0].seen = []
        started[0].serve_forever()

    timer = threading.Timer(0.6, start)
    timer.start()
    record = measure(type="http", url=f"http://127.0.0.1:{port}/health", within_s=10)
    started[0].shutdown()
    started[0].server_close()
    assert record["status"] == "pass", record
    assert record["detail"]["attempts"] >= 2
    assert 500 <= record["duration_ms"] < 5000


def test_tcp_open_and_closed(server, closed_port):
    port = server.server_port
    assert measure(type="tcp", host="127.0.0.1", port=port)["status"] == "pass"
    assert measure(type="tcp", host="127.0.0.1", port=closed_port)["reason"].endswith("connection refused")
    assert measure(type="tcp", host="127.0.0.1", port=closed_port, expect="refused_or_filtered", reference_port=port)["status"] == "pass"
    record = measure(type="tcp", host="127.0.0.1", port=port, expect="refused_or_filtered")
    assert (record["status"], record["observed"]) == ("fail", "accepts connections")


def test_tcp_closed_on_a_host_that_is_down_or_unknown_proves_nothing(closed_port):
    record = measure(type="tcp", host="127.0.0.1", port=closed_port, expect="refused_or_filtered", reference_port=closed_port)
    assert record["status"] == "no_evidence"
    assert measure(type="tcp", host="no-such-name.invalid", port=80, expect="refused_or_filtered")["status"] == "fail"


def test_tcp_filtered_is_a_port_that_does_not_answer():
    """A listener whose queue is full drops what comes: as a firewall does."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        port, fillers = sock.getsockname()[1], []
        try:
            for _ in range(4):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
                fillers.append(filler)
            time.sleep(0.1)
            record = measure(type="tcp", host="127.0.0.1", port=port, expect="refused_or_filtered", connect_s=0.3)
            assert (record["status"], record["observed"]) == ("pass", "no answer within 0.3 s")
            assert measure(type="tcp", host="127.0.0.1", port=port, connect_s=0.3)["status"] == "fail"
        finally:
            for filler in fillers:
                filler.close()


def test_dns():
    assert measure(type="dns", name_to_resolve="localhost")["status"] == "pass"
    assert measure(type="dns", name_to_resolve="127.0.0.1", addresses=["127.0.0.1"])["status"] == "pass"
    assert measure(type="dns", name_to_resolve="127.0.0.1", addresses=["127.0.0.2"])["status"] == "fail"
    assert "does not resolve" in measure(type="dns", name_to_resolve="no-such-name.invalid", timeout_s=20)["reason"]


def test_tls_probe_is_red_without_a_server(closed_port):
    assert measure(type="tls", host="127.0.0.1", port=closed_port)["reason"].endswith("connection refused")


def test_metrics_are_parsed_and_compared(server):
    record = measure(
        type="metrics",
        url=f"{server.url}/metrics",
        required=["app_requests_total", "app_latency_seconds"],
        values={
            "app_up": 1,
            'app_requests_total{method="GET"}': {"ge": 10},
            "app_requests_total": {"gt": 0},
            "app_latency_seconds_sum": 0.15,
        },
    )
    assert record["status"] == "pass", record


@pytest.mark.parametrize(
    ("change", "status", "told"),
    [
        ({"required": ["app_missing"]}, "no_evidence", "app_missing is absent"),
        ({"required": ["app_req"]}, "no_evidence", "app_req is absent"),
        ({"values": {"app_ratio": {"le": 1}}}, "no_evidence", "app_ratio is not a number"),
        ({"values": {'app_requests_total{method="PUT"}': 1}}, "no_evidence", "is absent"),
        ({"values": {"app_requests_total": {"ge": 10}}}, "fail", "app_requests_total is 3"),
        ({"path": "/html", "required": ["app_up"]}, "fail", "line 1 is no sample"),
        ({"path": "/error", "required": ["app_up"]}, "fail", "HTTP 503"),
        ({"path": "/nothing", "required": ["app_up"]}, "no_evidence", "app_up is absent"),
    ],
)
def test_metrics_are_red_on(server, change, status, told):
    record = measure(**{"type": "metrics", "base_url": server.url, "path": "/metrics", **change})
    assert record["status"] == status
    assert told in record["reason"]


def test_metrics_agree_with_prometheus_own_parser():
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
    from prometheus_client.parser import text_string_to_metric_families

    registry = CollectorRegistry()
    Counter("c", "C", ["a", "b"], registry=registry).labels('x"y\\z\n', "{},= ").inc(5)
    Gauge("g", "G", registry=registry).set(float("inf"))
    Histogram("h", "H", registry=registry).observe(0.3)
    text = generate_latest(registry).decode()
    theirs = [(sample.name, sample.labels, sample.value) for family in text_string_to_metric_families(text) for sample in family.samples]
    assert sorted(metrics.parse(text), key=str) == sorted(theirs, key=str)


@pytest.mark.parametrize(
    "text", ["app_up", "app_up one", "app_up 1 2 3", 'app{a="1} 2', "app{a=1} 2", "1app 2", "app_up 1_0", 'a{b="c"d="e"} 1']
)
def test_metrics_lines_that_are_no_samples_are_refused(text):
    with pytest.raises(ValueError, match="line 2"):
        metrics.parse(f"ok 1\n{text}\n")
