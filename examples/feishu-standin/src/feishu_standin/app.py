"""The routes of the Feishu Open API that Lark Service uses, with the real routes' answers, error codes, token life and rate limit.

This is a stand-in for tests and sandboxes. Every response carries `X-Stand-In: feishu-standin/<version>`; nothing is delivered to anybody,
messages are kept in memory and listed at /standin/received.

Behaviour taken from the API's public documentation:
    token routes      HTTP 200 in any case; code 10003 unknown application or missing parameter, 10014 wrong secret; the same token while
                      30 minutes or more of it are left, then a new one, the old one stays valid until its end
    other routes      HTTP 400 with code 99991661 without a token, 99991663 with one that is unknown or over
    messages          HTTP 400 with code 230001 for a bad parameter; a uuid seen within an hour answers with the first message's id
    users             HTTP 400 with code 41050 for a user whom the application may not see (here: whose open_id does not start with ou_)
    rate limit        HTTP 429, code 99991400, headers x-ogw-ratelimit-limit and x-ogw-ratelimit-reset (seconds)
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from feishu_standin import __version__

RENEW_BELOW_S = 1800  # asking again gives the same token while at least this much is left
UUID_MEMORY_S = 3600
KEPT_MESSAGES = 1000
ID_TYPES = {"open_id", "user_id", "union_id", "email", "chat_id"}

Answer = tuple[int, dict[str, Any], dict[str, str]]


class RateLimit:
    """At most `limit` calls in a second, counted per application and route; 0 means no limit."""

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self.limit = limit
        self._clock = clock
        self._calls: dict[str, tuple[int, int]] = {}

    def wait(self, key: str) -> float:
        """Counts a call; the seconds to wait if it was one too many, else 0."""
        if not self.limit:
            return 0.0
        now = self._clock()
        second, count = self._calls.get(key, (int(now), 0))
        count = count + 1 if second == int(now) else 1
        self._calls[key] = (int(now), count)
        return max(0.001, int(now) + 1 - now) if count > self.limit else 0.0


class Feishu:
    """What the stand-in remembers. `apps` maps App ID to App Secret; times are seconds of `clock`."""

    def __init__(
        self, apps: dict[str, str], *, token_expire_s: int = 7200, rate_limit: int = 0, clock: Callable[[], float] = time.time
    ) -> None:
        self.apps = apps
        self.token_expire_s = token_expire_s
        self.rate = RateLimit(rate_limit, clock)
        self.clock = clock
        self.tokens: dict[str, tuple[str, float]] = {}  # token -> (app_id, end)
        self.current: dict[tuple[str, str], str] = {}  # (app_id, kind) -> token
        self.received: deque[dict[str, Any]] = deque(maxlen=KEPT_MESSAGES)
        self.uuids: dict[tuple[str, str], tuple[dict[str, Any], float]] = {}
        self.counts = {"tokens_issued": 0, "messages_taken": 0, "rate_limited": 0}

    def token(self, kind: str, body: dict[str, Any]) -> Answer:
        """auth/v3/{tenant,app}_access_token/internal"""
        app_id, secret = body.get("app_id"), body.get("app_secret")
        if not isinstance(app_id, str) or not isinstance(secret, str) or app_id not in self.apps:
            return 200, {"code": 10003, "msg": "invalid param"}, {}
        if limited := self._limited(f"{app_id} token"):
            return limited
        if not secrets.compare_digest(secret.encode(), self.apps[app_id].encode()):
            return 200, {"code": 10014, "msg": "app secret invalid"}, {}
        now = self.clock()
        token = self.current.get((app_id, kind), "")
        if not token or self.tokens[token][1] - now < RENEW_BELOW_S:
            self.tokens = {known: use for known, use in self.tokens.items() if use[1] > now}
            token = ("t-" if kind == "tenant" else "a-") + secrets.token_hex(20)
            self.tokens[token] = (app_id, now + self.token_expire_s)
            self.current[app_id, kind] = token
            self.counts["tokens_issued"] += 1
        answer = {"code": 0, "msg": "ok", f"{kind}_access_token": token, "expire": int(self.tokens[token][1] - now)}
        if kind == "app":
            answer["tenant_access_token"] = token
        return 200, answer, {}

    def message(self, authorization: str, id_type: str, body: dict[str, Any]) -> Answer:
        """im/v1/messages"""
        app_id, refused = self._caller(authorization, "message")
        if refused:
            return refused
        content = body.get("content")
        try:
            text = json.loads(content)["text"] if isinstance(content, str) else None
        except (ValueError, KeyError, TypeError):
            text = None
        receive_id = body.get("receive_id")
        reason = ""
        if id_type not in ID_TYPES:
            reason = "invalid receive_id_type"
        elif not isinstance(receive_id, str) or not receive_id or (id_type == "open_id" and not receive_id.startswith("ou_")):
            reason = "invalid receive_id"
        elif body.get("msg_type") != "text" or not isinstance(text, str) or not text:
            reason = "invalid msg_content"
        if reason:
            return self._error(400, 230001, f"Your request contains an invalid request parameter, ext={reason}.")
        now = self.clock()
        self.uuids = {key: seen for key, seen in self.uuids.items() if now - seen[1] < UUID_MEMORY_S}
        uuid = str(body.get("uuid") or "")
        if uuid and (app_id, uuid) in self.uuids:
            return 200, {"code": 0, "msg": "success", "data": self.uuids[app_id, uuid][0]}, {}
        moment = str(int(now * 1000))
        data = {
            "message_id": "om_" + secrets.token_hex(16),
            "msg_type": "text",
            "create_time": moment,
            "update_time": moment,
            "deleted": False,
            "updated": False,
            "chat_id": receive_id if id_type == "chat_id" else "oc_" + hashlib.sha256(str(receive_id).encode()).hexdigest()[:32],
            "sender": {"id": app_id, "id_type": "app_id", "sender_type": "app"},
            "body": {"content": content},
        }
        if uuid:
            self.uuids[app_id, uuid] = (data, now)
        self.received.append(
            {
                "message_id": data["message_id"],
                "app_id": app_id,
                "receive_id_type": id_type,
                "receive_id": receive_id,
                "text": text,
                "uuid": uuid,
            }
        )
        self.counts["messages_taken"] += 1
        return 200, {"code": 0, "msg": "success", "data": data}, {}

    def user(self, authorization: str, open_id: str) -> Answer:
        """contact/v3/users/:user_id: every ou_… exists and has a name made from its id."""
        _, refused = self._caller(authorization, "user")
        if refused:
            return refused
        if not open_id.startswith("ou_"):
            return self._error(400, 41050, "no user authority error")
        name = open_id.removeprefix("ou_")[:12]
        user = {
            "open_id": open_id,
            "union_id": "on_" + hashlib.sha256(open_id.encode()).hexdigest()[:32],
            "name": f"User {name}",
            "en_name": name,
            "email": f"{name}@example.com",
            "avatar": {"avatar_72": f"https://example.com/{name}/72.png"},
            "status": {"is_frozen": False, "is_resigned": False, "is_activated": True},
        }
        return 200, {"code": 0, "msg": "success", "data": {"user": user}}, {}

    def _caller(self, authorization: str, route: str) -> tuple[str, Answer | None]:
        token = authorization.removeprefix("Bearer ").strip()
        if not token:
            return "", self._error(400, 99991661, "Missing access token for authorization. Please make a request with token attached.")
        app_id, end = self.tokens.get(token, ("", 0.0))
        if end <= self.clock():
            return "", self._error(400, 99991663, "Invalid access token for authorization. Please make a request with token attached.")
        return app_id, self._limited(f"{app_id} {route}")

    def _limited(self, key: str) -> Answer | None:
        wait = self.rate.wait(key)
        if not wait:
            return None
        self.counts["rate_limited"] += 1
        status, body, _ = self._error(429, 99991400, "request trigger frequency limit")
        return status, body, {"x-ogw-ratelimit-limit": str(self.rate.limit), "x-ogw-ratelimit-reset": f"{wait:.3f}"}

    @staticmethod
    def _error(status: int, code: int, message: str) -> Answer:
        return status, {"code": code, "msg": message, "error": {"log_id": secrets.token_hex(16)}}, {}


class SaysWhatItIs:
    """Adds the header X-Stand-In to every response."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        async def named(event: dict[str, Any]) -> None:
            if event["type"] == "http.response.start":
                event["headers"] = [*event.get("headers", []), (b"x-stand-in", f"feishu-standin/{__version__}".encode())]
            await send(event)

        await self.app(scope, receive, named if scope["type"] == "http" else send)


