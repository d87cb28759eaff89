"""The serving release's statements against another schema: recorded texts are prepared, generated ones are executed and rolled back.

What is good at P and bad at R breaks the release that still runs when R is there (the expand and contract rule).
"""

from __future__ import annotations

import dataclasses

from .catalog import Catalog, Table, quoted
from .seed import Seeded
from .values import value_of

RECORDED = """
    SELECT DISTINCT query FROM pg_stat_statements s JOIN pg_roles r ON r.oid = s.userid
     WHERE r.rolname = %s AND s.dbid = (SELECT oid FROM pg_database WHERE datname = coalesce(%s, current_database()))
"""
# PREPARE takes these only; BEGIN, SET and the like depend on no schema.
PREPARED = ("select", "insert", "update", "delete", "with", "merge", "values")


@dataclasses.dataclass(frozen=True)
class Statement:
    """text with psycopg's placeholders if there are values; recorded ones are only prepared."""

    text: str
    values: tuple | None = None
    recorded: bool = False
    about: str = ""


def recorded(connection: object, role: str, database: str | None = None) -> list[str]:
    """The distinct statements of a role in a database, by default this one, from pg_stat_statements (extension needed); to be handed on."""
    rows = connection.execute(RECORDED, [role, database]).fetchall()
    return sorted(row[0] for row in rows if row[0].split(None, 1)[0].lower() in PREPARED)


def generated(catalog: Catalog, seeded: Seeded, k: int) -> list[Statement]:
    """Of every table that has rows: SELECT of all its columns, INSERT of each kind of row, UPDATE of each column, DELETE.

    seeded: rows of another round of values that the old schema took; its inserts come after each other, parents first.
    """
    found = []
    for table in catalog.own:
        names = ", ".join(quoted(column.name) for column in table.columns)
        found.append(Statement(f"SELECT {names} FROM {table.sql}", about=f"SELECT from {table.label}"))
    found += [Statement(one.statement, one.values or None, about=f"INSERT into {one.table} ({one.variant})") for one in seeded.inserts]
    for table in catalog.own:
        found += [*updates(catalog, table, k), Statement(f"DELETE FROM {table.sql} WHERE false", about=f"DELETE from {table.label}")]
    return found


def updates(catalog: Catalog, table: Table, k: int) -> list[Statement]:
    """UPDATE of each column to itself and, of those that no key and no check holds, to another value."""
    held = {number for one in table.constraints for number in one["columns"] or []} | {n for columns in table.unique for n in columns}
    found = []
    for column in table.columns:
        if column.computed:
            continue
        name, about = quoted(column.name), f"UPDATE of {table.label}.{column.name}"
        found.append(Statement(f"UPDATE {table.sql} SET {name} = {name}", about=about))
        value = None if column.number in held else value_of(catalog, column.type, column.modifier, "full", k, True)
        if value is not None:
            found.append(Statement(f"UPDATE {table.sql} SET {name} = %s", (value,), about=about))
            if not column.not_null:
                found.append(Statement(f"UPDATE {table.sql} SET {name} = NULL", about=about))
    return found


def tried(connection: object, statements: list[Statement]) -> dict[int, str]:
    """Which statements this schema refuses: {place in the list: why}. Everything is rolled back; connection is autocommit."""
    import psycopg

    refused = {}
    with connection.transaction(force_rollback=True):
        for place, one in enumerate(statements):
            if one.recorded:
                continue
            try:
                with connection.transaction(force_rollback=one.text.startswith(("DELETE", "UPDATE"))):
                    connection.execute(one.text, one.values)
            except psycopg.Error as error:
                refused[place] = str(error).strip().splitlines()[0]
    return {**refused, **prepared(connection, statements)}


def prepared(connection: object, statements: list[Statement]) -> dict[int, str]:
    """As `tried`, of the recorded ones. The search path is the service's: public."""
    import psycopg

    refused = {}
    with connection.transaction(force_rollback=True):
        connection.execute('SET LOCAL search_path = "$user", public')
        for place, one in enumerate(statements):
            if not one.recorded:
                continue
            try:
                with connection.transaction(force_rollback=True):
                    connection.execute(f"PREPARE greenroom_{place} AS {one.text}".encode())
                    connection.execute(f"DEALLOCATE greenroom_{place}")
            except psycopg.Error as error:
                refused[place] = str(error).strip().splitlines()[0]
    return refused


def breaks(statements: list[Statement], at_parent: dict[int, str], at_revision: dict[int, str]) -> list[str]:
    """What worked and does not any more, each about once: `INSERT into things (full): column "x" … does not exist`."""
    found = {}
    for place, why in at_revision.items():
        if place not in at_parent:
            one = statements[place]
            found.setdefault((one.about or one.text[:120]).split(" (")[0] if not one.recorded else one.text[:200], why)
    return [f"{about}: {why}" for about, why in found.items()]
