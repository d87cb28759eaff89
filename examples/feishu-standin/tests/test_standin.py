"""The stand-in answers as the real API does: codes, token life, rate limit, repeated messages."""

import json

import pytest
from starlette.testclient import TestClient

from feishu_standin import __version__
from feishu_standin.app import Feishu, create_app, from_environment

APP, SECRET = "cli_example0001", "a-secret-of-the-tests"


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def feishu(clock):
    return Feishu({APP: SECRET}, clock=clock)


@pytest.fixture
def http(feishu):
    return TestClient(create_app(feishu))


def token(http, secret=SECRET, app=APP, kind="tenant"):
    return http.post(f"/open-apis/auth/v3/{kind}_access_token/internal", json={"app_id": app, "app_secret": secret})


def send(http, access, receive_id="ou_1", uuid="u1", content=None, id_type="open_id"):
    return http.post(
        f"/open-apis/im/v1/messages?receive_id_type={id_type}",
        json={"receive_id": receive_id, "msg_type": "text", "content": content or json.dumps({"text": "hello"}), "uuid": uuid},
        headers={"Authorization": f"Bearer {access}"},
    )


def test_every_answer_says_that_it_is_a_stand_in(http):
    for path in ("/healthz", "/standin/received", "/no/such/route"):
        assert http.get(path).headers["x-stand-in"] == f"feishu-standin/{__version__}"
    assert http.get("/healthz").json()["status"] == "healthy"


def test_credentials_are_checked_with_http_200(http):
    assert token(http).json()["code"] == 0
    for response, code in ((token(http, secret="wrong"), 10014), (token(http, app="cli_unknown0001"), 10003)):
        assert (response.status_code, response.json()["code"]) == (200, code)
    assert http.post("/open-apis/auth/v3/tenant_access_token/internal", content=b"no json").json()["code"] == 10003


def test_a_token_is_the_same_until_half_an_hour_is_left_and_both_work_then(http, clock):
    first = token(http).json()
    assert first["expire"] == 7200
    clock.now += 5400
    again = token(http).json()
    assert (again["tenant_access_token"], again["expire"]) == (first["tenant_access_token"], 1800)
    clock.now += 1
    new = token(http).json()
    assert new["tenant_access_token"] != first["tenant_access_token"]
    assert send(http, first["tenant_access_token"]).status_code == 200
    clock.now += 1800
    late = send(http, first["tenant_access_token"])
    assert (late.status_code, late.json()["code"]) == (400, 99991663)


def test_app_token(http):
    body = token(http, kind="app").json()
    assert body["app_access_token"].startswith("a-")


def test_messages_need_a_token_and_valid_parameters(http):
    missing = http.post("/open-apis/im/v1/messages?receive_id_type=open_id", json={})
    assert (missing.status_code, missing.json()["code"]) == (400, 99991661)
    access = token(http).json()["tenant_access_token"]
    bad = [
        send(http, access, receive_id="somebody"),
        send(http, access, content="no json"),
        send(http, access, id_type="telephone"),
    ]
    assert [(r.status_code, r.json()["code"]) for r in bad] == [(400, 230001)] * 3
    assert http.get("/standin/received").json()["count"] == 0


def test_a_uuid_is_sent_once_within_an_hour(http, clock):
    access = token(http).json()["tenant_access_token"]
    ids = {send(http, access, uuid="same").json()["data"]["message_id"] for _ in range(3)}
    assert len(ids) == 1
    body = http.get("/standin/received?uuid=same").json()
    assert [(m["receive_id"], m["text"], m["app_id"]) for m in body["messages"]] == [("ou_1", "hello", APP)]
    assert (body["count"], body["messages_taken"]) == (1, 1)
    clock.now += 3601
    assert send(http, access, uuid="same").json()["data"]["message_id"] not in ids
    http.delete("/standin/received")
    assert http.get("/standin/received").json()["count"] == 0


def test_users(http):
    access = token(http).json()["tenant_access_token"]
    headers = {"Authorization": f"Bearer {access}"}
    user = http.get("/open-apis/contact/v3/users/ou_anna?user_id_type=open_id", headers=headers).json()["data"]["user"]
    assert (user["open_id"], user["en_name"]) == ("ou_anna", "anna")
    hidden = http.get("/open-apis/contact/v3/users/x", headers=headers)
    assert (hidden.status_code, hidden.json()["code"]) == (400, 41050)


def test_rate_limit(clock):
    feishu = Feishu({APP: SECRET}, rate_limit=2, clock=clock)
    http = TestClient(create_app(feishu))
    access = token(http).json()["tenant_access_token"]
    answers = [send(http, access, uuid=str(i)) for i in range(3)]
    assert [a.status_code for a in answers] == [200, 200, 429]
    assert answers[2].json()["code"] == 99991400
    assert 0 < float(answers[2].headers["x-ogw-ratelimit-reset"]) <= 1
    clock.now += 1
    assert send(http, access, uuid="3").status_code == 200


@pytest.mark.parametrize(
    ("environ", "key"),
    [
        ({}, "STANDIN_APPS"),
        ({"STANDIN_APPS": "[]"}, "STANDIN_APPS"),
        ({"STANDIN_APPS": '{"a": "b"}', "TOKEN_EXPIRE_S": "0"}, "TOKEN_EXPIRE_S"),
    ],
)
def test_configuration_is_refused_by_key(environ, key):
    with pytest.raises(ValueError, match=key):
        from_environment(environ)


def test_configuration():
    feishu = from_environment({"STANDIN_APPS": json.dumps({APP: SECRET}), "TOKEN_EXPIRE_S": "1200", "RATE_LIMIT_PER_S": "5"})
    assert (feishu.token_expire_s, feishu.rate.limit) == (1200, 5)
