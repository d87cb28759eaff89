"""How the server's WAL archive does, read from the server: what was archived last, what waits, what it costs on the disk.

`pg_stat_archiver` proves little (with an archive_command of `/bin/true` it looks healthy), so a look into each repository goes with it.
Sources: PostgreSQL's manual, "Continuous Archiving"; 001 §7.2 (RPO).
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator, Mapping

from .errors import BackupError

QUERY = """
SELECT current_setting('archive_mode'), current_setting('archive_command'), current_setting('archive_timeout'),
  archived_count, failed_count, coalesce(last_archived_wal, ''), coalesce(extract(epoch FROM last_archived_time), 0)::float8,
  coalesce(extract(epoch FROM last_failed_time), 0)::float8,
  pg_walfile_name(pg_current_wal_lsn()), current_setting('data_checksums'),
  (SELECT sum(size)::bigint FROM pg_ls_waldir()), (SELECT count(*)::int FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'),
  (SELECT coalesce(extract(epoch FROM min(modification)), 0)::float8 FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'),
  extract(epoch FROM clock_timestamp())::float8
FROM pg_stat_archiver
"""
NAMES = (
    "mode", "command", "timeout", "archived", "failed", "last_archived_wal", "last_archived_s", "last_failed_s", "current_wal", "checksums",
    "wal_bytes", "waiting", "oldest_waiting_s", "now_s",
)  # fmt: skip


WAITS_S = 120  # a segment that waits longer than this is not archived in time


def dsn(config: Mapping) -> dict:
    """libpq's keywords for the server of `backup.json`, as its superuser over the socket."""
    database = config["database"]
    return {"host": database["host"], "port": database["port"], "user": database["user"], "dbname": "postgres", "connect_timeout": 5}


@contextlib.contextmanager
def connected(config: Mapping) -> Iterator:
    """A connection of psycopg, in autocommit; root takes the server's user for as long as it connects, for `peer` looks at that.

    Raises BackupError if the server does not answer, or refuses a query.
    """
    import psycopg

    wanted, ids = dsn(config), (os.geteuid(), os.getegid())
    try:
        if ids[0] == 0:
            entry = pwd.getpwnam(wanted["user"])
            os.setegid(entry.pw_gid)
            os.seteuid(entry.pw_uid)
        try:
            connection = psycopg.connect(**wanted, autocommit=True, options="-c statement_timeout=10000")
        finally:
            os.seteuid(ids[0])
            os.setegid(ids[1])
        with connection:
            yield connection
    except psycopg.Error as error:
        raise BackupError(
            f"the server does not tell how its archive does: {str(error).strip()}. Look at `pg_lsclusters` and its log"
        ) from error


def look(config: Mapping) -> dict:
    """The archiver's state by NAMES; times in seconds since 1970 (0: never), `wal_bytes` in bytes, `waiting` in segments.

    Raises BackupError if the server does not answer.
    """
    with connected(config) as connection:
        row = connection.execute(QUERY).fetchone()
    return dict(zip(NAMES, row, strict=True))


def failing(state: Mapping) -> str | None:
    """Why the archive does not work at this moment; None if nothing speaks against it."""
    if state["mode"] != "on":
        return f"archive_mode is {state['mode']}: the server archives nothing. Run the role postgresql"
    if "archive-push" not in state["command"]:
        return f"archive_command does not call pgBackRest: {state['command'][:100]!r}. Run the role postgresql"
    if state["last_failed_s"] > state["last_archived_s"]:
        return f"the last try to archive failed, {state['waiting']} segments wait. Run `pgbackrest check` as postgres to see why"
    # A try that hangs, because a store does not answer, has not failed yet.
    if state["waiting"] and state["now_s"] - state["oldest_waiting_s"] > WAITS_S:
        waited = state["now_s"] - state["oldest_waiting_s"]
        return f"a segment waits for {waited:.0f} s, {state['waiting']} in all. Run `pgbackrest check` as postgres to see why"
    return None
