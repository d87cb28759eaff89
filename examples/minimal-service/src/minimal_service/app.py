"""One ASGI function.

GET /health         {"status", "version", "release", "slot", "dependencies"}; 200 healthy, 503 unhealthy
GET /environ/{key}  {"key", "set", "base64"}: a variable's bytes, only for keys listed in ECHO_KEYS (a test of what arrives, byte for byte)
GET /slow/{ms}      answers after so many milliseconds, at most 60,000 (a test of draining)
GET /               {"service", "version", "release", "slot"}

Faults, by variable: FAIL_START=1 ends at once with status 1; START_DELAY_S waits before listening; FAIL_HEALTH=1 is unhealthy for ever.
With DATABASE_URL set, health asks PostgreSQL and is unhealthy without it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn

from minimal_service import __version__

Send = Callable[[dict[str, Any]], Awaitable[None]]


def about() -> dict[str, str]:
    """What runs here."""
    return {
        "service": "minimal-service",
        "version": __version__,
        "release": os.environ.get("GREENROOM_RELEASE", "unreleased"),
        "slot": os.environ.get("GREENROOM_SLOT", "none"),
    }


async def ask_database(url: str) -> dict[str, Any]:
    """{"status": "healthy"|"unhealthy", "latency_ms": float|None} of one new connection and one statement."""
    import asyncpg

    started = time.perf_counter()
    try:
        connection = await asyncpg.connect(url, timeout=3, server_settings={"application_name": "minimal-service"})
        try:
            await connection.fetchval("SELECT 1", timeout=2)
        finally:
            await connection.close(timeout=2)
    except Exception as error:
        return {"status": "unhealthy", "latency_ms": None, "detail": type(error).__name__}
    return {"status": "healthy", "latency_ms": round((time.perf_counter() - started) * 1000, 2)}


async def health() -> tuple[int, dict[str, Any]]:
    """(HTTP status, body)."""
    dependencies = {}
    if url := os.environ.get("DATABASE_URL"):
        dependencies["database"] = await ask_database(url)
    healthy = os.environ.get("FAIL_HEALTH") != "1" and all(state["status"] == "healthy" for state in dependencies.values())
    return (200 if healthy else 503), {"status": "healthy" if healthy else "unhealthy", **about(), "dependencies": dependencies}


def echo(key: str) -> tuple[int, dict[str, Any]]:
    """A variable's bytes in base64, if ECHO_KEYS (names with commas between) allows its name."""
    if key not in [name.strip() for name in os.environ.get("ECHO_KEYS", "").split(",") if name.strip()]:
        return 404, {"error": "not listed in ECHO_KEYS"}
    value = os.environb.get(os.fsencode(key))
    return 200, {"key": key, "set": value is not None, "base64": base64.b64encode(value or b"").decode()}


async def answer(path: str) -> tuple[int, dict[str, Any]]:
    """The (status, body) of GET `path`."""
    _, first, rest = (*path.split("/", 2), "")[:3]
    if path == "/":
        return 200, about()
    if path == "/health":
        return await health()
    if first == "environ":
        return echo(rest)
    if first == "slow" and rest.isdigit() and int(rest) <= 60_000:
        await asyncio.sleep(int(rest) / 1000)
        return 200, {"waited_ms": int(rest)}
    return 404, {"error": "no such route"}


async def app(scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]], send: Send) -> None:
    """The ASGI application."""
    if scope["type"] == "lifespan":
        while True:
            event = await receive()
            await send({"type": event["type"] + ".complete"})
            if event["type"] == "lifespan.shutdown":
                return
    status, body = await answer(scope["path"]) if scope["method"] in ("GET", "HEAD") else (405, {"error": "GET only"})
    content = json.dumps(body).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else content})


def main() -> None:
    """`minimal-service`: listens on LISTEN_ADDRESS (0.0.0.0) and PORT. Exit status 78 without a usable PORT, 1 with FAIL_START=1."""
    if os.environ.get("FAIL_START") == "1":
        print("FAIL_START=1", file=sys.stderr)
        sys.exit(1)
    port = os.environ.get("PORT", "")
    if not port.isdigit() or not 0 < int(port) < 65536:
        print("configuration refused: PORT is missing or is no port", file=sys.stderr)
        sys.exit(78)
    time.sleep(float(os.environ.get("START_DELAY_S", "0")))
    uvicorn.run(
        app,
        host=os.environ.get("LISTEN_ADDRESS", "0.0.0.0"),
        port=int(port),
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(os.environ.get("DRAIN_DEADLINE_S", "10")),
    )


if __name__ == "__main__":
    main()
