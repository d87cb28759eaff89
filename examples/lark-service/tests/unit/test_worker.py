"""What the worker does with each kind of delivery."""

import json
import uuid

import httpx
import pytest

from lark_service.worker import Worker

from .conftest import APP


class Delivery:
    """A delivered message that remembers how it was settled."""

    message_id = "m"
    type = "message"

    def __init__(self, body):
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.settled = []

    async def ack(self):
        self.settled.append("ack")

    async def nack(self, requeue):
        self.settled.append(f"nack requeue={requeue}")

    async def reject(self, requeue):
        self.settled.append(f"reject requeue={requeue}")


def message(**changes):
    return {
        "version": 1,
        "id": str(uuid.uuid4()),
        "app_id": APP,
        "receive_id_type": "open_id",
        "receive_id": "ou_1",
        "text": "hello",
        **changes,
    }


async def handle(services, body):
    delivery = Delivery(body)
    await Worker(services).handle(delivery)
    state = services.messages.states.get(uuid.UUID(body["id"]), {}) if isinstance(body, dict) and "id" in body else {}
    return delivery.settled, state.get("status")


async def test_sent(registered, feishu):
    body = message()
    assert await handle(registered, body) == (["ack"], "sent")
    assert feishu.sent[0]["uuid"] == body["id"]
    assert json.loads(feishu.sent[0]["content"]) == {"text": "hello"}


async def test_delivered_twice_is_sent_once(registered, feishu):
    body = message()
    await handle(registered, body)
    assert await handle(registered, body) == (["ack"], "sent")
    assert len(feishu.sent) == 1


@pytest.mark.parametrize(
    "body", [b"no json", b"[]", message(version=2), message(version="1.0"), {"version": 1}, message(receive_id_type="phone")]
)
async def test_what_is_not_understood_goes_to_the_dead_letters(registered, feishu, body):
    settled, _ = await handle(registered, body)
    assert settled == ["reject requeue=False"]
    assert feishu.calls == []


@pytest.mark.parametrize(
    ("answer", "queue"),
    [
        (httpx.Response(429, json={"code": 99991400, "msg": "limit"}, headers={"x-ogw-ratelimit-reset": "4"}), "lark.messages.retry.5000"),
        (httpx.ConnectError("refused"), "lark.messages.retry.1000"),
        (httpx.Response(500, text="oops"), "lark.messages.retry.1000"),
    ],
)
async def test_retried_later(registered, feishu, answer, queue):
    await registered.tokens.obtain(APP)
    feishu.answers = [answer]
    body = message()
    assert await handle(registered, body) == (["ack"], "retrying")
    [(used, again)] = registered.broker.published
    assert (used, again["attempt"], again["id"]) == (queue, 2, body["id"])


async def test_retries_end(registered, feishu):
    await registered.tokens.obtain(APP)
    feishu.answers = [httpx.ConnectError("refused")]
    assert await handle(registered, message(attempt=6)) == (["reject requeue=False"], "failed")
    assert registered.broker.published == []


async def test_refused_for_good(registered, feishu):
    await registered.tokens.obtain(APP)
    feishu.answers = [httpx.Response(400, json={"code": 230001, "msg": "invalid receive_id"})]
    assert await handle(registered, message()) == (["reject requeue=False"], "failed")
    assert await handle(registered, message(app_id="cli_unknown")) == (["reject requeue=False"], "failed")


async def test_database_away_is_retried(registered, feishu):
    registered.store.fail = OSError("refused")
    settled, _ = await handle(registered, message())
    assert settled == ["ack"]
    assert registered.broker.published[0][1]["attempt"] == 2


async def test_nothing_is_lost_when_the_retry_cannot_be_queued(registered, feishu, monkeypatch):
    async def no_wait(_seconds):
        pass

    monkeypatch.setattr("lark_service.worker.asyncio.sleep", no_wait)
    registered.store.fail = OSError("refused")
    registered.broker.fail = True
    assert (await handle(registered, message()))[0] == ["nack requeue=True"]


async def test_a_lost_connection_does_not_end_the_worker(registered, feishu):
    class Gone(Delivery):
        async def ack(self):
            raise ConnectionError("gone")

    await Worker(registered).handle(Gone(message()))
