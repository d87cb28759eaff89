"""RabbitMQ: confirmed publishing, the worker's life, retries and dead letters."""

import asyncio
import json
import uuid

import aio_pika
import httpx
import pytest

from lark_service.broker import DEAD, QUEUE, BrokerUnavailable
from lark_service.messages import NewMessage
from lark_service.worker import Worker
from tests.unit.conftest import APP

from .conftest import depth, take


async def until(condition, seconds=10.0):
    """Waits until `condition()` is true; fails after `seconds`."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.05)


class running:
    """`async with running(services)`: a worker, stopped as by SIGTERM at the end."""

    def __init__(self, services):
        self.stop = asyncio.Event()
        self.services = services
        # The worker opens and closes its services; here they are the test's.
        self.worker = Worker(services)

    async def __aenter__(self):
        self.task = asyncio.create_task(self._run())
        return self

    async def _run(self):
        queue = await self.services.broker.channel.get_queue(QUEUE)
        tag = await queue.consume(self.worker.handle)
        await self.stop.wait()
        await queue.cancel(tag)
        await self.worker._idle.wait()

    async def __aexit__(self, *_):
        self.stop.set()
        await self.task


async def accept(services, **changes):
    new = NewMessage(**{"receive_id": "ou_1", "text": "hello", **changes})
    return await services.messages.accept(APP, new, "r-1")


async def status(services, message_id):
    return (await services.messages.get(message_id))["status"]


async def test_a_message_is_queued_and_sent(services, feishu):
    message_id = await accept(services)
    assert await depth(services.broker, QUEUE) == 1
    async with running(services):
        await until(lambda: _is(services, message_id, "sent"))
    assert [sent["uuid"] for sent in feishu.sent] == [str(message_id)]
    assert await depth(services.broker, QUEUE) == 0


async def _is(services, message_id, wanted):
    return await status(services, message_id) == wanted


async def test_the_queue_holds_version_1(services):
    message_id = await accept(services)
    delivery = await take(services.broker, QUEUE)
    body = json.loads(delivery.body)
    assert (body["version"], body["id"], delivery.type, delivery.content_type) == (1, str(message_id), "message.v1", "application/json")
    assert delivery.delivery_mode == aio_pika.DeliveryMode.PERSISTENT


@pytest.mark.parametrize("body", [{"version": 2, "id": "x"}, {"version": 1}, "no json"])
async def test_what_is_not_understood_becomes_a_dead_letter(services, feishu, body):
    async with running(services):
        raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        await services.broker.channel.default_exchange.publish(aio_pika.Message(raw), routing_key=QUEUE)
        await until(lambda: _has(services, DEAD, 1))
    assert (await take(services.broker, DEAD)).body == raw
    assert feishu.sent == []


async def _has(services, queue, count):
    return await depth(services.broker, queue) == count


async def test_rate_limit_is_waited_for_and_the_message_is_sent(services, feishu):
    await services.tokens.obtain(APP)
    feishu.answers = [httpx.Response(429, json={"code": 99991400, "msg": "limit"}, headers={"x-ogw-ratelimit-reset": "0.5"})]
    message_id = await accept(services)
    async with running(services):
        await until(lambda: _is(services, message_id, "retrying"))
        await until(lambda: _is(services, message_id, "sent"))
    assert (await services.messages.get(message_id))["attempts"] == 2


async def test_refused_for_good(services, feishu):
    await services.tokens.obtain(APP)
    feishu.answers = [httpx.Response(400, json={"code": 230001, "msg": "invalid receive_id"})]
    message_id = await accept(services)
    async with running(services):
        await until(lambda: _is(services, message_id, "failed"))
        await until(lambda: _has(services, DEAD, 1))
    assert "230001" in (await services.messages.get(message_id))["error"]


async def test_what_was_sent_stays_sent(services):
    message_id = await accept(services)
    await services.messages.settle(message_id, "sent", attempts=1, feishu_message_id="om_1")
    await services.messages.settle(message_id, "failed", error="late")
    assert await status(services, message_id) == "sent"
    assert await services.messages.is_sent(message_id)
    assert not await services.messages.is_sent(uuid.uuid4())


async def test_a_queue_that_is_missing_is_noticed(services):
    assert await services.broker.ping() < 2000
    channel = await services.broker._connection.channel()
    await channel.queue_delete(QUEUE)
    try:
        with pytest.raises(BrokerUnavailable):
            await services.broker.ping()
        with pytest.raises(BrokerUnavailable):
            await services.broker.publish({"version": 1}, QUEUE)
    finally:
        await services.broker.close()
        await services.broker.connect()
    assert await services.broker.ping() < 2000
