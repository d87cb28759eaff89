"""In-memory counterparts of PostgreSQL, RabbitMQ and Feishu, so that these tests need no server. The real ones are in tests/integration."""

from __future__ import annotations

import io
import json
import os
import uuid
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from lark_service import logs
from lark_service.api import create_app
from lark_service.broker import BrokerUnavailable
from lark_service.feishu import FeishuClient
from lark_service.messages import Messages
from lark_service.services import Services
from lark_service.settings import Settings
from lark_service.store import AlreadyExists, App, AppDisabled, NotFound, Store, StoredToken

APP, SECRET, API_KEY = "cli_example0001", "the-app-secret-of-the-tests", "k" * 40
ENVIRONMENT = {
    "DATABASE_URL": "postgresql://tester:database-password@localhost:5432/lark_test",
    "BROKER_URL": "amqp://tester:broker-password@localhost:5672/%2Flark-test",
    "ENCRYPTION_KEY": "e" * 40,
    "API_KEY": API_KEY,
    "FEISHU_BASE_URL": "http://feishu.test",
    "PORT": "8101",
    "GREENROOM_RELEASE": "3-0.1.0",
    "GREENROOM_SLOT": "green",
}


class MemoryDb:
    """Stands for a connection; the memory store's methods ignore it."""

    @asynccontextmanager
    async def transaction(self):
        yield


class MemoryStore(Store):
    """The store's interface over dictionaries. `fail` is raised by everything that would talk to the server."""

    def __init__(self, settings):
        super().__init__(settings)
        self.registered, self.secrets, self.kept, self.users, self.sessions = {}, {}, {}, {}, {}
        self.fail = None

    async def open(self):
        pass

    @asynccontextmanager
    async def connection(self):
        if self.fail:
            raise self.fail
        yield MemoryDb()

    async def ping(self):
        async with self.connection():
            return 0.1

    async def add_app(self, app_id, name, secret, *, update=False):
        async with self.connection():
            now = datetime.now(UTC)
            if app_id in self.registered and not update:
                if (self.registered[app_id].name, self.secrets[app_id]) == (name, secret):
                    return False
                raise AlreadyExists(f"application {app_id} is registered with another name or secret; use --update to replace them")
            self.registered[app_id] = App(app_id, name, True, now, now)
            self.secrets[app_id] = secret
            return True

    async def apps(self):
        async with self.connection():
            return sorted(self.registered.values(), key=lambda app: app.app_id)

    async def app(self, app_id):
        async with self.connection():
            if app_id not in self.registered:
                raise NotFound(f"no application {app_id} is registered")
            return self.registered[app_id]

    async def set_enabled(self, app_id, enabled):
        app = await self.app(app_id)
        self.registered[app_id] = App(app.app_id, app.name, enabled, app.created_at, app.updated_at)
        return app.enabled != enabled

    async def token(self, app_id, kind, db=None):
        async with self.connection():
            found = self.kept.get((app_id, kind))
        if found is None:
            return None
        value, end, refreshes = found
        now = datetime.now(UTC)
        return StoredToken(app_id, kind, value, end, now, refreshes, (end - now).total_seconds(), self.registered[app_id].enabled)

    async def locked_app(self, db, app_id):
        if not (await self.app(app_id)).enabled:
            raise AppDisabled(f"application {app_id} is disabled")
        return self.secrets[app_id]

    async def next_due(self, db, margin_s, skip):
        for app_id, app in self.registered.items():
            token = await self.token(app_id, "tenant")
            if app.enabled and f"{app_id}/tenant" not in skip and (token is None or token.remaining_s < margin_s):
                return app_id, "tenant", self.secrets[app_id]
        return None

    async def save_token(self, db, app_id, kind, value, expires_in):
        _, _, refreshes = self.kept.get((app_id, kind), (None, None, -1))
        self.kept[app_id, kind] = (value, datetime.now(UTC) + timedelta(seconds=expires_in), refreshes + 1)
        return await self.token(app_id, kind)

    async def gauges(self):
        async with self.connection():
            return {"tokens": [(APP, "tenant", 100.0)], "messages": {"sent": 2}}

    async def cached_user(self, app_id, open_id):
        async with self.connection():
            found = self.users.get((app_id, open_id))
        return dict(found) if found else None

    async def cache_user(self, app_id, user):
        self.users[app_id, user["open_id"]] = {"open_id": user["open_id"], "name": user["name"], "age_s": 0.0}

    async def start_session(self, app_id, lifetime_s):
        await self.app(app_id)
        session = {"session_id": str(uuid.uuid4()), "app_id": app_id, "expires_at": "later"}
        self.sessions[session["session_id"]] = session
        return session

    async def session(self, session_id):
        if str(session_id) not in self.sessions:
            raise NotFound(f"no session {session_id}")
        return {**self.sessions[str(session_id)], "expired": False}

    async def prune_sessions(self):
        return 0


