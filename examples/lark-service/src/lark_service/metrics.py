"""What Prometheus reads on METRICS_PORT at /metrics. Every name starts with `lark_service_`."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from lark_service import __version__

REQUESTS = Counter("lark_service_requests", "HTTP requests answered", ["method", "route", "status"])
DURATION = Histogram(
    "lark_service_request_duration_seconds",
    "Time to answer an HTTP request",
    ["route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
IN_FLIGHT = Gauge("lark_service_in_flight_requests", "HTTP requests being answered now; 0 means drained")
BUILD = Gauge("lark_service_build_info", "Always 1; the labels say what runs", ["version", "release", "slot"])
DEPENDENCY_UP = Gauge("lark_service_dependency_up", "1 if the dependency answered when last asked", ["dependency"])
POOL = Gauge("lark_service_database_pool_connections", "Connections of this process to PostgreSQL", ["state"])
TOKEN_REMAINING = Gauge("lark_service_token_expires_in_seconds", "Time left of the stored token; negative: expired", ["app_id", "kind"])
MESSAGES = Gauge("lark_service_messages", "Messages in the database by status", ["status"])
FEISHU_CALLS = Counter("lark_service_feishu_calls", "Calls of the Feishu API; code 0 is success", ["route", "code"])


def serve(port: int, address: str, *, release: str, slot: str) -> None:
    """Answers /metrics on `address`:`port` from a thread of its own, so that a busy service still reports.

    Raises:
        OSError: the port is taken.
    """
    BUILD.labels(__version__, release, slot).set(1)
    start_http_server(port, addr=address)
