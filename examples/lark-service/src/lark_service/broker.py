"""RabbitMQ: the queue of messages to send, its retry queues and its dead letters.

    lark.messages            -> the worker; refused messages go to lark.messages.dead
    lark.messages.retry.<ms> -> nobody reads; after <ms> a message goes back to lark.messages
    lark.messages.dead       -> kept for a person

The arguments of a queue cannot change once it exists, and two versions of the service share these queues: a change needs new names.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import suppress
from typing import Any

import aio_pika
import orjson
from aio_pika.abc import AbstractRobustChannel, AbstractRobustConnection

from lark_service import logs
from lark_service.settings import Settings

QUEUE = "lark.messages"
DEAD = "lark.messages.dead"
RETRY_MS = (1_000, 5_000, 30_000)
# Of these, a later attempt may go well.
UNAVAILABLE = (OSError, TimeoutError, asyncio.TimeoutError, ConnectionError, aio_pika.exceptions.AMQPError)

log = logs.get(__name__)


def retry_queue(delay_s: float) -> str:
    """The retry queue with the shortest wait that is not below `delay_s`."""
    wait = next((ms for ms in RETRY_MS if ms >= delay_s * 1000), RETRY_MS[-1])
    return f"{QUEUE}.retry.{wait}"


class BrokerUnavailable(Exception):
    """The broker did not take a message; nothing was queued."""


class Broker:
    """One connection that comes back by itself, with publisher confirms."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.broker_url.get_secret_value()
        # One context for both, verifying against the environment's own CA; options in the URL cannot weaken it.
        self._tls = ssl.create_default_context(cafile=settings.broker_ca_file) if self._url.startswith("amqps") else None
        self._connection: AbstractRobustConnection | None = None
        self._connector: asyncio.Task[None] | None = None
        self.channel: AbstractRobustChannel | None = None

    def start(self) -> None:
        """Connects in the background and keeps trying: a service whose broker is away starts, and says so in /health."""
        self._connector = asyncio.create_task(self._keep_trying())

    async def _keep_trying(self) -> None:
        wait = 1.0
        while True:
            try:
                await self.connect()
                return
            except UNAVAILABLE as error:
                log.warning("broker_unreachable", reason=type(error).__name__, retry_in_s=wait)
                await asyncio.sleep(wait)
                wait = min(wait * 2, 15)

    async def connect(self) -> None:
        """Connects and declares the queues. Raises what `UNAVAILABLE` lists."""
        connection = await aio_pika.connect_robust(
            self._url, ssl_context=self._tls, timeout=5, reconnect_interval=2, client_properties={"connection_name": "lark-service"}
        )
        try:
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            await channel.declare_queue(DEAD, durable=True)
            await channel.declare_queue(QUEUE, durable=True, arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": DEAD})
            for wait in RETRY_MS:
                await channel.declare_queue(
                    f"{QUEUE}.retry.{wait}",
                    durable=True,
                    arguments={"x-message-ttl": wait, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": QUEUE},
                )
        except BaseException:
            await connection.close()
            raise
        self._connection, self.channel = connection, channel

    async def close(self) -> None:
        """Stops connecting and closes the connection."""
        if self._connector:
            self._connector.cancel()
            with suppress(asyncio.CancelledError):
                await self._connector
        if self._connection:
            await self._connection.close()

    async def publish(self, body: dict[str, Any], queue: str = QUEUE, timeout: float = 5) -> None:
        """Puts one message into a queue and returns when the broker has it on disk.

        Raises:
            BrokerUnavailable: not connected, refused, or no confirmation within `timeout` seconds.
        """
        if self.channel is None:
            raise BrokerUnavailable("not connected to the broker")
        message = aio_pika.Message(
            orjson.dumps(body),
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=str(body.get("id", "")),
            type=f"message.v{body.get('version')}",
        )
        try:
            await self.channel.default_exchange.publish(message, routing_key=queue, mandatory=True, timeout=timeout)
        except (*UNAVAILABLE, RuntimeError) as error:
            raise BrokerUnavailable(f"the broker did not take the message: {type(error).__name__}") from error

    async def ping(self) -> float:
        """Milliseconds of one round trip that also proves that the queue exists. Raises BrokerUnavailable."""
        connection = self._connection
        if connection is None or not connection.connected.is_set():
            raise BrokerUnavailable("not connected to the broker")
        started = time.perf_counter()
        try:
            # A channel of its own: a queue that is missing closes the channel it was asked on.
            async with asyncio.timeout(2), connection.channel(publisher_confirms=False) as channel:
                await channel.declare_queue(QUEUE, passive=True)
        except (*UNAVAILABLE, RuntimeError) as error:
            raise BrokerUnavailable(f"the broker did not answer: {type(error).__name__}") from error
        return (time.perf_counter() - started) * 1000
