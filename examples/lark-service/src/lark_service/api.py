"""The HTTP API. Everything under /v1 wants the header X-API-Key; /health and /docs are open (/health says nothing secret)."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

import orjson
import structlog
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from lark_service import __version__, logs, metrics
from lark_service.broker import BrokerUnavailable
from lark_service.feishu import CredentialsRefused, FeishuError, RateLimited
from lark_service.messages import NewMessage
from lark_service.services import Services
from lark_service.store import UNAVAILABLE, AppDisabled, NotFound

SESSION_LIFETIME_S = 600
SLOW_S = 0.5
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

log = logs.get(__name__)


def json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response made by orjson, without the detour over models."""
    return Response(orjson.dumps(body), status_code=status, headers=headers, media_type="application/json")


async def _services(request: Request) -> Services:
    # async, because FastAPI runs every other function in a thread: two more switches for each request
    return request.app.state.services  # type: ignore[no-any-return]


async def _authenticated(request: Request, x_api_key: Annotated[str, Header()] = "") -> None:
    expected: bytes = request.app.state.api_key
    if not hmac.compare_digest(x_api_key.encode(), expected):
        raise HTTPException(401, "X-API-Key is missing or wrong")


Used = Annotated[Services, Depends(_services)]
router = APIRouter(prefix="/v1", dependencies=[Depends(_authenticated)])
public = APIRouter()


@public.get("/health", summary="State of the service and of each dependency")
async def health(services: Used) -> Response:
    """200 with status "healthy", or 503 with status "unhealthy"."""
    status, body = await services.health.report()
    return json(body, status, {"Cache-Control": "no-store"})


@router.get("/apps", summary="Registered applications")
async def list_apps(services: Used) -> Response:
    """Every registered application, without secrets."""
    apps = await services.store.apps()
    return json({"ok": True, "apps": [app.public() for app in apps]})


@router.get("/apps/{app_id}/token", summary="A valid access token of an application")
async def token(
    app_id: str,
    services: Used,
    kind: Annotated[str, Query(pattern="^(tenant|app)$")] = "tenant",
    reveal: Annotated[bool, Query(description="also answer with the token itself")] = False,
) -> Response:
    """The token's length and expiry; the token itself only if asked for."""
    stored, source = await services.tokens.obtain(app_id, kind)
    body = {"ok": True, "source": source, **stored.public()}
    if reveal:
        body["token"] = stored.value
    return json(body, headers={"Cache-Control": "no-store"})


@router.post("/apps/{app_id}/messages", status_code=202, summary="Queue a message")
async def send_message(app_id: str, new: NewMessage, services: Used, request: Request) -> Response:
    """Answers when the broker has the message; the worker sends it."""
    message_id = await services.messages.accept(app_id, new, request.state.request_id)
    return json({"ok": True, "id": str(message_id), "status": "queued"}, 202, {"Location": f"/v1/messages/{message_id}"})


@router.get("/messages/{message_id}", summary="What became of a message")
async def message(message_id: uuid.UUID, services: Used) -> Response:
    """status is queued, retrying, sent or failed."""
    return json({"ok": True, **await services.messages.get(message_id)})


@router.get("/users/{app_id}/{open_id}", summary="A user's directory entry, cached")
async def user(app_id: str, open_id: str, services: Used) -> Response:
    """From the cache if it is young enough, else from Feishu. If Feishu is away, an old entry is better than none."""
    cached = await services.store.cached_user(app_id, open_id)
    source = "cache"
    if cached is None or cached["age_s"] > services.settings.user_cache_ttl_s:
        try:
            stored, _ = await services.tokens.obtain(app_id)
            await services.store.cache_user(app_id, await services.feishu.user(stored.value, open_id))
            cached, source = await services.store.cached_user(app_id, open_id), "feishu"
        except FeishuError:
            if cached is None:
                raise
            source = "stale"
    assert cached is not None
    age = round(cached.pop("age_s"), 1)
    return json({"ok": True, "app_id": app_id, "source": source, "age_s": age, "user": cached})


@router.post("/apps/{app_id}/auth-sessions", status_code=201, summary="Open a sign-in session")
async def start_session(app_id: str, services: Used) -> Response:
    """A session that ends after ten minutes."""
    return json({"ok": True, **await services.store.start_session(app_id, SESSION_LIFETIME_S)}, 201)


