"""Real PostgreSQL and RabbitMQ, given by DATABASE_URL, BROKER_URL and BROKER_CA_FILE. Feishu is answered in this process.

The database and the vhost are emptied by these tests, so their names must say that they are for that.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

import aio_pika
import httpx
import psycopg
import pytest
from alembic import command
from alembic.config import Config

from lark_service.broker import DEAD, QUEUE, RETRY_MS, Broker
from lark_service.feishu import FeishuClient
from lark_service.services import Services
from lark_service.settings import Settings
from tests.unit.conftest import API_KEY, APP, SECRET, Feishu

ROOT = Path(__file__).resolve().parents[2]


def refuse_if_not_scratch(what: str, name: str) -> None:
    """Ends the run unless `name` says that its content may go."""
    if "scratch" not in name and "test" not in name:
        pytest.exit(f"{what} {name!r} is refused: these tests empty it, its name must contain 'scratch' or 'test'", returncode=3)


@pytest.fixture(scope="session", autouse=True)
def servers():
    """Checks what was given and leaves an empty schema at head."""
    for key in ("DATABASE_URL", "BROKER_URL"):
        if not os.environ.get(key):
            pytest.exit(f"{key} is missing: the integration tests need a scratch database and a scratch vhost", returncode=3)
    refuse_if_not_scratch("database", urlsplit(os.environ["DATABASE_URL"]).path.strip("/"))
    refuse_if_not_scratch("vhost", unquote(urlsplit(os.environ["BROKER_URL"]).path.removeprefix("/")))
    os.environ.update(ENCRYPTION_KEY="e" * 40, API_KEY=API_KEY, FEISHU_BASE_URL="http://feishu.test", PORT="8101")
    command.upgrade(alembic_config(), "head")
    yield
    command.downgrade(alembic_config(), "base")


def alembic_config() -> Config:
    """The service's own alembic.ini."""
    return Config(ROOT / "alembic.ini")


@pytest.fixture
def database():
    """A connection of the tests' own, with autocommit."""
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        yield connection


@pytest.fixture
def settings(database):
    """Settings over empty tables."""
    database.execute("TRUNCATE applications CASCADE")
    return Settings()


@pytest.fixture
def feishu():
    return Feishu()


@pytest.fixture
async def services(settings, feishu):
    """The service's real parts, connected, with empty queues and one application."""
    services = Services(settings, feishu=FeishuClient("http://feishu.test", 2.0, transport=httpx.MockTransport(feishu)))
    await services.store.open()
    await services.broker.connect()
    for queue in (QUEUE, DEAD, *(f"{QUEUE}.retry.{wait}" for wait in RETRY_MS)):
        await (await services.broker.channel.get_queue(queue)).purge()
    await services.store.add_app(APP, "Example", SECRET)
    yield services
    await services.close()


async def depth(broker: Broker, queue: str) -> int:
    """Messages that are ready in a queue."""
    channel = await broker._connection.channel()
    try:
        return (await channel.declare_queue(queue, passive=True)).declaration_result.message_count
    finally:
        await channel.close()


async def take(broker: Broker, queue: str) -> aio_pika.abc.AbstractIncomingMessage | None:
    """One message out of a queue, or None."""
    return await (await broker.channel.get_queue(queue)).get(fail=False, no_ack=True)
