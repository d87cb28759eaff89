"""Copies of columns and tables that a migration would lose, beside the live ones, and the way back.

A copy of table T for revision R is `_rb_R.T`: the key's columns and those that are named, in the same transaction as what would lose them
if the caller wants so. Putting it back updates rows that are there and inserts those that are not, in batches that each commit.
"""

from __future__ import annotations

import re

from .catalog import OWN_SCHEMA, Catalog, Column, Table, quoted, read
from .errors import RehearsalError

BATCH = 10_000  # rows an UPDATE
FIRST_MADE = 16384  # object ids below it are PostgreSQL's own


def schema_of(revision: str) -> str:
    """The schema that holds a revision's copies; names in PostgreSQL have at most 63 bytes."""
    return (OWN_SCHEMA + re.sub(r"[^A-Za-z0-9_]", "_", revision))[:63]


def merged(wanted: list[dict]) -> list[dict]:
    """[{table, columns | None}] with each table once; None is the whole table, and swallows single columns."""
    found: dict[str, set | None] = {}
    for one in wanted:
        if one.get("columns") is None or found.get(one["table"], set()) is None:
            found[one["table"]] = None
        else:
            found.setdefault(one["table"], set()).update(one["columns"])
    return [{"table": table, "columns": None if columns is None else sorted(columns)} for table, columns in found.items()]


def rendered(catalog: Catalog, revision: str, wanted: list[dict]) -> list[dict]:
    """What copying `wanted`, [{table, columns | None}], takes: [{table, copy, columns, key, sql}], after the schema `schema_sql` makes.

    Raises RehearsalError if a table or a column is not there. Of a table without a key whole rows are copied: single columns could not be
    put back, for its rows cannot be told apart.
    """
    schema, found = schema_of(revision), []
    for one in merged(wanted):
        table = catalog.by_label(one["table"])
        if table is None:
            raise RehearsalError(f"{one['table']}: no such table to copy. Is the database where the manifest says?")
        columns = one["columns"] or [column.name for column in table.columns]
        unknown = [name for name in columns if not table.named(name)]
        if unknown:
            raise RehearsalError(f"{one['table']} has no column {', '.join(unknown)}")
        if one["columns"] and not table.key:
            columns = [column.name for column in table.columns]
        names = list(dict.fromkeys([*table.key, *columns]))
        listed = ", ".join(copied(table.named(name)) for name in names)
        sql = f"CREATE TABLE {quoted(schema, table.label)} AS SELECT {listed} FROM {table.sql}"
        found.append({"table": table.label, "copy": f"{schema}.{table.label}", "columns": names, "key": table.key, "sql": sql})
    return found


def schema_sql(revision: str) -> str:
    """SQL that makes the schema of a revision's copies, or says what to do about one that is there."""
    schema = schema_of(revision)
    there = f"schema {schema} is there already: side copies of an earlier try. Put them back or drop them first"
    return (
        f"DO $side_copy$ BEGIN IF to_regnamespace('{quoted(schema)}') IS NOT NULL THEN RAISE EXCEPTION '{there}';"
        f" END IF; CREATE SCHEMA {quoted(schema)}; END $side_copy$"
    )


def make(connection: object, revision: str, wanted: list[dict], catalog: Catalog | None = None) -> list[dict]:
    """Copy what is wanted, [{table, columns | None}]; [{table, copy, columns, key, rows}].

    Runs in the caller's transaction if there is one. Raises RehearsalError as `rendered`, or if there are copies of this revision already.
    """
    import psycopg

    made = rendered(catalog or read(connection), revision, wanted)
    try:
        connection.execute(schema_sql(revision))
    except psycopg.errors.RaiseException as error:
        raise RehearsalError(error.diag.message_primary) from error
    for one in made:
        connection.execute(one.pop("sql"))
        one["rows"] = connection.execute(f"SELECT count(*) FROM {quoted(*one['copy'].split('.', 1))}").fetchone()[0]
    return made


def copied(column: Column) -> str:
    """A column of a copy. Of a type that somebody made its text is kept: a copy must not keep a migration from dropping the type."""
    name = quoted(column.name)
    return f"{name}::text AS {name}" if column.type >= FIRST_MADE else name


