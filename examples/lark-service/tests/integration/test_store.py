"""PostgreSQL: encryption, locks between processes, the routes' data."""

import asyncio
import json
import uuid

import httpx
import pytest

from lark_service.api import create_app
from lark_service.feishu import FeishuClient
from lark_service.services import Services
from lark_service.store import AlreadyExists, NotFound
from tests.unit.conftest import API_KEY, APP, SECRET


async def test_secrets_and_tokens_are_encrypted(services, database):
    token, _ = await services.tokens.obtain(APP)
    raw = database.execute("SELECT a.secret_encrypted, t.token_encrypted FROM applications a JOIN tokens t USING (app_id)").fetchone()
    assert SECRET.encode() not in raw[0]
    assert token.value.encode() not in raw[1]
    # OpenPGP symmetric-key packet, then data encrypted with integrity protection: pgcrypto's form.
    assert raw[0][0] == 0xC3
    async with services.store.connection() as db:
        assert await services.store.locked_app(db, APP) == SECRET


async def test_applications(services):
    assert await services.store.add_app(APP, "Example", SECRET) is False
    with pytest.raises(AlreadyExists):
        await services.store.add_app(APP, "Example", "another")
    await services.tokens.obtain(APP)
    assert await services.store.add_app(APP, "Example", "another", update=True) is True
    assert await services.store.token(APP, "tenant") is None, "tokens of the old secret must go"
    assert await services.store.set_enabled(APP, False) is True
    assert await services.store.set_enabled(APP, False) is False
    assert [app.enabled for app in await services.store.apps()] == [False]
    with pytest.raises(NotFound):
        await services.store.app("cli_unknown")


async def second_process(settings, feishu):
    """Another process: its own pool, its own client."""
    other = Services(settings, feishu=FeishuClient("http://feishu.test", 2.0, transport=httpx.MockTransport(feishu)))
    await other.store.open()
    return other


async def test_many_callers_make_one_call_of_feishu(services, settings, feishu):
    other = await second_process(settings, feishu)
    tokens = await asyncio.gather(*(each.tokens.obtain(APP) for each in (services, other) * 4))
    assert feishu.issued == 1
    assert len({token.value for token, _ in tokens}) == 1
    await other.close()


async def test_refresh_happens_once_across_processes(services, settings):
    """Ten rounds, because the race is about one process committing between another's search and its lock."""
    apps = [f"cli_more000{number}" for number in range(6)]
    await services.store.set_enabled(APP, False)
    for app in apps:
        await services.store.add_app(app, "More", SECRET)
    asked = []

    async def answer(request):
        await asyncio.sleep(0.002)
        asked.append(json.loads(request.content)["app_id"])
        return httpx.Response(200, json={"code": 0, "tenant_access_token": f"t-{len(asked)}", "expire": 7200})

    others = [Services(settings, feishu=FeishuClient("http://feishu.test", 2.0, transport=httpx.MockTransport(answer))) for _ in range(4)]
    for each in others:
        await each.store.open()
    for _ in range(10):
        async with services.store.connection() as db:
            await db.execute("UPDATE tokens SET expires_at = now() + interval '5 minutes'")
        asked.clear()
        results = await asyncio.gather(*(each.tokens.refresh_due() for each in others))
        assert sorted(asked) == apps
        assert sorted(token.app_id for result in results for token in result.refreshed) == apps
    for each in others:
        await each.close()


async def test_a_token_within_the_margin_is_refreshed_and_the_new_one_kept(services, feishu):
    feishu.expire = 300
    before, _ = await services.tokens.obtain(APP)
    feishu.expire = 7200
    result = await services.tokens.refresh_due()
    assert [token.app_id for token in result.refreshed] == [APP]
    after = await services.store.token(APP, "tenant")
    assert after.value != before.value
    assert after.remaining_s > 7000
    assert (await services.tokens.refresh_due()).refreshed == []


async def test_sessions(services, database):
    session = await services.store.start_session(APP, 600)
    assert (await services.store.session(uuid.UUID(session["session_id"])))["expired"] is False
    assert await services.store.prune_sessions() == 0
    database.execute("UPDATE user_auth_sessions SET expires_at = now() - interval '2 days'")
    assert (await services.store.session(uuid.UUID(session["session_id"])))["expired"] is True
    assert await services.store.prune_sessions() == 1
    with pytest.raises(NotFound):
        await services.store.session(uuid.UUID(session["session_id"]))


async def test_connections_say_who_they_are(services, database):
    await services.store.ping()
    assert (
        database.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lark-service' AND datname = current_database()"
        ).fetchone()[0]
        >= 1
    )


async def test_the_api_over_everything(services):
    transport = httpx.ASGITransport(app=create_app(services))
    async with httpx.AsyncClient(transport=transport, base_url="http://lark.test", headers={"X-API-Key": API_KEY}) as http:
        assert (await http.get("/health")).json()["status"] == "healthy"
        assert (await http.get(f"/v1/users/{APP}/ou_1")).json()["source"] == "feishu"
        assert (await http.get(f"/v1/users/{APP}/ou_1")).json()["source"] == "cache"
        answer = await http.post(f"/v1/apps/{APP}/messages", json={"receive_id": "ou_1", "text": "hello"})
        state = (await http.get(answer.headers["location"])).json()
        assert (answer.status_code, state["status"], state["receive_id"]) == (202, "queued", "ou_1")
        assert (await http.post("/v1/apps/cli_unknown/messages", json={"receive_id": "ou_1", "text": "x"})).status_code == 404
    assert await services.store.gauges() == {"tokens": [(APP, "tenant", pytest.approx(7200, abs=10))], "messages": {"queued": 1}}


async def test_health_sees_a_database_that_goes_away(services, database):
    assert (await services.health.report())[0] == 200
    await services.store.close()
    status, body = await services.health.report()
    assert (status, body["dependencies"]["database"]["status"]) == (503, "unhealthy")
    await services.store.open()
    database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'lark-service' AND datname = current_database()"
    )
    assert (await services.health.report())[0] == 200, "a connection that the server ended is replaced"
