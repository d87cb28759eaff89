"""Log lines are JSON, carry the request's id, and hide secrets wherever they stand."""

import io
import json
import logging

import pytest
import structlog

from lark_service import logs


@pytest.fixture
def lines():
    stream = io.StringIO()
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    logs.configure("DEBUG", secrets=["a-known-secret"], release="3-0.1.0", slot="blue", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:], root.level = before[0], before[1]
    structlog.reset_defaults()


def test_own_lines(lines):
    structlog.contextvars.bind_contextvars(request_id="r-1")
    logs.get("x").info("something", app_id="cli_1", count=2)
    structlog.contextvars.clear_contextvars()
    [line] = lines()
    assert (line["event"], line["level"], line["request_id"], line["count"], line["logger"]) == ("something", "info", "r-1", 2, "x")
    assert (line["slot"], line["release"], line["service"]) == ("blue", "3-0.1.0", "lark-service")
    assert line["timestamp"].endswith("Z")


def test_other_libraries_lines_and_exceptions(lines):
    logging.getLogger("uvicorn.error").warning("listening on %s", "postgresql://u:p4ssw0rd@host/db")
    try:
        raise RuntimeError("with a-known-secret inside")
    except RuntimeError:
        logs.get("y").exception("failed")
    first, second = lines()
    assert first["event"] == "listening on postgresql://u:***@host/db"
    assert "RuntimeError: with *** inside" in second["exception"]


def test_secrets_are_masked(lines):
    logs.get("z").info(
        "called with a-known-secret",
        app_secret="s3cr3t",
        tenant_access_token="t-s3cr3t",
        nested={"password": "s3cr3t", "list": ["Bearer t-s3cr3t"]},
        token_length=40,
    )
    [line] = lines()
    assert "s3cr3t" not in json.dumps(line)
    assert "a-known-secret" not in json.dumps(line)
    assert line["token_length"] == 40
    assert line["nested"] == {"password": "***", "list": ["Bearer ***"]}
