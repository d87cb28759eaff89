"""Messages: taken by the API, queued as versioned JSON, sent by the worker, their state kept in PostgreSQL."""

from __future__ import annotations

import uuid
from typing import Any, Literal

import asyncpg
from pydantic import BaseModel, ConfigDict, Field

from lark_service.broker import Broker, BrokerUnavailable
from lark_service.store import AppDisabled, NotFound, Store

VERSION: Literal[1] = 1

ReceiveIdType = Literal["open_id", "user_id", "union_id", "email", "chat_id"]


class NewMessage(BaseModel):
    """What a caller posts."""

    model_config = ConfigDict(extra="forbid")

    receive_id_type: ReceiveIdType = "open_id"
    receive_id: str = Field(min_length=1, max_length=128)
    text: str = Field(min_length=1, max_length=30_000)
    reference: str | None = Field(default=None, min_length=1, max_length=64)


class QueuedMessage(BaseModel):
    """What lies in the queue, version 1. Another version goes to the dead letters: a newer release wrote it, or nobody did."""

    version: Literal[1]
    id: uuid.UUID
    app_id: str
    receive_id_type: ReceiveIdType
    receive_id: str
    text: str
    attempt: int = Field(default=1, ge=1)
    request_id: str = ""


class Messages:
    """Accepts messages and keeps their state."""

    def __init__(self, store: Store, broker: Broker) -> None:
        self._store = store
        self._broker = broker

    async def accept(self, app_id: str, new: NewMessage, request_id: str) -> uuid.UUID:
        """Stores and queues a message. When this returns, the broker has it.

        Raises:
            NotFound, AppDisabled, BrokerUnavailable (then the message is recorded as failed and will not be sent)
        """
        if not (await self._store.app(app_id)).enabled:
            raise AppDisabled(f"application {app_id} is disabled")
        message_id = uuid.uuid4()
        queued = QueuedMessage(
            version=VERSION,
            id=message_id,
            app_id=app_id,
            receive_id_type=new.receive_id_type,
            receive_id=new.receive_id,
            text=new.text,
            request_id=request_id,
        )
        await self._insert(queued, new)
        try:
            await self._broker.publish(queued.model_dump(mode="json"))
        except BrokerUnavailable:
            await self.settle(message_id, "failed", error="not queued: the broker did not take it")
            raise
        return message_id

    async def _insert(self, queued: QueuedMessage, new: NewMessage) -> None:
        async with self._store.connection() as db:
            try:
                await db.execute(
                    "INSERT INTO messages (id, app_id, receive_id_type, receive_id, request_id, reference) VALUES ($1, $2, $3, $4, $5, $6)",
                    queued.id,
                    queued.app_id,
                    queued.receive_id_type,
                    queued.receive_id,
                    queued.request_id,
                    new.reference,
                )
            except asyncpg.ForeignKeyViolationError:
                raise NotFound(f"no application {queued.app_id} is registered") from None

    async def get(self, message_id: uuid.UUID) -> dict[str, Any]:
        """A message's state. Raises NotFound."""
        async with self._store.connection() as db:
            row = await db.fetchrow(
                "SELECT id, app_id, receive_id_type, receive_id, status, attempts, feishu_message_id, error, created_at, updated_at,"
                " reference"
                " FROM messages WHERE id = $1",
                message_id,
            )
        if row is None:
            raise NotFound(f"no message {message_id}")
        return _public(row)

    async def settle(
        self,
        message_id: uuid.UUID,
        status: str,
        *,
        attempts: int | None = None,
        feishu_message_id: str | None = None,
        error: str | None = None,
    ) -> None:
        """Records what became of a message: queued, retrying, sent or failed. What was sent stays sent."""
        async with self._store.connection() as db:
            await db.execute(
                "UPDATE messages SET status = $2, attempts = coalesce($3, attempts), feishu_message_id = coalesce($4, feishu_message_id),"
                " error = $5, updated_at = now() WHERE id = $1 AND status <> 'sent'",
                message_id,
                status,
                attempts,
                feishu_message_id,
                error,
            )

    async def is_sent(self, message_id: uuid.UUID) -> bool:
        """Whether a message has been sent already (a queue may deliver twice)."""
        async with self._store.connection() as db:
            return bool(await db.fetchval("SELECT status = 'sent' FROM messages WHERE id = $1", message_id))


def _public(row: Any) -> dict[str, Any]:
    out = dict(row)
    out["id"] = str(out["id"])
    for key in ("created_at", "updated_at"):
        out[key] = out[key].isoformat()
    return out