class MemoryBroker:
    """Remembers what was published. `fail` makes it a broker that is away."""

    def __init__(self):
        self.published = []
        self.fail = False
        self.channel = None

    def start(self):
        pass

    async def connect(self):
        pass

    async def close(self):
        pass

    async def publish(self, body, queue="lark.messages", timeout=5):
        if self.fail:
            raise BrokerUnavailable("not connected to the broker")
        self.published.append((queue, body))

    async def ping(self):
        if self.fail:
            raise BrokerUnavailable("not connected to the broker")
        return 0.2


class MemoryMessages(Messages):
    """Message states in a dictionary."""

    def __init__(self, store, broker):
        super().__init__(store, broker)
        self.states = {}

    async def _insert(self, queued, new):
        self.states[queued.id] = {"id": str(queued.id), "app_id": queued.app_id, "status": "queued", "attempts": 0, "error": None}

    async def get(self, message_id):
        if message_id not in self.states:
            raise NotFound(f"no message {message_id}")
        return self.states[message_id]

    async def settle(self, message_id, status, *, attempts=None, feishu_message_id=None, error=None):
        async with self._store.connection():
            state = self.states.setdefault(message_id, {"status": "queued"})
            if state["status"] != "sent":
                state.update(status=status, attempts=attempts, feishu_message_id=feishu_message_id, error=error)

    async def is_sent(self, message_id):
        async with self._store.connection():
            return self.states.get(message_id, {}).get("status") == "sent"


class Feishu:
    """Answers like Feishu. `answers` holds responses that come first, whatever is asked; `calls` the paths asked for."""

    def __init__(self):
        self.answers, self.calls, self.sent = [], [], []
        self.expire, self.issued = 7200, 0

    def __call__(self, request):
        self.calls.append(request.url.path)
        if self.answers:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        if request.url.path.endswith("access_token/internal"):
            asked = json.loads(request.content)
            if asked != {"app_id": APP, "app_secret": SECRET}:
                return httpx.Response(200, json={"code": 10014, "msg": "app secret invalid"})
            self.issued += 1
            field = request.url.path.split("/")[-2]
            return httpx.Response(200, json={"code": 0, "msg": "ok", field: f"t-token-number-{self.issued}", "expire": self.expire})
        if request.url.path == "/open-apis/im/v1/messages":
            self.sent.append(json.loads(request.content))
            return httpx.Response(200, json={"code": 0, "msg": "success", "data": {"message_id": f"om_{len(self.sent)}"}})
        if "/contact/v3/users/" in request.url.path:
            open_id = request.url.path.rsplit("/", 1)[1]
            return httpx.Response(200, json={"code": 0, "data": {"user": {"open_id": open_id, "name": f"User {open_id}"}}})
        return httpx.Response(404, text="not found")


@pytest.fixture(autouse=True)
def log_stream():
    """Log lines go here: standard output belongs to the CLI's answers."""
    stream = io.StringIO()
    logs.configure("DEBUG", stream=stream)
    return stream


@pytest.fixture
def settings(monkeypatch):
    """Settings from a complete environment."""
    for key in [key for key in os.environ if key.lower() in Settings.model_fields]:
        monkeypatch.delenv(key)
    for key, value in ENVIRONMENT.items():
        monkeypatch.setenv(key, value)
    return Settings()


@pytest.fixture
def feishu():
    return Feishu()


@pytest.fixture
def services(settings, feishu):
    """All parts of the service over the counterparts above."""
    store, broker = MemoryStore(settings), MemoryBroker()
    client = FeishuClient(settings.feishu_base_url, 1.0, transport=httpx.MockTransport(feishu))
    services = Services(settings, store, broker, client)
    services.messages = MemoryMessages(store, broker)
    return services


@pytest.fixture
async def registered(services):
    """`services` with one application registered."""
    await services.store.add_app(APP, "Example", SECRET)
    return services


@pytest.fixture
async def http(services):
    """An HTTP client of the API that sends the right key."""
    transport = httpx.ASGITransport(app=create_app(services), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://lark.test", headers={"X-API-Key": API_KEY}) as client:
        yield client