def create_app(feishu: Feishu) -> Starlette:
    """The HTTP side of `feishu`."""

    async def body(request: Request) -> dict[str, Any]:
        try:
            read = await request.json()
        except ValueError:
            return {}
        return read if isinstance(read, dict) else {}

    def answer(result: Answer) -> JSONResponse:
        return JSONResponse(result[1], result[0], result[2])

    async def tenant(request: Request) -> JSONResponse:
        return answer(feishu.token("tenant", await body(request)))

    async def app(request: Request) -> JSONResponse:
        return answer(feishu.token("app", await body(request)))

    async def messages(request: Request) -> JSONResponse:
        id_type = request.query_params.get("receive_id_type", "")
        return answer(feishu.message(request.headers.get("authorization", ""), id_type, await body(request)))

    async def user(request: Request) -> JSONResponse:
        return answer(feishu.user(request.headers.get("authorization", ""), request.path_params["user_id"]))

    async def received(request: Request) -> JSONResponse:
        if request.method == "DELETE":
            feishu.received.clear()
        uuid = request.query_params.get("uuid")
        found = [message for message in feishu.received if uuid is None or message["uuid"] == uuid]
        return JSONResponse({"stand_in": True, **feishu.counts, "count": len(found), "messages": found})

    async def health(_request: Request) -> JSONResponse:
        release = os.environ.get("GREENROOM_RELEASE", "unreleased")
        return JSONResponse(
            {
                "status": "healthy",
                "stand_in": True,
                "service": "feishu-standin",
                "version": __version__,
                "release": release,
                "dependencies": {},
            }
        )

    routes = [
        Route("/open-apis/auth/v3/tenant_access_token/internal", tenant, methods=["POST"]),
        Route("/open-apis/auth/v3/app_access_token/internal", app, methods=["POST"]),
        Route("/open-apis/im/v1/messages", messages, methods=["POST"]),
        Route("/open-apis/contact/v3/users/{user_id}", user, methods=["GET"]),
        Route("/standin/received", received, methods=["GET", "DELETE"]),
        Route("/healthz", health, methods=["GET"]),
    ]
    application = Starlette(routes=routes)
    application.add_middleware(SaysWhatItIs)
    return application


