"""Where revisions are rehearsed: a scratch cluster, an adapter, databases copied from each other; and what a rehearsal may be told."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator
from urllib.parse import quote

from ..backup.scratch_cluster import ScratchCluster, assert_scratch
from . import state as states
from .alembic_worker import MODES
from .catalog import SETTINGS, quoted

LOCKS = (
    "SELECT l.relation::bigint, l.mode FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.granted AND l.locktype = 'relation'"
    " AND a.datname = %s AND a.pid <> pg_backend_pid() AND l.relation > 16383"
)
POLL_S = 0.01


@dataclasses.dataclass(frozen=True)
class Options:
    """What a rehearsal is told.

    owner: role that migrates; roles: further ones that migrations name; extensions: made beforehand, as an administrator would.
    depth: default (steps 0 to 8, 9 where something is lost) or full (0 to 12).
    reasons: {table or table.column: why it has no row or value}.
    volatile: table.column whose values may differ from run to run. fixtures: {revision: SQL that is run before it}. statements: recorded
    ones of the serving release. rows: {table: rows of the live database}, for the prediction. lock_budget_s: how long writers may be kept
    waiting. sizes: rows of a table in the two timed runs; None leaves them out. chance: makes what is drawn by lot repeatable.
    """

    owner: str = "owner"
    roles: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    depth: str = "default"
    reasons: dict = dataclasses.field(default_factory=dict)
    volatile: frozenset = frozenset()
    fixtures: dict = dataclasses.field(default_factory=dict)
    statements: tuple[str, ...] = ()
    rows: dict = dataclasses.field(default_factory=dict)
    lock_budget_s: float = 1.0
    sizes: tuple[int, int] | None = (4000, 12000)
    chance: int = 0


class Ground:
    """One cluster and one adapter; used by one thread at a time."""

    def __init__(self, cluster: ScratchCluster, adapter: object, options: Options):
        self.cluster, self.adapter, self.options, self._made = cluster, adapter, options, 0
        self.admin = cluster.connect()
        assert_scratch(self.admin)
        if user := getattr(adapter, "user", None):
            cluster.admit(user)
        for role in dict.fromkeys((options.owner, *options.roles)):
            if not self.admin.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone():
                self.admin.execute(f"CREATE ROLE {quoted(role)} LOGIN")

    @property
    def versions(self) -> tuple[str, ...]:
        """The tables of the migration tool itself."""
        return self.adapter.version_tables

    def url(self, dbname: str) -> str:
        """The owner's URL of a database, through the socket."""
        host = quote(str(self.cluster.socket_dir), safe="")
        scheme = getattr(self.adapter, "scheme", "postgresql")
        return f"{scheme}://{quote(self.options.owner, safe='')}@/{dbname}?host={host}&port={self.cluster.port}"

    def new(self, template: str | None = None) -> str:
        """A database, empty or a copy of one that nobody uses now. Its name."""
        self._made += 1
        name = f"rehearsal_{self._made}"
        source = template or "template0"
        self.admin.execute(f"CREATE DATABASE {name} OWNER {quoted(self.options.owner)} TEMPLATE {quoted(source)}")
        if template is None:
            with self.cluster.connect(name) as connection:
                connection.execute(f"ALTER SCHEMA public OWNER TO {quoted(self.options.owner)}")
                for extension in self.options.extensions:
                    connection.execute(f"CREATE EXTENSION IF NOT EXISTS {quoted(extension)} CASCADE")
        return name

    def drop(self, name: str) -> None:
        """Drop a database, whoever still uses it."""
        assert_scratch(self.admin)
        self.admin.execute(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)")

    @contextlib.contextmanager
    def copied(self, template: str) -> Iterator[tuple[str, object]]:
        """(name, superuser's connection) of a copy that is gone afterwards."""
        name = self.new(template)
        try:
            with self.connect(name) as connection:
                yield name, connection
        finally:
            self.drop(name)

    def connect(self, name: str) -> object:
        """A superuser's connection whose values read the same every time."""
        connection = self.cluster.connect(name)
        connection.execute(SETTINGS)
        return connection

    def state(self, name: str, connection: object) -> states.State:
        """The state of a database."""
        return states.take(self.cluster, name, connection, self.versions)

    def wal(self) -> int:
        """Bytes of WAL the cluster has written so far."""
        return int(self.admin.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()[0])

    @contextlib.contextmanager
    def polled(self, name: str) -> Iterator[dict]:
        """Locks that others hold in a database, looked at every 10 ms: {(relation, mode): seconds}; for statements outside transactions."""
        held: dict[tuple[int, str], float] = {}
        over = threading.Event()

        def poll() -> None:
            with self.cluster.connect() as connection:
                while not over.is_set():
                    began = time.monotonic()
                    rows = connection.execute(LOCKS, [name]).fetchall()
                    over.wait(POLL_S)
                    for relation, mode in rows:
                        if mode in MODES:
                            held[relation, mode] = held.get((relation, mode), 0) + time.monotonic() - began

        thread = threading.Thread(target=poll, daemon=True)
        thread.start()
        try:
            yield held
        finally:
            over.set()
            thread.join(5)

    def close(self) -> None:
        """End the adapter's process and the connection; the cluster is its owner's to end."""
        self.adapter.close()
        self.admin.close()
