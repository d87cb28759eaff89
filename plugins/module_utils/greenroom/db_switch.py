"""What the ways back are made of: keep everybody out of a database, copy it, swap another one in by its name (runbook 002 rollback C).

All of it runs on a connection to another database of the same server. Connections are blocked first and sessions ended after, or they would
be back before the next statement; whatever happens, what was open before is opened again.

A blocked database carries the setting MARK, written in the transaction that blocks it. So after a `kill -9` it can be told from one that a
person closed: `heal` opens it, whatever it is called by then. One operation at a time, by an advisory lock of the database `postgres`.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import time
from collections.abc import Iterator

DEADLINE_S = 10.0
OWN = "greenroom."  # settings of a database that are ours, and never carried to another one
MARK, KEPT_UNTIL = OWN + "blocked", OWN + "kept_until"
LOCK_KEY = int.from_bytes(hashlib.sha256(b"greenroom database operation").digest()[:8], "big", signed=True)
HOLDER = """
    SELECT a.pid, a.application_name, date_trunc('second', a.backend_start)::text
      FROM pg_locks l JOIN pg_stat_activity a USING (pid)
     WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.database = %s
       AND (l.classid::bigint << 32) | l.objid::bigint = %s
"""
MARKED = """
    SELECT d.oid::bigint, d.datname::text, split_part(c, '=', 2) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase,
           unnest(s.setconfig) c WHERE s.setrole = 0 AND split_part(c, '=', 1) = %s ORDER BY 2
"""
POLL_S = 0.01
SESSIONS = """
    SELECT pid, coalesce(usename, '') AS "user", coalesce(application_name, '') AS application, backend_type AS kind,
           coalesce(state, '') AS state
      FROM pg_stat_activity WHERE datid = %s AND pid <> pg_backend_pid()
"""
PREPARED = "SELECT gid FROM pg_prepared_xacts WHERE database = %s"
SLOTS = "SELECT slot_name::text FROM pg_replication_slots WHERE database = %s"
SUBSCRIPTIONS = "SELECT subname::text FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = %s"


class SwitchError(Exception):
    """Nothing was switched, or it was switched back. The text says what is in the way and what to do; `result` what was seen."""

    def __init__(self, text: str, result: dict | None = None):
        super().__init__(text)
        self.result = result or {}


def quoted(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def oid_of(admin: object, database: str) -> int:
    """Raises SwitchError if there is no such database, or if the connection is in it: nobody can lock himself out and go on."""
    row = admin.execute("SELECT oid::bigint, datname = current_database() FROM pg_database WHERE datname = %s", [database]).fetchone()
    if row is None:
        raise SwitchError(f"there is no database {database} on this server")
    if row[1]:
        raise SwitchError(f"this connection is in {database} itself. Connect to another database (postgres) of the same server")
    return row[0]


def obstacles(admin: object, database: str) -> dict:
    """What blocks a rename or survives it: {prepared: [gid], slots: [name], subscriptions: [name]}."""
    found = {"prepared": PREPARED, "slots": SLOTS, "subscriptions": SUBSCRIPTIONS}
    return {key: [row[0] for row in admin.execute(query, [database]).fetchall()] for key, query in found.items()}


def in_words(found: dict) -> str:
    """Obstacles for people."""
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in found.items() if names)


def sessions(admin: object, oid: int) -> list[dict]:
    """Who is in a database: [{pid, user, application, kind, state}]."""
    cursor = admin.execute(SESSIONS, [oid])
    names = [column.name for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


@contextlib.contextmanager
def blocked(admin: object, database: str, deadline_s: float = DEADLINE_S) -> Iterator[dict]:
    """Nobody is in `database`, and nobody comes in, while the body runs. Yields {ended, survivors, seconds}.

    admin: superuser, autocommit, in another database. Connections are allowed again afterwards if they were before, under whatever name the
    database has then. Raises SwitchError, with the survivors listed, if it is not empty within `deadline_s`.
    """
    oid = oid_of(admin, database)
    allowed = admin.execute("SELECT datallowconn FROM pg_database WHERE oid = %s", [oid]).fetchone()[0]
    began = time.monotonic()
    if allowed:
        with admin.transaction():
            admin.execute(f"ALTER DATABASE {quoted(database)} ALLOW_CONNECTIONS false")
            admin.execute(f"ALTER DATABASE {quoted(database)} SET {MARK} = '{admin.info.backend_pid}'")
    try:
        ended: set[int] = set()
        while there := sessions(admin, oid):
            # Signal all of them, then look: one after the other would take the sum of their times. Who slipped in before is seen too.
            for one in there:
                if one["pid"] not in ended:
                    admin.execute("SELECT pg_terminate_backend(%s)", [one["pid"]])
                    ended.add(one["pid"])
            if time.monotonic() - began > deadline_s:
                who = "; ".join("pid {pid} {kind} {user} {application} {state}".format(**one) for one in there)
                text = f"{database} is not empty after {deadline_s:g} s, connections are open again. Left: {who}"
                raise SwitchError(text, {"survivors": there})
            time.sleep(POLL_S)
        yield {"ended": len(ended), "survivors": obstacles(admin, database), "seconds": round(time.monotonic() - began, 3)}
    finally:
        if allowed:
            unblock(admin, oid)


def unblock(admin: object, oid: int) -> None:
    """Allow connections again, whatever the database is called now; on a fresh connection if this one is broken."""
    import psycopg

    try:
        allow(admin, oid)
    except psycopg.Error:
        fresh = {**admin.info.get_parameters(), "password": admin.info.password or None}
        with psycopg.connect(**fresh, autocommit=True) as connection:
            allow(connection, oid)


def allow(admin: object, oid: int) -> None:
    """Allow connections to a database, by its oid, and take the mark off."""
    with admin.transaction():
        row = admin.execute("SELECT datname FROM pg_database WHERE oid = %s", [oid]).fetchone()
        if row:
            admin.execute(f"ALTER DATABASE {quoted(row[0])} ALLOW_CONNECTIONS true")
            admin.execute(f"ALTER DATABASE {quoted(row[0])} RESET {MARK}")


@contextlib.contextmanager
def only_one(admin: object, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock of operations on this server's databases. It ends with the connection, so with the process, however that ends.

    admin: a connection to the database `postgres`. Raises SwitchError, naming the holder, if it is not free within `wait_s`.
    """
    began = time.monotonic()
    while not admin.execute("SELECT pg_try_advisory_lock(%s)", [LOCK_KEY]).fetchone()[0]:
        if time.monotonic() - began >= wait_s:
            who = "; ".join(f"pid {pid} {name} since {since}" for pid, name, since in holders(admin, "postgres", LOCK_KEY))
            text = f"another operation on this server's databases runs: {who or 'it has just ended'}. Wait for it, then try again"
            raise SwitchError(f"{text}. Nothing was changed")
        time.sleep(POLL_S)
    try:
        yield
    finally:
        with contextlib.suppress(Exception):  # of a connection that is gone: then the lock is, too
            admin.execute("SELECT pg_advisory_unlock(%s)", [LOCK_KEY])