def put_back(connection: object, revision: str, batch: int = BATCH) -> list[dict]:
    """Put a revision's copies back, parents first; [{table, inserted, updated, columns}] with the columns that could be put back.

    connection: autocommit, so that each batch is a transaction of its own. Rows that are there get their copied columns again; rows that
    are gone are inserted. Columns that the table does not have now are left in the copy. Raises RehearsalError if there is no copy, or if
    a copy's table is not there.
    """
    from .seed import fill_order

    catalog, schema = read(connection), schema_of(revision)
    names = [
        name
        for (name,) in connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(%s) AND relkind = 'r'", [quoted(schema)]
        )
    ]
    if not names:
        raise RehearsalError(f"there are no side copies in schema {schema}")
    missing = [name for name in names if not catalog.by_label(name)]
    if missing:
        raise RehearsalError(f"{', '.join(missing)}: not there, so its copy in {schema} cannot be put back. Upgrade to the revision first")
    done = []
    for table in fill_order(catalog):
        if table.label in names:
            done.append(put_table_back(connection, table, schema, batch))
    return done


def put_table_back(connection: object, table: Table, schema: str, batch: int) -> dict:
    """One table of `put_back`."""
    copy = quoted(schema, table.label)
    kept = [row[0] for row in connection.execute("SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0", [copy])]
    columns = [name for name in kept if (column := table.named(name)) and not column.generated]
    values = [name for name in columns if name not in table.key and not table.named(name).computed]
    types = dict(
        connection.execute(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped",
            [table.oid],
        ).fetchall()
    )
    listed, mine = ", ".join(map(quoted, columns)), {name: f"c.{quoted(name)}::{types[name]}" for name in columns}
    picked = ", ".join(mine.values())
    result = {"table": table.label, "inserted": 0, "updated": 0, "columns": columns}
    if not table.key:
        there = f"SELECT {listed} FROM {table.sql}"
        result["inserted"] = connection.execute(
            f"INSERT INTO {table.sql} ({listed}) OVERRIDING SYSTEM VALUE"
            f" SELECT * FROM (SELECT {picked} FROM {copy} AS c EXCEPT ALL {there}) AS gone"
        ).rowcount
        return result
    same = " AND ".join(f"t.{quoted(name)} = {mine[name]}" for name in table.key)
    whole = all(column.name in columns or column.computed or not column.not_null or column.default for column in table.columns)
    pages = connection.execute(f"SELECT pg_relation_size('{copy.replace(chr(39), chr(39) * 2)}') / 8192").fetchone()[0]
    rows = connection.execute(f"SELECT count(*) FROM {copy}").fetchone()[0]
    step = max(1, int(pages * batch / rows)) if rows else 1
    for page in range(0, pages, step):  # by place in the copy: each of its pages is read once
        part = f"(SELECT * FROM {copy} WHERE ctid >= '({page},0)' AND ctid < '({page + step},0)') AS c"
        if whole:
            result["inserted"] += connection.execute(
                f"INSERT INTO {table.sql} ({listed}) OVERRIDING SYSTEM VALUE SELECT {picked} FROM {part}"
                f" WHERE NOT EXISTS (SELECT FROM {table.sql} AS t WHERE {same})"
            ).rowcount
        if values:
            sets = ", ".join(f"{quoted(name)} = {mine[name]}" for name in values)
            differ = " OR ".join(f"t.{quoted(name)}::text IS DISTINCT FROM c.{quoted(name)}::text" for name in values)
            result["updated"] += connection.execute(f"UPDATE {table.sql} AS t SET {sets} FROM {part} WHERE {same} AND ({differ})").rowcount
    if result["inserted"]:
        go_on(connection, table, columns)
    return result


def go_on(connection: object, table: Table, columns: list[str]) -> None:
    """Rows that came back have numbers that the table's sequences must not give again."""
    for name in columns:
        sequence = connection.execute("SELECT pg_get_serial_sequence(%s, %s)", [table.sql, name]).fetchone()[0]
        if sequence:
            connection.execute(
                f"SELECT setval('{sequence}', most) FROM (SELECT max({quoted(name)})::bigint AS most FROM {table.sql}) AS t"
                f" WHERE most > coalesce((SELECT last_value FROM {sequence}), 0)"
            )


def drop(connection: object, revision: str) -> None:
    """Drop a revision's copies, all of them."""
    schema = schema_of(revision)
    for (name,) in connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(%s) AND relkind = 'r'", [schema]
    ).fetchall():
        connection.execute(f"DROP TABLE {quoted(schema, name)}")
    connection.execute(f"DROP SCHEMA IF EXISTS {quoted(schema)}")
