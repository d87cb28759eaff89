"""Everything kept in PostgreSQL except messages (see `messages`). Secrets and tokens are encrypted there by pgcrypto with ENCRYPTION_KEY.

The role in DATABASE_URL needs SELECT, INSERT, UPDATE and DELETE and nothing else; the schema belongs to the owner who runs the migrations.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg

from lark_service.settings import Settings

# Of these, a later attempt may go well: the server is away, restarting, or out of connections.
UNAVAILABLE = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.LockNotAvailableError,
)
_CIPHER = "cipher-algo=aes256"


async def _nothing_to_reset(_connection: Any) -> None:
    pass


class NotFound(Exception):
    """The thing asked for does not exist; the message names it."""


class AppDisabled(Exception):
    """The application is registered but switched off."""


class AlreadyExists(Exception):
    """An application with this id is registered with another name or secret."""


@dataclass(frozen=True)
class App:
    """A registered Feishu application, without its secret."""

    app_id: str
    name: str
    enabled: bool
    created_at: datetime
    updated_at: datetime

    def public(self) -> dict[str, Any]:
        """What callers may see."""
        return {
            "app_id": self.app_id,
            "name": self.name,
            "enabled": self.enabled,
            "created_at": self.created_at.isoformat(),
            "updated_at": self.updated_at.isoformat(),
        }


@dataclass(frozen=True, repr=False)
class StoredToken:
    """A token with its value (secret). `remaining_s` is the seconds left when it was read."""

    app_id: str
    kind: str
    value: str
    expires_at: datetime
    obtained_at: datetime
    refreshes: int
    remaining_s: float
    app_enabled: bool

    def public(self) -> dict[str, Any]:
        """What may be shown anywhere: never the value (runbooks 000 L121 and 001 L174 printed a part of it)."""
        return {
            "app_id": self.app_id,
            "kind": self.kind,
            "length": len(self.value),
            "expires_at": self.expires_at.isoformat(),
            "expires_in_s": round(self.remaining_s),
            "obtained_at": self.obtained_at.isoformat(),
            "refreshes": self.refreshes,
        }

    def __repr__(self) -> str:
        return f"StoredToken({self.public()})"


class Store:
    """One connection pool and the statements that use it."""

    def __init__(self, settings: Settings, *, pool_max: int | None = None) -> None:
        self._dsn = settings.database_url.get_secret_value()
        self._key = settings.encryption_key.get_secret_value()
        self._pool_max = pool_max or settings.pool_max
        self.pool: asyncpg.Pool[Any] | None = None

    async def open(self) -> None:
        """Makes the pool. Connects to nothing yet: a service whose database is away starts, says so in /health, and recovers."""
        self.pool = await asyncpg.create_pool(
            self._dsn,
            min_size=0,
            max_size=self._pool_max,
            timeout=5,
            command_timeout=10,
            # Shorter than any idle limit a server or firewall is likely to have, so the pool closes first.
            max_inactive_connection_lifetime=120,
            # No statement here leaves anything in the session, and asyncpg's own reset is a second round trip for each one.
            reset=_nothing_to_reset,
            # The server ends what this process leaves behind: a lost process must not hold a lock.
            server_settings={
                "application_name": "lark-service",
                "statement_timeout": "10s",
                "lock_timeout": "8s",
                "idle_in_transaction_session_timeout": "30s",
            },
        )

    async def close(self) -> None:
        """Waits up to 5 s for running statements and closes the connections."""
        if self.pool:
            try:
                await asyncio.wait_for(self.pool.close(), 5)
            except TimeoutError:
                self.pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """A connection for a few statements; waits at most 5 s for a free one."""
        assert self.pool is not None, "open() was not called"
        async with self.pool.acquire(timeout=5) as connection:
            yield connection

    async def ping(self) -> float:
        """Milliseconds of one round trip including the wait for a connection. Raises what `UNAVAILABLE` lists."""
        started = time.perf_counter()
        async with self.connection() as db:
            await db.fetchval("SELECT 1", timeout=2)
        return (time.perf_counter() - started) * 1000

    def pool_sizes(self) -> dict[str, int]:
        """Open and idle connections of this process."""
        if not self.pool:
            return {"open": 0, "idle": 0}
        return {"open": self.pool.get_size(), "idle": self.pool.get_idle_size()}

    # --- applications -----------------------------------------------------------------------------------------------------

    async def add_app(self, app_id: str, name: str, secret: str, *, update: bool = False) -> bool:
        """Registers an application. Returns whether anything changed: the same name and secret again are no change.

        Raises:
            AlreadyExists: it is registered with another name or secret, and `update` was not asked for.
        """
        async with self.connection() as db, db.transaction():
            row = await db.fetchrow(
                "SELECT name, pgp_sym_decrypt(secret_encrypted, $2) AS secret FROM applications WHERE app_id = $1 FOR NO KEY UPDATE",
                app_id,
                self._key,
            )
            if row is None:
                await db.execute(
                    "INSERT INTO applications (app_id, name, secret_encrypted) VALUES ($1, $2, pgp_sym_encrypt($3, $4, $5))",
                    app_id,
                    name,
                    secret,
                    self._key,
                    _CIPHER,
                )
                return True
            if row["name"] == name and row["secret"] == secret:
                return False
            if not update:
                raise AlreadyExists(f"application {app_id} is registered with another name or secret; use --update to replace them")
            await db.execute(
                "UPDATE applications SET name = $2, secret_encrypted = pgp_sym_encrypt($3, $4, $5), updated_at = now() WHERE app_id = $1",
                app_id,
                name,
                secret,
                self._key,
                _CIPHER,
            )
            if row["secret"] != secret:
                await db.execute("DELETE FROM tokens WHERE app_id = $1", app_id)
            return True

    async def apps(self) -> list[App]:
        """All applications in order of their id."""
        async with self.connection() as db:
            rows = await db.fetch("SELECT app_id, name, enabled, created_at, updated_at FROM applications ORDER BY app_id")
        return [App(**dict(row)) for row in rows]

    async def app(self, app_id: str) -> App:
        """One application. Raises NotFound."""
        async with self.connection() as db:
            row = await db.fetchrow("SELECT app_id, name, enabled, created_at, updated_at FROM applications WHERE app_id = $1", app_id)
        if row is None:
            raise NotFound(f"no application {app_id} is registered")
        return App(**dict(row))

    async def set_enabled(self, app_id: str, enabled: bool) -> bool:
        """Switches an application on or off; returns whether that was a change. Raises NotFound."""
        if (await self.app(app_id)).enabled == enabled:
            return False
        async with self.connection() as db:
            await db.execute("UPDATE applications SET enabled = $2, updated_at = now() WHERE app_id = $1", app_id, enabled)
        return True

    # --- tokens -----------------------------------------------------------------------------------------------------------

    async def token(self, app_id: str, kind: str, db: Any = None) -> StoredToken | None:
        """The stored token, expired or not, or None."""
        if db is None:
            async with self.connection() as connection:
                return await self.token(app_id, kind, connection)
        row = await db.fetchrow(
            "SELECT t.app_id, t.kind, pgp_sym_decrypt(t.token_encrypted, $3) AS value, t.expires_at, t.obtained_at, t.refreshes,"
            " extract(epoch FROM t.expires_at - clock_timestamp())::float8 AS remaining_s, a.enabled AS app_enabled"
            " FROM tokens t JOIN applications a USING (app_id) WHERE t.app_id = $1 AND t.kind = $2",
            app_id,
            kind,
            self._key,
        )
        return StoredToken(**dict(row)) if row else None

    async def locked_app(self, db: Any, app_id: str) -> str:
        """Locks an enabled application until the transaction ends and returns its secret. Raises NotFound, AppDisabled.

        NO KEY UPDATE: inserts of messages refer to the row and must not wait for Feishu.
        """
        row = await db.fetchrow(
            "SELECT enabled, pgp_sym_decrypt(secret_encrypted, $2) AS secret FROM applications WHERE app_id = $1 FOR NO KEY UPDATE",
            app_id,
            self._key,
        )
        if row is None:
            raise NotFound(f"no application {app_id} is registered")
        if not row["enabled"]:
            raise AppDisabled(f"application {app_id} is disabled")
        return str(row["secret"])

    async def next_due(self, db: Any, margin_s: int, skip: list[str]) -> tuple[str, str, str] | None:
        """Locks one enabled application with a token that ends within `margin_s` (or with no tenant token yet) and returns
        (app_id, kind, secret). Applications that another process has locked are passed over: each is refreshed by one process only."""
        row = await db.fetchrow(
            "SELECT a.app_id, coalesce(t.kind, 'tenant') AS kind, pgp_sym_decrypt(a.secret_encrypted, $1) AS secret"
            " FROM applications a LEFT JOIN tokens t ON t.app_id = a.app_id"
            " WHERE a.enabled AND (t.app_id IS NULL OR t.expires_at < now() + make_interval(secs => $2))"
            " AND NOT (a.app_id || '/' || coalesce(t.kind, 'tenant') = ANY($3::text[]))"
            " ORDER BY t.expires_at NULLS FIRST LIMIT 1 FOR NO KEY UPDATE OF a SKIP LOCKED",
            self._key,
            float(margin_s),
            skip,
        )
        return (row["app_id"], row["kind"], row["secret"]) if row else None

    async def save_token(self, db: Any, app_id: str, kind: str, value: str, expires_in: int) -> StoredToken:
        """Stores a token just issued, encrypted."""
        await db.execute(
            "INSERT INTO tokens (app_id, kind, token_encrypted, expires_at)"
            " VALUES ($1, $2, pgp_sym_encrypt($3, $4, $5), clock_timestamp() + make_interval(secs => $6))"
            " ON CONFLICT (app_id, kind) DO UPDATE SET token_encrypted = excluded.token_encrypted, expires_at = excluded.expires_at,"
            " obtained_at = clock_timestamp(), refreshes = tokens.refreshes + 1",
            app_id,
            kind,
            value,
            self._key,
            _CIPHER,
            float(expires_in),
        )
        token = await self.token(app_id, kind, db)
        assert token is not None
        return token

    async def gauges(self) -> dict[str, Any]:
        """Figures for the metrics: seconds left of each token, messages by status."""
        async with self.connection() as db:
            tokens = await db.fetch("SELECT app_id, kind, extract(epoch FROM expires_at - now())::float8 AS left FROM tokens")
            messages = await db.fetch("SELECT status, count(*) AS n FROM messages GROUP BY status")
        return {"tokens": [tuple(row) for row in tokens], "messages": {row["status"]: row["n"] for row in messages}}

    # --- users and their sign-in sessions ------------------------------------------------------------------------------------

    async def cached_user(self, app_id: str, open_id: str) -> dict[str, Any] | None:
        """The cached directory entry with its age in seconds, or None. One indexed read: the service's fast route."""
        async with self.connection() as db:
            row = await db.fetchrow(
                "SELECT open_id, name, en_name, email, avatar_url, extract(epoch FROM now() - fetched_at)::float8 AS age_s"
                " FROM user_cache WHERE app_id = $1 AND open_id = $2",
                app_id,
                open_id,
            )
        return dict(row) if row else None

    async def cache_user(self, app_id: str, user: dict[str, Any]) -> None:
        """Stores a directory entry as Feishu gave it (only the fields this service uses)."""
        async with self.connection() as db:
            await db.execute(
                "INSERT INTO user_cache (app_id, open_id, name, en_name, email, avatar_url) VALUES ($1, $2, $3, $4, $5, $6)"
                " ON CONFLICT (app_id, open_id) DO UPDATE SET name = excluded.name, en_name = excluded.en_name, email = excluded.email,"
                " avatar_url = excluded.avatar_url, fetched_at = now()",
                app_id,
                user["open_id"],
                user.get("name") or "",
                user.get("en_name"),
                user.get("email"),
                (user.get("avatar") or {}).get("avatar_72"),
            )

    async def start_session(self, app_id: str, lifetime_s: int) -> dict[str, Any]:
        """Opens a sign-in session of a user who is not known yet. Raises NotFound."""
        await self.app(app_id)
        async with self.connection() as db:
            row = await db.fetchrow(
                "INSERT INTO user_auth_sessions (session_id, app_id, expires_at) VALUES ($1, $2, now() + make_interval(secs => $3))"
                " RETURNING session_id, app_id, expires_at",
                uuid.uuid4(),
                app_id,
                float(lifetime_s),
            )
        return {"session_id": str(row["session_id"]), "app_id": row["app_id"], "expires_at": row["expires_at"].isoformat()}

    async def session(self, session_id: uuid.UUID) -> dict[str, Any]:
        """One sign-in session and whether it is over. Raises NotFound."""
        async with self.connection() as db:
            row = await db.fetchrow(
                "SELECT session_id, app_id, expires_at, expires_at < now() AS expired FROM user_auth_sessions WHERE session_id = $1",
                session_id,
            )
        if row is None:
            raise NotFound(f"no session {session_id}")
        return {
            "session_id": str(row["session_id"]),
            "app_id": row["app_id"],
            "expires_at": row["expires_at"].isoformat(),
            "expired": row["expired"],
        }

    async def prune_sessions(self) -> int:
        """Deletes sessions that ended more than a day ago; returns how many."""
        async with self.connection() as db:
            status = await db.execute("DELETE FROM user_auth_sessions WHERE expires_at < now() - interval '1 day'")
        return int(status.split()[-1])
