"""The Feishu client tells the kinds of refusal apart, because they are treated differently."""

import httpx
import pytest

from lark_service.feishu import (
    CredentialsRefused,
    FeishuClient,
    FeishuError,
    FeishuUnreachable,
    InvalidToken,
    IssuedToken,
    RateLimited,
)

from .conftest import APP, SECRET, Feishu


def client(answer):
    return FeishuClient("http://feishu.test", 1.0, transport=httpx.MockTransport(answer if callable(answer) else lambda _: answer))


async def test_success():
    feishu = client(Feishu())
    token = await feishu.issue_token(APP, SECRET)
    assert (token.value, token.expires_in) == ("t-token-number-1", 7200)
    assert "t-token" not in repr(token)
    assert await feishu.send_text(token.value, "open_id", "ou_1", 'with "quotes" and ü', "u1") == "om_1"
    assert (await feishu.user(token.value, "ou_1"))["open_id"] == "ou_1"
    assert await feishu.reachable()
    await feishu.close()


@pytest.mark.parametrize(
    ("status", "body", "headers", "kind"),
    [
        (200, {"code": 10014, "msg": "app secret invalid"}, {}, CredentialsRefused),
        (200, {"code": 10003, "msg": "invalid param"}, {}, CredentialsRefused),
        (400, {"code": 99991663, "msg": "Invalid access token"}, {}, InvalidToken),
        (429, {"code": 99991400, "msg": "request trigger frequency limit"}, {"x-ogw-ratelimit-reset": "7"}, RateLimited),
        (400, {"code": 99991400, "msg": "request trigger frequency limit"}, {}, RateLimited),
        (400, {"code": 230001, "msg": "invalid receive_id"}, {}, FeishuError),
        (500, {"code": 1, "msg": "internal"}, {}, FeishuUnreachable),
    ],
)
async def test_refusals(status, body, headers, kind):
    with pytest.raises(FeishuError) as refused:
        await client(httpx.Response(status, json=body, headers=headers)).issue_token(APP, SECRET)
    assert type(refused.value) is kind
    assert refused.value.code == body["code"]
    if headers:
        assert refused.value.retry_after == 7


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (httpx.Response(200, text="<html>"), FeishuError),
        (httpx.Response(200, json=[]), FeishuError),
        (httpx.Response(502, text="bad gateway"), FeishuUnreachable),
        (httpx.Response(429, text="slow down", headers={"x-ogw-ratelimit-reset": "soon"}), RateLimited),
        (httpx.Response(200, json={"code": 0, "msg": "ok"}), FeishuError),
        (httpx.Response(200, json={"code": 0, "tenant_access_token": "t", "expire": 0}), FeishuError),
    ],
)
async def test_answers_that_are_none(response, kind):
    with pytest.raises(FeishuError) as refused:
        await client(response).issue_token(APP, SECRET)
    assert type(refused.value) is kind


async def test_half_answers_are_no_success():
    with pytest.raises(FeishuError, match="message_id"):
        await client(httpx.Response(200, json={"code": 0, "data": {}})).send_text("t", "open_id", "ou_1", "x", "u")
    with pytest.raises(FeishuError, match="user asked for"):
        await client(httpx.Response(200, json={"code": 0, "data": {"user": {"open_id": "ou_other"}}})).user("t", "ou_1")


async def test_unreachable():
    def refuse(_request):
        raise httpx.ConnectError("refused")

    feishu = client(refuse)
    with pytest.raises(FeishuUnreachable, match="ConnectError"):
        await feishu.issue_token(APP, SECRET)
    assert not await feishu.reachable()
    assert not await client(httpx.Response(503)).reachable()


def test_a_token_does_not_show_itself():
    assert "secret" not in f"{IssuedToken('secret-value', 5)}"
