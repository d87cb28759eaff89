"""The state of a scratch database: its schema as text, every row of every table, its sequences; and what differs between two of them."""

from __future__ import annotations

import dataclasses
import re
import subprocess

from . import catalog as catalogs
from .catalog import OWN_SCHEMA, Catalog, Table, quoted
from .errors import RehearsalError

NOISE = re.compile(r"^(--|SET |SELECT pg_catalog\.set_config|\\(un)?restrict )")
# pg_dump leaves these out.
INVALID = (
    "SELECT 'INVALID INDEX ' || i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
    " WHERE NOT i.indisvalid AND c.relkind = 'i' ORDER BY 1"
)
MOST = 12  # differences that are spelt out


@dataclasses.dataclass
class Rows:
    """One table's rows as text. key: names of its key, () without one; by_key: {key or (row, copy number): {column: text or None}}."""

    table: Table
    key: tuple[str, ...]
    by_key: dict[tuple, dict[str, str | None]]


@dataclasses.dataclass
class State:
    """schema: lines; rows: {table: Rows}; sequences: {name: last value or None}."""

    schema: list[str]
    catalog: Catalog
    rows: dict[str, Rows]
    sequences: dict[str, int | None]


def dump(cluster: object, dbname: str, version_tables: tuple[str, ...]) -> subprocess.Popen:
    """Starts `pg_dump` of the schema; side copies and the migration tool's own tables are left out."""
    dsn = cluster.dsn(dbname)
    argv = [f"{cluster.bin_dir}/pg_dump", "--schema-only", "--no-password", "-h", dsn["host"], "-p", str(dsn["port"])]
    argv += ["-U", dsn["user"], f"--exclude-schema={OWN_SCHEMA}*", *(f"--exclude-table={name}" for name in version_tables), dbname]
    env = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, stdin=subprocess.DEVNULL)


def schema_lines(process: subprocess.Popen) -> list[str]:
    """What `dump` says, without what is not the schema. Raises RehearsalError."""
    out, err = process.communicate()
    if process.returncode:
        raise RehearsalError(f"the schema could not be read: {err.strip()[-1000:]}")
    return [line for line in out.splitlines() if line.strip() and not NOISE.match(line)]


def read_rows(connection: object, table: Table) -> Rows:
    """Every row of a table."""
    names = [column.name for column in table.columns]
    query = f"SELECT {', '.join(quoted(name) + '::text' for name in names)} FROM {table.sql}"
    found, copies = {}, {}
    places = [names.index(name) for name in table.key]
    for row in connection.execute(query).fetchall():
        if places:
            key = tuple(row[place] for place in places)
        else:
            copies[row] = copies.get(row, 0) + 1
            key = (*row, copies[row])
        found[key] = dict(zip(names, row, strict=True))
    return Rows(table, tuple(table.key), found)


def take(cluster: object, dbname: str, connection: object, version_tables: tuple[str, ...] = ()) -> State:
    """The state of `dbname`; `connection` leads there and has catalog.SETTINGS."""
    process = dump(cluster, dbname, version_tables)
    try:
        catalog = catalogs.read(connection, version_tables)
        rows = {table.label: read_rows(connection, table) for table in catalog.own}
        sequences = dict(
            connection.execute(
                "SELECT CASE schemaname WHEN 'public' THEN '' ELSE schemaname || '.' END || sequencename, last_value FROM pg_sequences"
            ).fetchall()
        )
        invalid = [row[0] for row in connection.execute(INVALID).fetchall()]
    finally:
        lines = schema_lines(process)
    return State(lines + invalid, catalog, rows, sequences)


def without_order(lines: list[str]) -> list[str]:
    """Schema lines in which the order of columns inside a table does not count."""
    found, body = [], None
    for line in lines:
        if line.startswith("CREATE TABLE ") and line.endswith("("):
            found.append(line)
            body = []
        elif body is not None and line.startswith(")"):
            found += [*sorted(body), line]
            body = None
        elif body is not None:
            body.append(line.rstrip(","))
        else:
            found.append(line)
    return found


def schema_differences(before: State, after: State) -> tuple[list[str], bool]:
    """(lines that only one has: `- before`, `+ after`; whether nothing but the order of columns differs)."""
    if before.schema == after.schema:
        return [], False
    old, new = without_order(before.schema), without_order(after.schema)
    if sorted(old) == sorted(new):
        moved = [f"{a.strip()} / {b.strip()}" for a, b in zip(before.schema, after.schema, strict=False) if a != b]
        return ["order of columns: " + line for line in moved[:MOST]] or ["order of statements"], True
    gone, came = list(old), []
    for line in new:
        if line in gone:
            gone.remove(line)
        else:
            came.append(line)
    return [f"- {line.strip()}" for line in gone[:MOST]] + [f"+ {line.strip()}" for line in came[:MOST]], False


@dataclasses.dataclass
class Loss:
    """What of a table is not there any more, or not the same. column None: whole rows. rows: how many; sample: one of them, shortened."""

    table: str
    column: str | None
    rows: int
    sample: str = ""

    def text(self) -> str:
        """For a person."""
        what = f"{self.table}.{self.column}: {self.rows} value(s)" if self.column else f"{self.table}: {self.rows} row(s)"
        return f"{what}, e.g. {self.sample}" if self.sample else what


