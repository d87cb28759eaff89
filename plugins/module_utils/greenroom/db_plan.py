"""What a way back starts from: which database it is, what would be lost, how long it takes, what it needs; and the safety before it.

Nothing destructive runs without a plan that still fits (server, database, revision) and without a restore point that every repository has
handed back, or a copy where nothing is archived (runbook 003, database rollback: a full backup of the present state comes first).
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping
from pathlib import Path

from . import db_switch, migration
from .backup import manifest, wal
from .backup.errors import BackupError
from .backup.job import read_config
from .backup.pgbackrest import PgBackRest
from .backup.point_in_time import Target
from .db_switch import SwitchError

LABEL = re.compile(r"\d{8}-\d{6}F(?:_\d{8}-\d{6}[DI])?")  # of a physical backup
STAMP = re.compile(r"(\d{8}T\d{6})Z")  # in names that Greenroom gives
KINDS = {"time": "time", "lsn": "lsn", "point": "name"}
CARRY_RATE = 70e6  # bytes/s that dump and load together moved on two cores
CARRY_ROOM = 1.2  # times the database's size, for the database that is made beside it
COPIED = db_switch.OWN + "copied"  # of a copy: when it was made, and the counter of changed rows then
CHANGES = "SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint FROM pg_stat_user_tables"
SINCE = """
    SELECT coalesce(stats_reset, (pg_stat_file('base/' || datid || '/PG_VERSION')).modification)::timestamptz
      FROM pg_stat_database WHERE datname = current_database()
