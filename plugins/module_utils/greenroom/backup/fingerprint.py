"""The fingerprint of a database: a SHA-256 of every table's rows, its schema, its catalogues, sequences and large objects.

Two databases with equal fingerprints hold the same. All of it is read in one exported snapshot, so a dump taken in that snapshot must
have the same fingerprint whatever was written meanwhile. Rows are hashed as COPY writes them, in the order of the primary key; a table
with a whole-number key is cut into at most RANGES ranges of it, which run side by side and locate a difference.
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
import subprocess
import threading
from collections.abc import Iterable, Mapping

from . import schema
from .comparison import differences
from .errors import BackupError
from .pipeline import Children, libpq

__all__ = ["differences", "take"]

FORMAT = 1
RANGES = 16
SPAN_OF_ONE_RANGE = 1 << 17  # keys; a table whose keys span no more than this is one range
LARGE_BYTES = 24 << 20  # heap from which psql reads a table: it hands out rows in blocks, psycopg one by one
BLOCK = 1 << 18
# Locales whose order is the order of code points: an index of a text key can then be used as it is.
PLAIN_LOCALES = ("C", "POSIX", "C.UTF-8", "C.utf8")
INTEGERS = ("smallint", "integer", "bigint")

_TABLES = """
SELECT c.oid, format('%I.%I', n.nspname, c.relname), c.relpersistence, pg_table_size(c.oid),
  (SELECT array_agg(jsonb_build_array(format('%I', a.attname), format_type(a.atttypid, NULL), a.attcollation <> 0,
     a.attcollation = 'pg_catalog."default"'::regcollation) ORDER BY a.attnum)
   FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  (SELECT array_agg(format('%I', a.attname) ORDER BY k.place)
   FROM pg_index i CROSS JOIN unnest(i.indkey) WITH ORDINALITY k(attnum, place)
     JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
   WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid AND k.place <= i.indnkeyatts)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_toast'
ORDER BY 2
"""


class Piece:
    """A part of a table that one worker reads: `query` for COPY; `number` of the range."""

    def __init__(self, table: str, number: int, query: str, size: int):
        self.table, self.number, self.query, self.size = table, number, query, size


def take(
    dsn: Mapping,
    *,
    snapshot: str | None = None,
    workers: int = 2,
    bin_dir: str,
    like: Mapping | None = None,
    tables: Iterable[str] | None = None,
) -> dict:
    """The fingerprint of a database, JSON-able.

    dsn: libpq keywords of a role that may read everything. snapshot: an exported one; without it the fingerprint exports its own.
    workers: connections that read rows side by side. like: an earlier fingerprint whose ranges of keys are used again, so that a row
    too few or too many is found in its range (equal data have equal ranges without it). tables: only these, as `schema.table`.

    {format, database, database_oid, database_bytes, system_identifier, server_version, server_version_num, snapshot, lsn, rows, bytes,
    tables: {name: {rows, bytes, sha256, persistence, columns, key, ranges: [[from, below, rows, sha256], …]}}} and, without `tables=`,
    {sequences: {name: {low: [value, given out], high: …}}, large_objects: {oid: sha256}, catalog: {section: {object: value}},
    schema: text of pg_dump -s}.

    Raises BackupError, naming the table, when anything could not be read.
    """
    import psycopg

    try:
        return _take(dsn, snapshot, workers, bin_dir, like, None if tables is None else set(tables))
    except psycopg.Error as error:
        raise BackupError(f"database {dsn.get('dbname')}: {str(error).strip()}") from error


def _take(dsn: Mapping, snapshot: str | None, workers: int, bin_dir: str, like: Mapping | None, tables: set | None) -> dict:
    import psycopg

    with psycopg.connect(**{**dsn, "autocommit": True}) as leader:
        leader.execute(schema.pin_statement())
        leader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        if snapshot:
            leader.execute(f"SET TRANSACTION SNAPSHOT {_literal(snapshot)}")
        else:
            snapshot = leader.execute("SELECT pg_export_snapshot()").fetchone()[0]
        result = _identity(leader)
        found, pieces = _plan(leader, like, tables)
        reader = _Readers(dsn, snapshot, bin_dir)
        # Longest first: the last piece to end is a short one.
        for piece, (rows, size, digest) in reader.run(sorted(pieces, key=lambda one: -one.size), workers):
            found[piece.table]["ranges"][piece.number][2:] = [rows, size, digest]
        for table in found.values():
            parts = table["ranges"]
            table |= {"rows": sum(part[2] for part in parts), "bytes": sum(part[3] for part in parts)}
            table["sha256"] = hashlib.sha256("".join(part[4] for part in parts).encode()).hexdigest() if len(parts) > 1 else parts[0][4]
            table["ranges"] = [[part[0], part[1], part[2], part[4]] for part in parts]
        result |= {
            "tables": found,
            "rows": sum(one["rows"] for one in found.values()),
            "bytes": sum(one["bytes"] for one in found.values()),
        }
        if tables is None:
            values = schema.sequence_values(leader)
            result["sequences"] = {name: {"low": value, "high": value} for name, value in values.items()}
            result["large_objects"] = _large_objects(leader)
            result["catalog"] = schema.catalog(leader)
            result["schema"] = schema.dump_schema(dsn, bin_dir, snapshot)
        leader.execute("COMMIT")
    result["snapshot"] = snapshot
    return result


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _identity(connection) -> dict:
    row = connection.execute(
        "SELECT current_database(), (SELECT oid::bigint FROM pg_database WHERE datname = current_database()),"
        " (SELECT system_identifier::text FROM pg_control_system()), current_setting('server_version'),"
        " current_setting('server_version_num')::int, pg_database_size(current_database()),"
        " CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text"
    ).fetchone()
    names = ("database", "database_oid", "system_identifier", "server_version", "server_version_num", "database_bytes", "lsn")
    return {"format": FORMAT, **dict(zip(names, row, strict=True))}


def _plan(connection, like: Mapping | None, only: set | None) -> tuple[dict, list[Piece]]:
    """({table: entry with ranges still to be filled}, pieces to read)."""
    locale = connection.execute("SELECT datcollate FROM pg_database WHERE datname = current_database()").fetchone()[0]
    found, pieces = {}, []
    for _oid, name, persistence, size, columns, key in connection.execute(_TABLES).fetchall():
        if only is not None and name not in only:
            continue
        columns = columns or []
        names = [column[0] for column in columns]
        types = {column[0]: column for column in columns}
        before = like["tables"].get(name) if like else None
        integer = key is not None and len(key) == 1 and types[key[0]][1] in INTEGERS
        if integer and before and before.get("key") == key[0]:
            bounds = [(part[0], part[1]) for part in before["ranges"]]
        else:
            extremes = connection.execute(f"SELECT min({key[0]}), max({key[0]}) FROM ONLY {name}").fetchone() if integer else (None, None)
            bounds = ranges(*extremes)
        order = _order(key, types, locale)
        entry = {"persistence": persistence, "columns": names, "key": key[0] if integer else None}
        entry["ranges"] = [[low, high, 0, 0, ""] for low, high in bounds]
        found[name] = entry
        for number, (low, high) in enumerate(bounds):
            where = [f"{key[0]} >= {low}"] if low is not None else []
            where += [f"{key[0]} < {high}"] if high is not None else []
            condition = f" WHERE {' AND '.join(where)}" if where else ""
            query = f"COPY (SELECT {', '.join(names)} FROM ONLY {name} AS t{condition}{order}) TO STDOUT"
            pieces.append(Piece(name, number, query, size // len(bounds)))
    if only is not None and only - set(found):
        raise BackupError(f"no table {', '.join(sorted(only - set(found)))} in this database")
    return found, pieces


def _order(key: list | None, types: Mapping, locale: str) -> str:
    """ORDER BY of a table: its primary key; without one the whole row as text, where equal rows may come in any order.

    Texts are ordered by code points: another host's locale of the same name may order them differently.
    """
    if not types:
        return ""
    if not key:
        return ' ORDER BY t::text COLLATE "C"'
    parts = []
    for column in key:
        _name, _type, collatable, default = types[column]
        plain = not collatable or (default and locale in PLAIN_LOCALES)
        parts.append(column if plain else f'{column} COLLATE "C"')
    return " ORDER BY " + ", ".join(parts)


def ranges(low: int | None, high: int | None) -> list[tuple[int | None, int | None]]:
    """Ranges [from, below) of a whole-number key, at most RANGES, open at both ends.

    They follow from the lowest and the highest key alone, so equal data have equal ranges.
    """
    if low is None or high is None or high - low < SPAN_OF_ONE_RANGE:
        return [(None, None)]
    step = SPAN_OF_ONE_RANGE
    while (high // step) - (low // step) + 1 > RANGES:
        step *= 2
    cuts = [number * step for number in range(low // step + 1, high // step + 1)]
    return list(zip([None, *cuts], [*cuts, None], strict=True))


class _Readers:
    """Threads that take pieces from one queue, each with a connection of its own inside the snapshot."""

    def __init__(self, dsn: Mapping, snapshot: str, bin_dir: str):
        self.dsn, self.snapshot, self.bin_dir = dsn, snapshot, bin_dir
        self.todo: queue.SimpleQueue = queue.SimpleQueue()
        self.done: list = []
        self.errors: list[Exception] = []

    def run(self, pieces: list[Piece], workers: int) -> list:
        for piece in pieces:
            self.todo.put(piece)
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(max(1, min(workers, len(pieces))))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.errors:
            raise self.errors[0]
        return self.done

    def _work(self) -> None:
        import psycopg

        piece = None
        try:
            with psycopg.connect(**{**self.dsn, "autocommit": True}) as connection:
                connection.execute(schema.pin_statement())
                connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                connection.execute(f"SET TRANSACTION SNAPSHOT {_literal(self.snapshot)}")
                while not self.errors:
                    try:
                        piece = self.todo.get_nowait()
                    except queue.Empty:
                        return
                    read = self._by_psql(piece.query) if piece.size >= LARGE_BYTES // RANGES else _by_connection(connection, piece.query)
                    self.done.append((piece, read))
        except Exception as error:
            where = f"table {piece.table}" if piece else "a worker of the fingerprint"
            self.errors.append(BackupError(f"{where} could not be read: {str(error).strip()}"))

    def _by_psql(self, query: str) -> tuple[int, int, str]:
        conninfo, env = libpq(self.dsn)
        statements = [schema.pin_statement(), "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"]
        statements += [f"SET TRANSACTION SNAPSHOT {_literal(self.snapshot)}", query]
        arguments = ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", conninfo]
        for statement in statements:
            arguments += ["-c", statement]
        with Children() as children:
            process = children.start(f"{self.bin_dir}/psql", *arguments, env=env, stdout=subprocess.PIPE)
            hasher, rows, size = hashlib.sha256(), 0, 0
            while block := process.stdout.read(BLOCK):
                hasher.update(block)
                rows, size = rows + block.count(b"\n"), size + len(block)
            children.finish()
        return rows, size, hasher.hexdigest()


def _by_connection(connection, query: str) -> tuple[int, int, str]:
    hasher, rows, size, held, waiting = hashlib.sha256(), 0, 0, [], 0
    with contextlib.ExitStack() as stack:
        for line in stack.enter_context(connection.cursor().copy(query)):
            held.append(line)
            waiting += len(line)
            rows += 1
            if waiting >= BLOCK:
                hasher.update(b"".join(held))
                size, held, waiting = size + waiting, [], 0
    hasher.update(b"".join(held))
    return rows, size + waiting, hasher.hexdigest()


def _large_objects(connection) -> dict[str, str]:
    """{oid: SHA-256 of its content}. PostgreSQL hands out at most 1 GB of one at a time; larger ones are an error."""
    query = "SELECT oid::text, encode(sha256(lo_get(oid)), 'hex') FROM pg_largeobject_metadata ORDER BY oid"
    try:
        return dict(connection.execute(query).fetchall())
    except Exception as error:
        raise BackupError(
            f"large objects could not be read: {str(error).strip()}. Readable are those up to 1 GB, by a superuser"
        ) from error