def short(value: object) -> str:
    """At most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…'"


def row_losses(before: State, after: State, skip: set[str] = frozenset()) -> list[Loss]:
    """What `before` holds and `after` does not, both of the same schema: rows and values, by table and column. skip: table.column."""
    found = []
    for label, rows in before.rows.items():
        there = after.rows.get(label)
        if there is None:
            if rows.by_key:
                found.append(Loss(label, None, len(rows.by_key), "the table is gone"))
            continue
        gone = [key for key in rows.by_key if key not in there.by_key]
        if gone and not rows.key and skip:  # without a key, a column that may differ must not make a row look gone
            names = [name for name in next(iter(rows.by_key.values())) if f"{label}.{name}" not in skip]
            left = [tuple(row.get(name) for name in names) for row in there.by_key.values()]
            gone = [key for key in gone if tuple(rows.by_key[key][name] for name in names) not in left]
        if gone:
            found.append(Loss(label, None, len(gone), short(gone[0])))
        changed: dict[str, list] = {}
        for key, row in rows.by_key.items():
            other = there.by_key.get(key)
            if other is None or other == row:
                continue
            for name, value in row.items():
                if f"{label}.{name}" not in skip and (name not in other or other[name] != value):
                    changed.setdefault(name, []).append((value, other.get(name, "gone")))
        for name, pairs in changed.items():
            found.append(Loss(label, name, len(pairs), f"{short(pairs[0][0])} became {short(pairs[0][1])}"))
    return found


def other_values(before: State, after: State) -> list[Loss]:
    """Columns whose name belongs to another column now, and reads other values: nothing fails, and everything is wrong."""
    found = []
    for loss in row_losses(before, after):
        old, new = before.rows[loss.table].table, after.rows.get(loss.table)
        column = old.named(loss.column) if loss.column else None
        there = new.table.named(loss.column) if new and column else None
        if there and (old.oid, column.number) != (new.table.oid, there.number):
            found.append(loss)
    return found


def row_gains(before: State, after: State) -> list[Loss]:
    """Rows that `after` has and `before` had not, in tables that both have."""
    found = []
    for label, rows in after.rows.items():
        old = before.rows.get(label)
        extra = [key for key in rows.by_key if key not in old.by_key] if old and old.key == rows.key else []
        if extra:
            found.append(Loss(label, None, len(extra), short(extra[0])))
    return found


def sequence_losses(before: State, after: State) -> list[str]:
    """Sequences that went back: they may go on, never back."""
    return [
        f"sequence {name} was at {value}, is at {after.sequences.get(name)}"
        for name, value in before.sequences.items()
        if value is not None and name in after.sequences and (after.sequences[name] or 0) < value
    ]


def counterpart(column_number: int, column_name: str, table: Table, other: Table) -> str | None:
    """What a column is called in the same table at another revision: the same attribute, else the same name; None if it is not there."""
    if table.oid == other.oid and (found := other.column(column_number)):
        return found.name
    found = other.named(column_name)
    return found.name if found else None


def other_table(table: Table, catalog: Catalog) -> Table | None:
    """The same table at another revision: renamed (the same oid), else of the same name."""
    found = catalog.tables.get(table.oid)
    return found or catalog.by_label(table.label)


def carried(upper: State, lower: State, old: State) -> list[Loss]:
    """What the old schema's tables and columns lost on the way down: values of `upper` (the new schema) against `lower` (the old one).

    old: the old schema's state before; only its tables count. Values whose form the schema itself changed differ here too; whether they
    are lost is for a second way up to say.
    """
    found = []
    for label, was in old.rows.items():
        low = lower.rows.get(label)
        if low is None:
            continue  # the schema is not restored: found there
        high_table = other_table(low.table, upper.catalog)
        high = upper.rows.get(high_table.label) if high_table else None
        if high is None:
            continue
        names = {one.name: counterpart(one.number, one.name, low.table, high_table) for one in low.table.columns}
        key = [names.get(name) for name in was.key]
        if was.key and None in key:
            continue
        if not was.key:
            pairs = [(mine, theirs) for mine, theirs in names.items() if theirs]
            there: dict[tuple, int] = {}
            for row in low.by_key.values():
                value = tuple(row[mine] for mine, _ in pairs)
                there[value] = there.get(value, 0) + 1
            gone = []
            for row in high.by_key.values():
                value = tuple(row[theirs] for _, theirs in pairs)
                if not there.get(value):
                    gone.append(value)
                else:
                    there[value] -= 1
            if gone:
                found.append(Loss(label, None, len(gone), short(gone[0])))
            continue
        gone, changed = [], {}
        for row in high.by_key.values():
            here = low.by_key.get(tuple(row[name] for name in key))
            if here is None:
                gone.append(tuple(row[name] for name in key))
                continue
            for mine, theirs in names.items():
                if theirs and here[mine] != row[theirs]:
                    changed.setdefault(mine, []).append((row[theirs], here[mine]))
        if gone:
            found.append(Loss(label, None, len(gone), short(gone[0])))
        for name, pairs in changed.items():
            found.append(Loss(label, name, len(pairs), f"{short(pairs[0][0])} became {short(pairs[0][1])}"))
    return found


def key_changed(loss: Loss, upper: State, again: State, lower: Table) -> bool:
    """Whether what `carried` reports came back on the second way up, so that only its form differs in the old schema."""
    table = other_table(lower, upper.catalog)
    if table is None or table.label not in again.rows:
        return False
    first, second = upper.rows[table.label], again.rows[table.label]
    if loss.column is None:
        return all(key in second.by_key for key in first.by_key)
    name = counterpart(lower.named(loss.column).number, loss.column, lower, table)
    return all(key in second.by_key and second.by_key[key].get(name) == row.get(name) for key, row in first.by_key.items())