"""


def wanted(text: str) -> dict:
    """`backup:…`, `time:…`, `lsn:…` or `point:…` as {kind: logical | physical, target, label, id, time}; time in epoch seconds, or None.

    target: {kind, value} of a recovery (None for a logical backup). Raises BackupError with the forms there are.
    """
    kind, _, value = text.partition(":")
    stamp = STAMP.search(value)
    at = datetime.datetime.strptime(stamp[1], "%Y%m%dT%H%M%S").replace(tzinfo=datetime.timezone.utc).timestamp() if stamp else None  # noqa: UP017
    if kind == "backup" and LABEL.fullmatch(value):
        ended = datetime.datetime.strptime(value[-16:-1] if "_" in value else value[:15], "%Y%m%d-%H%M%S").astimezone().timestamp()
        return {"kind": "physical", "target": {"kind": "immediate", "value": ""}, "label": value, "id": None, "time": ended}
    if kind == "backup" and manifest.ID.fullmatch(value):
        return {"kind": "logical", "target": None, "label": None, "id": value, "time": at}
    if kind in KINDS:
        target = Target(KINDS[kind], value).checked()
        at = target.epoch() if kind == "time" else at
        return {"kind": "physical", "target": {"kind": target.kind, "value": value}, "label": None, "id": None, "time": at}
    raise BackupError(
        f"restore_to {text!r}: wanted is backup:<label or id of a backup>, time:<ISO 8601 with its zone>, lsn:<e.g. 0/3000028> or"
        " point:<name of a restore point>"
    )


def identity(dsn: Mapping, database: str) -> dict:
    """Which database it is and where: {system_identifier, database, oid, bytes, owner, revision, lsn, changes, since, now}.

    dsn: libpq keywords of the superuser, to any database of the server. changes: rows changed since `since` (epoch seconds), by the
    server's statistics. Raises SwitchError if there is no such database.
    """
    import psycopg

    with psycopg.connect(**{**dsn, "dbname": "postgres", "autocommit": True}) as admin:
        db_switch.oid_of(admin, database)
    with psycopg.connect(**{**dsn, "dbname": database, "autocommit": True}) as connection:
        row = connection.execute(
            "SELECT (SELECT system_identifier::text FROM pg_control_system()), oid::bigint, pg_database_size(oid), pg_get_userbyid(datdba),"
            " pg_current_wal_lsn()::text, extract(epoch FROM clock_timestamp())::float8 FROM pg_database"
            " WHERE datname = current_database()"
        ).fetchone()
        found = dict(zip(("system_identifier", "oid", "bytes", "owner", "lsn", "now"), row, strict=True))
        table = connection.execute("SELECT min(oid::regclass::text) FROM pg_class WHERE relname = 'alembic_version' AND relkind = 'r'")
        name = table.fetchone()[0]
        revision = [one for (one,) in connection.execute(f"SELECT version_num FROM {name} ORDER BY 1").fetchall()] if name else []
        changes, since = connection.execute(CHANGES).fetchone()[0], connection.execute(SINCE).fetchone()[0]
    return {"database": database, **found, "revision": revision, "changes": int(changes), "since": since.timestamp()}


def at_risk(now: Mapping, time: float | None) -> dict:
    """What going back to `time` (epoch seconds, None: not known) would lose: {seconds, rows, how}; rows None is unknown, and never none."""
    seconds = None if time is None else max(0.0, round(now["now"] - time, 1))
    begun = datetime.datetime.fromtimestamp(now["since"], datetime.timezone.utc).isoformat(timespec="seconds")  # noqa: UP017
    if seconds is None:
        return {"seconds": None, "rows": now["changes"] or None, "how": f"the target's time is not known; all changes since {begun}"}
    if now["since"] > time:
        return {"seconds": seconds, "rows": None, "how": f"the server counts changes only since {begun}, {now['changes']} since then"}
    share = seconds / max(seconds, now["now"] - now["since"], 1.0)
    return {"seconds": seconds, "rows": math.ceil(now["changes"] * share), "how": f"estimated from {now['changes']} changes since {begun}"}


def duration(now: Mapping, drill: Mapping | None) -> dict:
    """{seconds (None: nobody measured it), how, space: {clone, database} in bytes}: what a restore of this database would take."""
    space = {"clone": None, "database": int(now["bytes"] * CARRY_ROOM)}
    done = [one for one in (drill or {}).get("drills", []) if one.get("rto_s")]
    if not done:
        return {"seconds": None, "how": "no restore drill has measured it: run one", "space": space}
    last = done[-1]
    space["clone"] = int((last.get("backup") or {}).get("size", 0) * 1.2) or None
    seconds = round(last["rto_s"] + now["bytes"] / CARRY_RATE, 1)
    how = f"the last drill took {last['rto_s']:.1f} s, carrying {now['bytes'] / 1e6:.0f} MB over comes to it"
    return {"seconds": seconds, "how": how, "space": space}


def planned(dsn: Mapping, database: str, *, to: str = "", copy: str = "", drill: Mapping | None = None) -> dict:
    """The plan of going back `to` a moment, or to a `copy` of before; changes nothing.

    `identity`, with obstacles, sessions, blocked (databases), at_risk {seconds, rows, how}, loses (bool: acceptance is needed), and
    estimate of `duration`.
    """
    import psycopg

    now = identity(dsn, database)
    with psycopg.connect(**{**dsn, "dbname": "postgres", "autocommit": True}) as admin:
        found = {"obstacles": db_switch.obstacles(admin, database), "sessions": len(db_switch.sessions(admin, now["oid"]))}
        found["blocked"] = [name for _oid, name, _pid in admin.execute(db_switch.MARKED, [db_switch.MARK]).fetchall()]
        risk = {"seconds": 0.0, "rows": 0, "how": "nothing goes back"}
        if to:
            risk = at_risk(now, wanted(to)["time"])
        elif copy:
            risk = since_copy(admin, now, copy)
    loses = risk["rows"] != 0 or (bool(to) and risk["seconds"] != 0)
    return {**now, **found, "to": to, "copy": copy, "at_risk": risk, "loses": loses, "estimate": duration(now, drill if to else None)}


def since_copy(admin: object, now: Mapping, copy: str) -> dict:
    """What was written since a copy was made, by the counters that stand on it. Raises SwitchError if it is no copy of Greenroom's."""
    marked = {name: value for _oid, name, value in admin.execute(db_switch.MARKED, [COPIED]).fetchall()}
    if copy not in marked:
        raise SwitchError(f"{copy} is no copy that Greenroom made; those are: {', '.join(marked) or 'none'}")
    time, changes = marked[copy].split("/")
    seconds = round(now["now"] - float(time), 1)
    if now["since"] > float(time):
        return {"seconds": seconds, "rows": None, "how": "the server's counters were reset since the copy was made"}
    return {"seconds": seconds, "rows": max(0, now["changes"] - int(changes)), "how": "counted since the copy was made"}


