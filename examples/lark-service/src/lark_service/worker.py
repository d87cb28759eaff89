"""The worker: `lark-service-worker`. Sends queued messages.

    sent                          acknowledged
    rate limit, Feishu or the     put into a retry queue with a growing wait, MESSAGE_ATTEMPTS_MAX times in all
    database away
    refused for good              recorded as failed, put into the dead letters
    unknown version, malformed    put into the dead letters as it is: a newer release may have written it

A message may be delivered twice; Feishu sends one with the same uuid only once, and what is recorded as sent is not sent again.
SIGTERM: no new messages, those begun are finished within DRAIN_DEADLINE_S, the rest goes back to the queue by itself.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

import structlog
import uvloop
from aio_pika.abc import AbstractIncomingMessage
from pydantic import ValidationError

from lark_service import logs
from lark_service.broker import QUEUE, UNAVAILABLE, BrokerUnavailable, retry_queue
from lark_service.feishu import FeishuError, FeishuUnreachable, RateLimited
from lark_service.messages import QueuedMessage
from lark_service.services import Services
from lark_service.settings import EX_CONFIG, ConfigurationError, load
from lark_service.store import UNAVAILABLE as DATABASE_UNAVAILABLE
from lark_service.store import AppDisabled, NotFound

PREFETCH = 10

log = logs.get(__name__)


class Worker:
    """Handles one delivery at a time in each of up to PREFETCH tasks."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def handle(self, delivery: AbstractIncomingMessage) -> None:
        """Handles one delivery to its end; never raises for what the outside world does."""
        self._in_flight += 1
        self._idle.clear()
        try:
            await self._handle(delivery)
        except (*UNAVAILABLE, RuntimeError) as error:
            # The connection to the broker is gone: it delivers the message again.
            log.warning("delivery_not_settled", reason=type(error).__name__)
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def _handle(self, delivery: AbstractIncomingMessage) -> None:
        structlog.contextvars.clear_contextvars()
        try:
            message = QueuedMessage.model_validate_json(delivery.body)
        except ValidationError as error:
            fields = [".".join(map(str, item["loc"])) for item in error.errors(include_input=False)]
            log.error("message_not_understood", message_id=delivery.message_id, type=delivery.type, fields=fields)
            await delivery.reject(requeue=False)
            return
        structlog.contextvars.bind_contextvars(request_id=message.request_id, message_id=str(message.id), app_id=message.app_id)
        try:
            await self._send(message)
        except (RateLimited, FeishuUnreachable, *DATABASE_UNAVAILABLE) as error:
            await self._again(delivery, message, error)
        except (FeishuError, NotFound, AppDisabled) as error:
            await self._give_up(delivery, message, error)
        else:
            await delivery.ack()

    async def _send(self, message: QueuedMessage) -> None:
        messages = self._services.messages
        if await messages.is_sent(message.id):
            log.info("message_was_sent_before")
            return
        feishu_id = await self._services.tokens.send_with_token(
            message.app_id, message.receive_id_type, message.receive_id, message.text, str(message.id)
        )
        await messages.settle(message.id, "sent", attempts=message.attempt, feishu_message_id=feishu_id)
        log.info("message_sent", attempt=message.attempt, feishu_message_id=feishu_id)

    async def _again(self, delivery: AbstractIncomingMessage, message: QueuedMessage, error: Exception) -> None:
        if message.attempt >= self._services.settings.message_attempts_max:
            await self._give_up(delivery, message, error)
            return
        wait = max(2.0 ** (message.attempt - 1), getattr(error, "retry_after", 0.0))
        log.warning("message_will_be_retried", attempt=message.attempt, wait_s=wait, reason=str(error) or type(error).__name__)
        body = {**message.model_dump(mode="json"), "attempt": message.attempt + 1}
        try:
            await self._services.broker.publish(body, retry_queue(wait))
        except BrokerUnavailable:
            await asyncio.sleep(1)  # not at full speed while the broker is ailing
            await delivery.nack(requeue=True)
            return
        await delivery.ack()
        await self._record(message, "retrying", error)

    async def _give_up(self, delivery: AbstractIncomingMessage, message: QueuedMessage, error: Exception) -> None:
        log.error("message_failed", attempt=message.attempt, reason=str(error) or type(error).__name__)
        await self._record(message, "failed", error)
        await delivery.reject(requeue=False)

    async def _record(self, message: QueuedMessage, status: str, error: Exception) -> None:
        reason = str(error) or type(error).__name__
        try:
            await self._services.messages.settle(message.id, status, attempts=message.attempt, error=reason[:500])
        except DATABASE_UNAVAILABLE as problem:
            log.error("message_state_not_recorded", status=status, reason=type(problem).__name__)

    async def run(self, stop: asyncio.Event) -> None:
        """Consumes until `stop` is set, then finishes what was begun."""
        services = self._services
        await services.open()
        while services.broker.channel is None and not stop.is_set():
            await asyncio.sleep(0.1)
        if services.broker.channel is not None:
            channel = services.broker.channel
            await channel.set_qos(prefetch_count=PREFETCH)
            queue = await channel.get_queue(QUEUE)
            tag = await queue.consume(self.handle)
            log.info("started", queue=QUEUE)
            await stop.wait()
            await queue.cancel(tag)
            try:
                await asyncio.wait_for(self._idle.wait(), services.settings.drain_deadline_s)
            except TimeoutError:
                log.warning("stopped_before_all_was_finished", in_flight=self._in_flight)
        await services.close()
        log.info("stopped")


async def _run(services_settings: Any) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await Worker(Services(services_settings)).run(stop)


def main() -> None:
    """Runs until SIGTERM. Exit status 78 if the configuration is refused."""
    try:
        settings = load()
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        sys.exit(EX_CONFIG)
    logs.configure(settings.log_level, secrets=settings.secret_values(), release=settings.greenroom_release, slot=settings.greenroom_slot)
    uvloop.run(_run(settings))


if __name__ == "__main__":
    main()