@router.get("/auth-sessions/{session_id}", summary="A sign-in session")
async def session(session_id: uuid.UUID, services: Used) -> Response:
    """The session and whether it has ended."""
    return json({"ok": True, **await services.store.session(session_id)})


class RequestContext:
    """Gives every request an id, counts it, times it, and writes a line about it.

    Lines: writes, errors and slow requests at INFO, everything else at DEBUG; the gateway logs every request anyway, and a journal
    that is flooded drops lines.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"), "")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        status = 500

        async def send_with_id(event: Any) -> None:
            nonlocal status
            if event["type"] == "http.response.start":
                status = event["status"]
                event["headers"] = [*event.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(event)

        started = time.perf_counter()
        metrics.IN_FLIGHT.inc()
        try:
            await self.app(scope, receive, send_with_id)
        finally:
            metrics.IN_FLIGHT.dec()
            took = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "unmatched")
            metrics.REQUESTS.labels(scope["method"], route, str(status)).inc()
            metrics.DURATION.labels(route).observe(took)
            quiet = status < 400 and took < SLOW_S and scope["method"] == "GET"
            if not quiet or logging.getLogger(__name__).isEnabledFor(logging.DEBUG):
                (log.debug if quiet else log.info)(
                    "request", method=scope["method"], path=scope["path"], route=route, status=status, duration_ms=round(took * 1000, 2)
                )


def _failure(request: Request, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    request_id = getattr(request.state, "request_id", "")
    return json({"ok": False, "error": {"code": code, "message": message, "request_id": request_id}}, status, headers)


def _handlers(app: FastAPI) -> None:
    """Every refusal has the same shape: {"ok": false, "error": {"code", "message", "request_id"}}."""

    @app.exception_handler(NotFound)
    async def not_found(request: Request, error: NotFound) -> Response:
        return _failure(request, 404, "not_found", str(error))

    @app.exception_handler(AppDisabled)
    async def disabled(request: Request, error: AppDisabled) -> Response:
        return _failure(request, 409, "app_disabled", str(error))

    @app.exception_handler(BrokerUnavailable)
    async def broker_away(request: Request, error: BrokerUnavailable) -> Response:
        return _failure(request, 503, "broker_unavailable", str(error), {"Retry-After": "5"})

    @app.exception_handler(FeishuError)
    async def feishu(request: Request, error: FeishuError) -> Response:
        log.warning("feishu_failed", code=error.code, reason=str(error))
        if isinstance(error, RateLimited):
            return _failure(request, 503, "feishu_rate_limit", str(error), {"Retry-After": str(max(1, round(error.retry_after)))})
        code = "feishu_credentials_refused" if isinstance(error, CredentialsRefused) else "feishu_failed"
        return _failure(request, 502, code, str(error))

    async def database_away(request: Request, error: Exception) -> Response:
        log.error("database_unavailable", reason=type(error).__name__)
        return _failure(request, 503, "database_unavailable", "the database does not answer", {"Retry-After": "5"})

    for kind in UNAVAILABLE:
        app.add_exception_handler(kind, database_away)

    @app.exception_handler(StarletteHTTPException)
    async def http(request: Request, error: StarletteHTTPException) -> Response:
        return _failure(request, error.status_code, f"http_{error.status_code}", str(error.detail))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        # Names the field and the rule; the value stays out, it may be the caller's secret.
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        return _failure(request, 422, "invalid", problems)


def create_app(services: Services) -> FastAPI:
    """The application over `services`, which it opens at start and closes at the end."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await services.open()
        watcher = asyncio.create_task(services.health.watch())
        log.info("started", pool_max=services.settings.pool_max, feishu=services.settings.feishu_base_url)
        if services.settings.feishu_base_url.startswith("http://"):
            log.warning("feishu_without_tls", feishu=services.settings.feishu_base_url)
        try:
            yield
        finally:
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher
            await services.close()
            log.info("stopped")

    app = FastAPI(title="Lark Service", version=__version__, lifespan=lifespan, redoc_url=None)
    app.state.services = services
    app.state.api_key = services.settings.api_key.get_secret_value().encode()
    app.include_router(public)
    app.include_router(router)
    _handlers(app)
    app.add_middleware(RequestContext)
    return app
