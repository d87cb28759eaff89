"""The HTTP API: authentication, each route, and each way in which something it needs can fail."""

import asyncio
import uuid

import asyncpg
import httpx
import pytest
from prometheus_client import REGISTRY

from lark_service import __version__
from lark_service.api import create_app

from .conftest import APP

ROUTES = ["/v1/apps", f"/v1/apps/{APP}/token", f"/v1/users/{APP}/ou_1", f"/v1/messages/{uuid.uuid4()}", f"/v1/auth-sessions/{uuid.uuid4()}"]


@pytest.mark.parametrize("key", ["", "wrong", "k" * 39, "ü"])
@pytest.mark.parametrize("route", ROUTES)
async def test_every_route_wants_the_key(http, route, key):
    answer = await http.get(route, headers={"X-API-Key": key.encode()})
    assert answer.status_code == 401
    assert answer.json()["ok"] is False


async def test_health_is_open_and_complete(http, services):
    await services.health.ask_feishu()
    answer = await http.get("/health", headers={"X-API-Key": ""})
    body = answer.json()
    assert (answer.status_code, body["status"]) == (200, "healthy")
    assert (body["version"], body["release"], body["slot"]) == (__version__, "3-0.1.0", "green")
    assert {name: state["status"] for name, state in body["dependencies"].items()} == {
        "database": "healthy",
        "broker": "healthy",
        "feishu": "healthy",
    }


@pytest.mark.parametrize("broken", ["database", "broker", "login"])
async def test_a_dependency_that_is_away_is_unhealthy_and_503(http, services, broken):
    if broken == "broker":
        services.broker.fail = True
    else:
        services.store.fail = OSError("refused") if broken == "database" else asyncpg.InvalidPasswordError("no")
    answer = await http.get("/health")
    body = answer.json()
    assert (answer.status_code, body["status"]) == (503, "unhealthy")
    assert body["dependencies"]["broker" if broken == "broker" else "database"]["status"] == "unhealthy"


async def test_feishu_away_is_degraded_but_not_unhealthy(http, services, feishu):
    feishu.answers = [httpx.ConnectError("refused")]
    await services.health.ask_feishu()
    answer = await http.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "healthy")
    assert answer.json()["dependencies"]["feishu"]["status"] == "degraded"


async def test_apps_without_secrets(http, registered):
    body = (await http.get("/v1/apps")).json()
    assert [app["app_id"] for app in body["apps"]] == [APP]
    assert "secret" not in str(body)


async def test_token_is_shown_only_if_asked_for(http, registered):
    body = (await http.get(f"/v1/apps/{APP}/token")).json()
    assert (body["source"], body["length"], body["kind"]) == ("feishu", 16, "tenant")
    assert "t-token" not in str(body)
    shown = (await http.get(f"/v1/apps/{APP}/token?reveal=true")).json()
    assert (shown["source"], shown["token"]) == ("store", "t-token-number-1")
    assert (await http.get(f"/v1/apps/{APP}/token?kind=app")).json()["kind"] == "app"
    assert (await http.get(f"/v1/apps/{APP}/token?kind=other")).status_code == 422


