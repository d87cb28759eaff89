"""A database carried over from a clone into the live server, under a name of its own, equal to the clone; and rows copied back from it.

Nothing live is touched while it is loaded: everybody else sees one more database that nobody can connect to. It is swapped in by its name
afterwards (`db_switch.swap`), or single rows and tables are copied back from it. PostgreSQL manual: pg_restore, "Managing Databases".
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from . import db_switch, durable
from .backup import fingerprint, restore, seal
from .backup.errors import BackupError, NoSpaceError
from .backup.pipeline import libpq, run
from .db_clone import CARRIED, FACTS, SEALED, TRANSIT, amcheck
from .db_plan import CARRY_ROOM
from .db_switch import SwitchError, quoted
from .rehearsal import catalog as catalogs
from .rehearsal import side_copy
from .rehearsal.errors import RehearsalError

# What belongs to the server, or is given again at the swap: the live one's newest stays.
LIVE = ("database", "database_settings", "roles", "tablespaces", "subscriptions")


def key(folder: Path) -> str:
    """Make a key of age for one transfer; its public half. The private one stays in `folder` of this host and goes with it."""
    file = Path(folder) / TRANSIT
    if not file.exists():
        run("age-keygen", "-o", str(file))
    return seal.recipient_of(file)


def opened(folder: Path, part: Mapping | None) -> tuple[Path, dict]:
    """(folder with the dump, its facts) of what came from the clone, unsealed if it was sealed. Raises BackupError."""
    folder = Path(folder)
    carried = folder / CARRIED
    if (folder / SEALED).exists():
        if carried.exists():
            shutil.rmtree(carried)
        carried.mkdir(mode=0o700)
        seal.unpack(folder / SEALED, carried, folder / TRANSIT, dict(part or {}) or None)
        (folder / SEALED).unlink()
    try:
        facts = json.loads((carried / FACTS).read_text())
        taken = json.loads((carried / "fingerprint.json").read_text())
    except (OSError, ValueError) as error:
        raise BackupError(f"{carried}: holds no whole dump of a clone ({error}). Make the clone again") from error
    if durable.digest(taken) != facts["fingerprint"]:
        raise BackupError(f"{carried}: its fingerprint was changed on the way. Make the clone again")
    return carried, {**facts, "taken": taken}


def carried_over(
    dsn: Mapping, plan: Mapping, folder: Path, name: str, *, bin_dir: str, part: Mapping | None = None, workers: int = 2,
    check_space: bool = True, tablespace: str | None = None,
) -> dict:  # fmt: skip
    """Load what came from the clone into the new database `name` of the live server, and prove it equal: {name, oid, rows, tables, bytes,
    seconds, what}.

    dsn: of the server's superuser. The caller holds the lock of operations. What a killed run has left under `name` is removed first.
    Raises BackupError (NoSpaceError), SwitchError; the new database is gone then, the live one was never touched.
    """
    import psycopg

    seconds, source = {}, None
    with _timed(seconds, "open"):
        source, facts = opened(folder, part)
    for what in ("database", "system_identifier"):
        if facts[what] != plan[what]:
            raise BackupError(f"the dump is of {what.replace('_', ' ')} {facts[what]}, the plan of {plan[what]}. Nothing was changed")
    target = {**dsn, "dbname": name}
    with psycopg.connect(**{**dsn, "dbname": "postgres", "autocommit": True}) as admin:
        _check_room(admin, facts["bytes"], check_space)
        restore.check_extensions(admin, {one: each["version"] for one, each in facts["taken"]["catalog"]["extensions"].items()})
        _check_roles(admin, facts["taken"])
        admin.execute(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)")
        try:
            with _timed(seconds, "load"):
                _create(admin, name, plan["owner"], facts["locale"], tablespace)
                conninfo, env = libpq(target)
                env["PGOPTIONS"] = restore.OPTIONS
                arguments = ["--exit-on-error", f"-j{workers}", "--dbname", conninfo, str(source / "dump")]
                advice = "The live database was not touched. What is missing above must be made on the server first"
                done = run(f"{bin_dir}/pg_restore", *arguments, env=env, advice=advice)
                restore.silent("pg_restore", done.stderr)
            with _timed(seconds, "compare"):
                _compare(dsn, target, facts["taken"], bin_dir, workers)
            with _timed(seconds, "check"):
                amcheck(target, bin_dir, workers)
                with psycopg.connect(**{**target, "autocommit": True}) as connection:
                    connection.execute("ANALYZE")  # a dump carries no statistics for the planner
            oid = db_switch.oid_of(admin, name)
        except BaseException as error:
            # In this order: on a full disk no checkpoint succeeds, and so no other database goes, until the buffers of this one are gone.
            for left in (name, schema_name(name)):
                with contextlib.suppress(psycopg.Error):
                    admin.execute(f"DROP DATABASE IF EXISTS {quoted(left)} WITH (FORCE)")
            if isinstance(error, psycopg.errors.InternalError_) and "checkpoint" in str(error):
                text = f"a checkpoint of the server failed while {name} was loaded, as it does on a full disk; see the server's log"
                raise NoSpaceError(f"{text}. {name} is removed again, nothing live was touched") from error
            if isinstance(error, psycopg.errors.DiskFull):
                text = f"the database's disk is full: {str(error).strip()}. {name} is removed again, nothing live was touched"
                raise NoSpaceError(text) from error
            raise
    return {"name": name, "oid": oid, "seconds": seconds, **{key: facts[key] for key in ("rows", "tables", "bytes", "what")}}


def schema_name(name: str) -> str:
    """The database in which the schema of `name` is made once more, for the comparison."""
    return f"{name}_schema"


@contextlib.contextmanager
def _timed(seconds: dict, name: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - start, 3)


def _check_room(admin: object, size: int, check: bool) -> None:
    data = admin.execute("SHOW data_directory").fetchone()[0]
    free, needed = shutil.disk_usage(data).free, int(size * CARRY_ROOM)
    if check and free < needed:
        raise NoSpaceError(
            f"{data}: {free / 1e6:.0f} MB are free there, the restored database needs {needed / 1e6:.0f} MB beside the live one. Free space"
            " there. Nothing was changed"
        )


def _check_roles(admin: object, taken: Mapping) -> None:
    """Owners and those who have rights must be there before anything is loaded: all that are missing, at once."""
    found = set()
    for section in taken["catalog"].values():
        for value in section.values():
            if isinstance(value, Mapping):
                found |= {value["owner"]} if value.get("owner") else set()
                found |= {one.rpartition(":")[0] for one in value.get("grants") or []}
    known = {row[0] for row in admin.execute("SELECT rolname::text FROM pg_roles").fetchall()} | {"PUBLIC"}
    if missing := sorted(found - known):
        make = "; ".join(f"CREATE ROLE {quoted(one)} NOLOGIN" for one in missing)
        raise BackupError(f"roles are missing on this server: {', '.join(missing)}. Make them first: {make}. Nothing was changed")


def _create(admin: object, name: str, owner: str, locale: Mapping, tablespace: str | None) -> None:
    import psycopg

    texts = {key: "'" + str(value).replace("'", "''") + "'" for key, value in locale.items() if value}
    icu = f" LOCALE_PROVIDER icu ICU_LOCALE {texts['icu_locale']}" if locale["provider"] == "i" else ""
    statement = (
        f"CREATE DATABASE {quoted(name)} TEMPLATE template0 OWNER {quoted(owner)} ENCODING {texts['encoding']}"
        f" LC_COLLATE {texts['collate']} LC_CTYPE {texts['ctype']}{icu} CONNECTION LIMIT 0"
        + (f" TABLESPACE {quoted(tablespace)}" if tablespace else "")
    )
    try:
        admin.execute(statement)
    except psycopg.errors.WrongObjectType as error:
        text = f"locale {locale['collate']} of the database is missing on this server: {str(error).strip()}"
        raise BackupError(f"{text}. Generate it (locale-gen), restart PostgreSQL. Nothing was changed") from error


def _compare(dsn: Mapping, target: Mapping, before: Mapping, bin_dir: str, workers: int) -> None:
    after = fingerprint.take(target, workers=workers, bin_dir=bin_dir, like=before)
    same = [{**one, "catalog": {key: value for key, value in one["catalog"].items() if key not in LIVE}} for one in (before, after)]
    name = target["dbname"]
    # A physical clone counts its sequences ahead by what a server reserves for a crash; the dump has the same value, so it is exact here.
    found = fingerprint.differences(*same, reload=lambda text: restore.reloaded(dsn, bin_dir, name, text, schema_name(name)))
    if found:
        raise BackupError(f"{name} differs from the clone: {'; '.join(found[:10])}. It is removed again, nothing live was touched")


# --- rows back ------------------------------------------------------------------------------------------------------------------


def copied_back(
    dsn: Mapping, live: str, source: str, id: str, tables: Sequence[Mapping], *, rows: str = "missing", bin_dir: str
) -> list[dict]:  # fmt: skip
    """Copy rows of `tables`, [{table, where}], from the database `source` back into `live`: [{table, inserted, updated, made}].

    rows: `missing` puts back only rows whose key is gone, `all` also gives rows that are there their old values. A table that is gone is
    made again with all it had. The rows that were fetched stay in the schema `_rb_copy_back_<id>`. Raises BackupError, SwitchError.
    """
    import psycopg

    label = f"copy_back_{id}"
    done = []
    try:
        with (
            psycopg.connect(**{**dsn, "dbname": source, "autocommit": True}) as old,
            psycopg.connect(**{**dsn, "dbname": live, "autocommit": True}) as new,
        ):
            was, now = catalogs.read(old), catalogs.read(new)
            side_copy.drop(new, label)
            wanted = []
            for one in tables:
                if (table := was.by_label(one["table"])) is None:
                    raise BackupError(f"{one['table']}: there is no such table in {source}. Nothing was copied from it")
                if now.by_label(table.label) is None:
                    _whole_table({**dsn, "dbname": source}, {**dsn, "dbname": live}, table, bin_dir)
                    count = new.execute(f"SELECT count(*) FROM {table.sql}").fetchone()[0]
                    done.append({"table": table.label, "inserted": count, "updated": 0, "made": True})
                else:
                    wanted.append((table, one.get("where")))
            if wanted:
                with old.transaction(), new.transaction():
                    old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                    new.execute(f"CREATE SCHEMA {quoted(side_copy.schema_of(label))}")
                    for table, where in wanted:
                        _stream(old, new, table, side_copy.schema_of(label), where)
                        if rows == "missing" and table.key:
                            _only_gone(new, table, side_copy.schema_of(label))
                back = side_copy.put_back(new, label)
                done += [{**{key: one[key] for key in ("table", "inserted", "updated")}, "made": False} for one in back]
    except (psycopg.Error, RehearsalError) as error:
        raise BackupError(f"copying back into {live} failed: {str(error).strip()}. Batches before it stay; run it again") from error
    return done


def _stream(old: object, new: object, table: object, schema: str, where: str | None) -> None:
    """A table's rows into `schema` of the live database, types as there."""
    columns = [column for column in table.columns if not column.generated]
    names = ", ".join(quoted(column.name) for column in columns)
    copy = f"{quoted(schema)}.{quoted(table.label)}"
    new.execute(f"CREATE TABLE {copy} AS SELECT {names} FROM {table.sql} WITH NO DATA")
    query = f"COPY (SELECT {names} FROM {table.sql} AS t{f' WHERE {where}' if where else ''}) TO STDOUT"
    with old.cursor().copy(query) as reading, new.cursor().copy(f"COPY {copy} FROM STDIN") as writing:
        for block in reading:
            writing.write(block)