def from_environment(environ: MutableMapping[str, str]) -> Feishu:
    """Reads STANDIN_APPS (JSON object of App ID to App Secret, required), TOKEN_EXPIRE_S and RATE_LIMIT_PER_S.

    Raises:
        ValueError: naming the key that is missing or malformed, never a value.
    """
    try:
        apps = json.loads(environ.get("STANDIN_APPS", ""))
    except ValueError:
        apps = None
    if not isinstance(apps, dict) or not apps or not all(isinstance(secret, str) and secret for secret in apps.values()):
        raise ValueError('STANDIN_APPS is missing or is not a JSON object such as {"cli_example0001": "secret"}')
    numbers = {}
    for key, default in (("TOKEN_EXPIRE_S", "7200"), ("RATE_LIMIT_PER_S", "50")):
        text = environ.get(key, default)
        if not text.isdigit() or (key == "TOKEN_EXPIRE_S" and int(text) < 1):
            raise ValueError(f"{key} is not a whole number of seconds or calls")
        numbers[key] = int(text)
    return Feishu(apps, token_expire_s=numbers["TOKEN_EXPIRE_S"], rate_limit=numbers["RATE_LIMIT_PER_S"])


def main() -> None:
    """`feishu-standin`: listens on LISTEN_ADDRESS (0.0.0.0) and PORT (8085). Exit status 78 if the configuration is refused."""
    try:
        feishu = from_environment(os.environ)
        port = int(os.environ.get("PORT", "8085"))
    except ValueError as error:
        print(f"configuration refused: {error}", file=sys.stderr)
        sys.exit(78)
    address = os.environ.get("LISTEN_ADDRESS", "0.0.0.0")
    uvicorn.run(create_app(feishu), host=address, port=port, access_log=False, server_header=False, timeout_graceful_shutdown=10)


if __name__ == "__main__":
    main()