async def test_message_is_queued_as_version_1(http, registered):
    answer = await http.post(f"/v1/apps/{APP}/messages", json={"receive_id": "ou_1", "text": "hello"}, headers={"X-Request-Id": "my-id.1"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (202, "my-id.1")
    [(queue, body)] = registered.broker.published
    assert (queue, body["version"], body["text"], body["request_id"]) == ("lark.messages", 1, "hello", "my-id.1")
    state = (await http.get(answer.headers["location"])).json()
    assert (state["id"], state["status"]) == (answer.json()["id"], "queued")


async def test_message_is_not_accepted_without_broker_app_or_sense(http, registered):
    url = f"/v1/apps/{APP}/messages"
    good = {"receive_id": "ou_1", "text": "hello"}
    for bad in ({}, {**good, "text": ""}, {**good, "receive_id_type": "phone"}, {**good, "more": 1}):
        assert (await http.post(url, json=bad)).status_code == 422
    assert (await http.post("/v1/apps/cli_unknown/messages", json=good)).status_code == 404
    registered.broker.fail = True
    assert (await http.post(url, json=good)).json()["error"]["code"] == "broker_unavailable"
    assert [state["status"] for state in registered.messages.states.values()] == ["failed"]
    await registered.store.set_enabled(APP, False)
    assert (await http.post(url, json=good)).status_code == 409


async def test_a_refused_value_is_not_repeated(http, registered):
    answer = await http.post(f"/v1/apps/{APP}/messages", json={"receive_id": "ou_1", "text": "x" * 40_000})
    assert answer.status_code == 422
    assert "xxx" not in answer.text


async def test_user_from_feishu_then_from_the_cache(http, registered, feishu):
    first = (await http.get(f"/v1/users/{APP}/ou_1")).json()
    assert (first["source"], first["user"]["name"]) == ("feishu", "User ou_1")
    calls = len(feishu.calls)
    assert (await http.get(f"/v1/users/{APP}/ou_1")).json()["source"] == "cache"
    assert len(feishu.calls) == calls


async def test_an_old_user_is_better_than_none(http, registered, feishu):
    await registered.tokens.obtain(APP)
    registered.store.users[APP, "ou_1"] = {"open_id": "ou_1", "name": "Old", "age_s": 1e9}
    feishu.answers = [httpx.ConnectError("refused")]
    assert (await http.get(f"/v1/users/{APP}/ou_1")).json()["source"] == "stale"
    feishu.answers = [httpx.ConnectError("refused")]
    assert (await http.get(f"/v1/users/{APP}/ou_2")).status_code == 502


async def test_sessions(http, registered):
    made = await http.post(f"/v1/apps/{APP}/auth-sessions")
    assert made.status_code == 201
    assert (await http.get(f"/v1/auth-sessions/{made.json()['session_id']}")).json()["expired"] is False
    assert (await http.get(f"/v1/auth-sessions/{uuid.uuid4()}")).status_code == 404
    assert (await http.post("/v1/apps/cli_unknown/auth-sessions")).status_code == 404


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (httpx.Response(429, json={"code": 99991400, "msg": "limit"}, headers={"x-ogw-ratelimit-reset": "3"}), 503, "feishu_rate_limit"),
        (httpx.Response(200, json={"code": 10014, "msg": "app secret invalid"}), 502, "feishu_credentials_refused"),
        (httpx.ConnectError("refused"), 502, "feishu_failed"),
    ],
)
async def test_feishu_failures(http, registered, feishu, answer, status, code):
    feishu.answers = [answer]
    got = await http.get(f"/v1/apps/{APP}/token")
    assert (got.status_code, got.json()["error"]["code"]) == (status, code)
    assert got.json()["error"]["request_id"] == got.headers["x-request-id"]
    if status == 503:
        assert got.headers["retry-after"] == "3"


@pytest.mark.parametrize(
    "error", [OSError("x"), TimeoutError(), asyncpg.TooManyConnectionsError("x"), asyncpg.ConnectionDoesNotExistError("x")]
)
async def test_database_away_is_503(http, registered, error):
    registered.store.fail = error
    answer = await http.get("/v1/apps")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "database_unavailable")


@pytest.mark.parametrize("given", ["with space", "a" * 65, "x\ny", ""])
async def test_a_request_id_that_is_none_is_replaced(http, given):
    answer = await http.get("/health", headers={"X-Request-Id": given.encode()})
    assert answer.headers["x-request-id"] not in ("", given)


async def test_requests_are_counted_and_none_stays_in_flight(http, registered):
    labels = {"method": "GET", "route": "/v1/apps", "status": "200"}
    before = REGISTRY.get_sample_value("lark_service_requests_total", labels) or 0
    await http.get("/v1/apps")
    assert REGISTRY.get_sample_value("lark_service_requests_total", labels) == before + 1
    await http.get("/no/such/route/with-an-id")
    assert REGISTRY.get_sample_value("lark_service_requests_total", {"method": "GET", "route": "unmatched", "status": "404"})
    assert REGISTRY.get_sample_value("lark_service_in_flight_requests") == 0


async def test_unexpected_error_is_500_and_leaves_nothing_in_flight(http, registered):
    registered.store.fail = ValueError("a bug")
    assert (await http.get("/v1/apps")).status_code == 500
    assert REGISTRY.get_sample_value("lark_service_in_flight_requests") == 0


async def test_docs_are_there(http):
    assert (await http.get("/docs")).status_code == 200
    assert "/v1/apps/{app_id}/messages" in (await http.get("/openapi.json")).json()["paths"]


async def test_life_from_start_to_end(services):
    app = create_app(services)
    async with app.router.lifespan_context(app):
        await asyncio.sleep(0.05)
        assert REGISTRY.get_sample_value("lark_service_messages", {"status": "sent"}) == 2