def refuse(dsn: Mapping, plan: Mapping) -> dict:
    """`identity` now. Raises SwitchError if server, database or revision are not those of the plan, or if a migration runs."""
    import psycopg

    now = identity(dsn, plan["database"])
    other = [f"{key} is {now[key]}, the plan has {plan[key]}" for key in ("system_identifier", "oid", "revision") if now[key] != plan[key]]
    if other:
        raise SwitchError(f"{plan['database']} is not what was planned for: {'; '.join(other)}. Plan again. Nothing was changed")
    with psycopg.connect(**{**dsn, "dbname": "postgres", "autocommit": True}) as admin:
        running = db_switch.holders(admin, plan["database"], migration.LOCK_KEY)
    if running:
        who = "; ".join(f"pid {pid} {name} since {since}" for pid, name, since in running)
        raise SwitchError(f"a migration of {plan['database']} runs: {who}. Wait for it, or end it. Nothing was changed")
    return now


def copied(admin: object, dsn: Mapping, database: str, name: str, deadline_s: float) -> dict:
    """A copy of the database for a swap back, with its time and counter on it: {name, ended, seconds}. Nobody may be in it meanwhile.

    Raises SwitchError. A copy that a killed run has left under this name is made anew.
    """
    now = identity(dsn, database)
    if db_switch.exists(admin, name):
        raise SwitchError(f"a database {name} is there already: it may be the only copy of something. Choose another name")
    partial = f"{name}_partial"
    admin.execute(f"DROP DATABASE IF EXISTS {db_switch.quoted(partial)} WITH (FORCE)")
    try:
        done = db_switch.copy(admin, database, partial, deadline_s)
    except BaseException:
        admin.execute(f"DROP DATABASE IF EXISTS {db_switch.quoted(partial)} WITH (FORCE)")
        raise
    with admin.transaction():
        admin.execute(f"ALTER DATABASE {db_switch.quoted(partial)} SET {COPIED} = '{now['now']}/{now['changes']}'")
        admin.execute(f"ALTER DATABASE {db_switch.quoted(partial)} RENAME TO {db_switch.quoted(name)}")
    return {"name": name, **done}


def repositories(config: str) -> tuple[PgBackRest, tuple[int, ...], dict]:
    """(pgBackRest, numbers of its repositories, the configuration) of a host's backup.json."""
    document = read_config(config)
    physical = document["physical"]
    return PgBackRest(physical["stanza"], physical["config_file"]), tuple(int(one["key"]) for one in physical["repositories"]), document


def secured(admin: object, dsn: Mapping, plan: Mapping, id: str, *, config: str | None, wait_s: float, deadline_s: float) -> dict:
    """What can be gone back to if the way back itself goes wrong: {kind: point | copy, name, …}. The caller holds the lock of operations.

    config: backup.json of the database host; without one nothing is archived and a copy is made, for which nobody may be in the database.
    Raises BackupError, SwitchError: then nothing destructive may follow.
    """
    refuse(dsn, plan)
    if not config:
        name = f"{plan['database']}_safety_{id}"
        return {"kind": "copy", **copied(admin, dsn, plan["database"], name, deadline_s)}
    if not Path(config).is_file():
        raise BackupError(f"{config}: is not there, so nothing is known of the archive. Run the role db_backup on this host")
    pgbackrest, repos, _document = repositories(config)
    return {"kind": "point", **wal.restore_point(admin, wal.point_name(f"before_rollback_{id}"), pgbackrest, repos, wait_s)}


def check_safety(admin: object, safety: Mapping | None) -> None:
    """Raise SwitchError unless `safety` is what `secured` gave, and still so."""
    kind = (safety or {}).get("kind")
    if kind not in ("point", "copy") or not safety.get("name"):
        raise SwitchError("no restore point and no copy was made before: nothing is changed without one (state: secured)")
    if kind == "copy" and not db_switch.exists(admin, safety["name"]):
        raise SwitchError(f"the copy {safety['name']} that was made before is gone. Make another one (state: secured). Nothing was changed")
    if kind == "point" and not safety.get("repos"):
        raise SwitchError(f"restore point {safety['name']} was never confirmed in the archive. Nothing was changed")