def holders(admin: object, database: str, key: int) -> list[tuple]:
    """Who holds an advisory lock of a database: [(pid, application, since)]."""
    row = admin.execute("SELECT oid::bigint FROM pg_database WHERE datname = %s", [database]).fetchone()
    return admin.execute(HOLDER, [row[0], key]).fetchall() if row else []


def heal(admin: object, wait_s: float = DEADLINE_S, dead: str | None = None) -> list[str]:
    """Open every database that a killed operation left blocked; their names. Waits until no operation runs. Raises SwitchError.

    dead: the application_name of sessions whose client is known to be gone; the server may go on with their statement, so they are ended.
    """
    if dead:
        theirs = "application_name = %s AND pid <> pg_backend_pid()"
        admin.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {theirs}", [dead])
    with only_one(admin, wait_s):
        found = admin.execute(MARKED, [MARK]).fetchall()
        for oid, _name, _pid in found:
            allow(admin, oid)
    return [name for _oid, name, _pid in found]


def end_sessions(admin: object, database: str, deadline_s: float = DEADLINE_S) -> dict:
    """Block, end all sessions, open again; {ended, survivors, seconds}. Raises SwitchError."""
    with blocked(admin, database, deadline_s) as result:
        return result


def copy(admin: object, database: str, name: str, deadline_s: float = DEADLINE_S) -> dict:
    """Make `name` a copy of `database`, file by file; nobody may be in it meanwhile: for a maintenance window. {ended, seconds}.

    The application cannot connect to the copy (its limit is 0). Raises SwitchError.
    """
    began = time.monotonic()
    with blocked(admin, database, deadline_s) as result:
        version = int(admin.execute("SHOW server_version_num").fetchone()[0])
        strategy = " STRATEGY FILE_COPY" if version >= 150000 else ""
        owner = admin.execute("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s", [database]).fetchone()[0]
        admin.execute(f"CREATE DATABASE {quoted(name)} TEMPLATE {quoted(database)} OWNER {quoted(owner)}{strategy} CONNECTION LIMIT 0")
    return {"ended": result["ended"], "seconds": round(time.monotonic() - began, 3)}