def _only_gone(new: object, table: object, schema: str) -> None:
    """Of the fetched rows keep those whose key is not in the live table."""
    same = " AND ".join(f"t.{quoted(name)} = c.{quoted(name)}" for name in table.key)
    new.execute(f"DELETE FROM {quoted(schema)}.{quoted(table.label)} AS c USING {table.sql} AS t WHERE {same}")


def _whole_table(source: Mapping, target: Mapping, table: object, bin_dir: str) -> None:
    """A table that is gone, with its definition, indexes, constraints and rights, in one transaction."""
    conninfo, env = libpq(source)
    dumped = run(f"{bin_dir}/pg_dump", "-Fc", "-t", table.sql, "--dbname", conninfo, env=env)
    conninfo, env = libpq(target)
    env["PGOPTIONS"] = restore.OPTIONS
    done = run(f"{bin_dir}/pg_restore", "--exit-on-error", "--single-transaction", "--dbname", conninfo, env=env, input=dumped.stdout)
    restore.silent("pg_restore", done.stderr)


def settled(admin: object, database: str, replacement: str, kept: str) -> bool:
    """Whether an earlier run has swapped already: what was to come in is gone under its own name, and what was live is kept."""
    there = {name: db_switch.exists(admin, name) for name in (database, replacement, kept)}
    if there[kept] and there[replacement]:
        raise SwitchError(f"both {replacement} and {kept} are there: {kept} may be the only copy of something. Choose another id")
    return there[database] and there[kept] and not there[replacement]
