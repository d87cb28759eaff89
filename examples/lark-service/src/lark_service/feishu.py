"""The few routes of the Feishu (Lark) Open API that this service uses.

Facts about the API: token routes answer HTTP 200 also when they refuse (code 10003: unknown app or missing parameter, 10014: wrong
secret); a token has `expire` seconds left, and asking again gives the same token until less than 30 minutes are left; a bad
token on other routes is HTTP 400 with code 99991663; the rate limit is HTTP 429 (older routes 400) with code 99991400 and the
seconds to wait in the header x-ogw-ratelimit-reset; a message with a `uuid` seen within the hour is not sent again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
import orjson

from lark_service import __version__, metrics

CREDENTIAL_CODES = frozenset({10003, 10012, 10013, 10014})
INVALID_TOKEN_CODES = frozenset({99991661, 99991663, 99991664, 99991668, 99991671, 99991677})
RATE_LIMIT_CODES = frozenset({99991400, 11232, 230020})
TOKEN_FIELDS = {"tenant": "tenant_access_token", "app": "app_access_token"}


class FeishuError(Exception):
    """Feishu refused, or could not be understood. `code` is Feishu's, 0 if there was none."""

    def __init__(self, message: str, code: int = 0, status: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class FeishuUnreachable(FeishuError):
    """No answer, or one of the kind that a later attempt may better (5xx)."""


class CredentialsRefused(FeishuError):
    """App ID or App Secret are wrong, or the application is switched off at Feishu."""


class InvalidToken(FeishuError):
    """The access token is no longer accepted: obtain another one."""


class RateLimited(FeishuError):
    """Too many calls; `retry_after` seconds are to pass before the next one."""

    def __init__(self, message: str, code: int, status: int, retry_after: float) -> None:
        super().__init__(message, code, status)
        self.retry_after = retry_after


@dataclass(frozen=True)
class IssuedToken:
    """A token as Feishu gave it: its value (secret) and the seconds it lives from now."""

    value: str
    expires_in: int

    def __repr__(self) -> str:
        return f"IssuedToken(length={len(self.value)}, expires_in={self.expires_in})"


class FeishuClient:
    """One HTTP client with keep-alive for one process. Times in seconds."""

    def __init__(self, base_url: str, timeout: float = 5.0, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._http = httpx.AsyncClient(
            base_url=base_url, timeout=timeout, transport=transport, headers={"User-Agent": f"lark-service/{__version__}"}
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def issue_token(self, app_id: str, secret: str, kind: str = "tenant") -> IssuedToken:
        """Asks for an access token; `kind` is "tenant" or "app".

        Raises:
            CredentialsRefused, RateLimited, FeishuUnreachable, FeishuError
        """
        field = TOKEN_FIELDS[kind]
        body = await self._call("POST", f"/open-apis/auth/v3/{field}/internal", json={"app_id": app_id, "app_secret": secret})
        value, expire = body.get(field), body.get("expire")
        if not isinstance(value, str) or not value or not isinstance(expire, int) or expire <= 0:
            raise FeishuError(f"Feishu answered without a usable {field}")
        return IssuedToken(value, expire)

    async def send_text(self, token: str, receive_id_type: str, receive_id: str, text: str, uuid: str) -> str:
        """Sends a text message once per `uuid` (at most 50 characters) and returns Feishu's message id.

        Raises:
            InvalidToken, RateLimited, FeishuUnreachable, FeishuError
        """
        body = await self._call(
            "POST",
            "/open-apis/im/v1/messages",
            params={"receive_id_type": receive_id_type},
            json={"receive_id": receive_id, "msg_type": "text", "content": orjson.dumps({"text": text}).decode(), "uuid": uuid},
            token=token,
        )
        message_id = (body.get("data") or {}).get("message_id")
        if not isinstance(message_id, str) or not message_id:
            raise FeishuError("Feishu answered without a message_id")
        return message_id

    async def user(self, token: str, open_id: str) -> dict[str, Any]:
        """The user's directory entry: at least open_id and name.

        Raises:
            InvalidToken, RateLimited, FeishuUnreachable, FeishuError
        """
        body = await self._call("GET", f"/open-apis/contact/v3/users/{open_id}", params={"user_id_type": "open_id"}, token=token)
        user = (body.get("data") or {}).get("user")
        if not isinstance(user, dict) or user.get("open_id") != open_id:
            raise FeishuError("Feishu answered without the user asked for")
        return user

    async def reachable(self) -> bool:
        """Whether anything that is not a server error answers at the base address."""
        try:
            response = await self._http.get("/")
        except httpx.HTTPError:
            return False
        return response.status_code < 500

    async def _call(self, method: str, path: str, *, token: str | None = None, **request: Any) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        route = "/".join(path.split("/")[2:5])
        try:
            response = await self._http.request(method, path, headers=headers, **request)
        except httpx.HTTPError as error:
            metrics.FEISHU_CALLS.labels(route, "unreachable").inc()
            raise FeishuUnreachable(f"Feishu cannot be reached at {self._http.base_url}: {type(error).__name__}") from error
        try:
            body = orjson.loads(response.content)
            code = body["code"]
            message = str(body.get("msg", ""))[:200]
        except (ValueError, KeyError, TypeError):
            metrics.FEISHU_CALLS.labels(route, f"http_{response.status_code}").inc()
            if response.status_code == 429:
                raise RateLimited("Feishu limits the rate", 0, 429, _reset(response)) from None
            kind = FeishuUnreachable if response.status_code >= 500 else FeishuError
            raise kind(f"Feishu answered HTTP {response.status_code} with no JSON of its own", 0, response.status_code) from None
        metrics.FEISHU_CALLS.labels(route, str(code)).inc()
        if code == 0 and response.is_success:
            return dict(body)
        status = response.status_code
        text = f"Feishu refused {route} with code {code}: {message}"
        if status == 429 or code in RATE_LIMIT_CODES:
            raise RateLimited(text, code, status, _reset(response))
        if code in CREDENTIAL_CODES:
            raise CredentialsRefused(text, code, status)
        if code in INVALID_TOKEN_CODES:
            raise InvalidToken(text, code, status)
        if status >= 500:
            raise FeishuUnreachable(text, code, status)
        raise FeishuError(text, code, status)


def _reset(response: httpx.Response) -> float:
    """Seconds to wait, from the header; 1 if it says nothing usable. At most 60."""
    try:
        return min(max(float(response.headers.get("x-ogw-ratelimit-reset", "1")), 0.1), 60.0)
    except ValueError:
        return 1.0