def swap(
    admin: object, database: str, replacement: str, kept: str, deadline_s: float = DEADLINE_S, kept_until: str | None = None
) -> dict:  # fmt: skip
    """`database` becomes `kept`, `replacement` becomes `database`, in one transaction; {ended, seconds, kept, settings, grants}.

    Settings and grants of the database itself, which a copy does not have, are given to the replacement first. The kept one takes
    superusers only; kept_until (ISO 8601): when `forget` may remove it. Raises SwitchError, and nothing was renamed, if something is in the
    way.
    """
    began = time.monotonic()
    in_the_way = {name: obstacles(admin, name) for name in (database, replacement)}
    for name, found in in_the_way.items():
        oid_of(admin, name)
        if any(found.values()):
            raise SwitchError(f"{name} cannot be renamed now: {in_words(found)}. End them first (ROLLBACK PREPARED, drop the slot)", found)
    if exists(admin, kept):
        raise SwitchError(f"a database {kept} is there already: it may be the only copy of something. Choose another name")
    settings = carry_settings(admin, database, replacement)
    grants = carry_grants(admin, database, replacement)
    limit = admin.execute("SELECT datconnlimit FROM pg_database WHERE datname = %s", [database]).fetchone()[0]
    with blocked(admin, replacement, deadline_s), blocked(admin, database, deadline_s) as result, admin.transaction():
        if any((found := obstacles(admin, database)).values()):  # one that came between the look and the block
            raise SwitchError(f"{database} cannot be renamed now: {in_words(found)}. It is open again, nothing was renamed", found)
        admin.execute(f"ALTER DATABASE {quoted(database)} RENAME TO {quoted(kept)}")
        admin.execute(f"ALTER DATABASE {quoted(kept)} CONNECTION LIMIT 0")
        if kept_until:
            admin.execute(f"ALTER DATABASE {quoted(kept)} SET {KEPT_UNTIL} = '{moment(kept_until).isoformat()}'")
        admin.execute(f"ALTER DATABASE {quoted(replacement)} RENAME TO {quoted(database)}")
        admin.execute(f"ALTER DATABASE {quoted(database)} CONNECTION LIMIT {limit}")
        admin.execute(f"ALTER DATABASE {quoted(database)} RESET {KEPT_UNTIL}")
    seconds = round(time.monotonic() - began, 3)
    return {"ended": result["ended"], "seconds": seconds, "kept": kept, "settings": settings, "grants": grants}


def exists(admin: object, database: str) -> bool:
    """Whether there is a database of this name."""
    return admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database]).fetchone() is not None


def moment(text: str) -> datetime.datetime:
    """A time with its zone. Raises SwitchError for anything else."""
    try:
        found = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as error:
        raise SwitchError(f"{text!r} is no time (ISO 8601)") from error
    if found.tzinfo is None:
        raise SwitchError(f"{text!r} has no time zone")
    return found


def forget(admin: object, now: datetime.datetime, database: str | None = None) -> list[str]:
    """Remove kept databases whose time is over, or only `database`; their names. One without such a time is never removed.

    Raises SwitchError for a `database` that was not kept by a swap, or whose time is not over.
    """
    kept = {name: until for _oid, name, until in admin.execute(MARKED, [KEPT_UNTIL]).fetchall()}
    if database and database not in kept:
        raise SwitchError(f"{database} is no database that a swap has kept; those are: {', '.join(kept) or 'none'}. Nothing was removed")
    if database and moment(kept[database]) > now:
        raise SwitchError(f"{database} is kept until {kept[database]}. Nothing was removed; a person may: DROP DATABASE {quoted(database)}")
    gone = [name for name, until in kept.items() if moment(until) <= now and database in (None, name)]
    for name in gone:
        admin.execute(f"DROP DATABASE {quoted(name)} WITH (FORCE)")
    return gone


def carry_settings(admin: object, source: str, target: str) -> list[str]:
    """Give `target` the settings that ALTER DATABASE … SET (and ALTER ROLE … IN DATABASE) gave `source`; their names."""
    query = (
        "SELECT coalesce(r.rolname::text, ''), unnest(s.setconfig) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase"
        " LEFT JOIN pg_roles r ON r.oid = s.setrole WHERE d.datname = %s"
    )
    done = []
    for role, setting in admin.execute(query, [source]).fetchall():
        name, _, value = setting.partition("=")
        if name.startswith(OWN):
            continue
        whose = f"ROLE {quoted(role)} IN DATABASE {quoted(target)}" if role else f"DATABASE {quoted(target)}"
        with admin.transaction():  # the session takes the value first: a list (search_path) is then stored as the list it is
            admin.execute("SELECT set_config(%s, %s, true)", [name, value])
            admin.execute(f"ALTER {whose} SET {name} FROM CURRENT")
        done.append(f"{role}: {name}" if role else name)
    return done


def carry_grants(admin: object, source: str, target: str) -> int:
    """Give `target` the grants on the database that `source` has; how many."""
    acl = admin.execute("SELECT datacl IS NOT NULL FROM pg_database WHERE datname = %s", [source]).fetchone()[0]
    if not acl:
        return 0
    rows = admin.execute(
        "SELECT CASE a.grantee WHEN 0 THEN '' ELSE pg_get_userbyid(a.grantee) END, a.privilege_type, a.is_grantable"
        " FROM pg_database d, aclexplode(d.datacl) a WHERE d.datname = %s",
        [source],
    ).fetchall()
    admin.execute(f"REVOKE ALL ON DATABASE {quoted(target)} FROM PUBLIC")
    for grantee, privilege, grantable in rows:
        who = quoted(grantee) if grantee else "PUBLIC"
        admin.execute(f"GRANT {privilege} ON DATABASE {quoted(target)} TO {who}{' WITH GRANT OPTION' if grantable and grantee else ''}")
    return len(rows)
