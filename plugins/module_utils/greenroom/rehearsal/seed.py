"""Rows for every table and every column of a scratch database, parents first, in many variants; what could not be filled is named.

A rehearsal on an empty table proves nothing, so a table without a row or a column without a value is a gap, and a gap without a declared
reason fails the rehearsal. Values keep to the table's own rules: enum labels and the literals of checks are taken in turn, foreign keys
point at rows that are there, other checks are satisfied by trying.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable

from .catalog import Catalog, Column, Table, literals, quoted
from .values import SHAPES, VARIANTS, value_of

TRIES = 300  # for one check
MOST_ROWS = 40  # of one table, however many labels it has
TIMES = ("date", "timestamp", "timestamptz")


@dataclasses.dataclass(frozen=True)
class Insert:
    """One row that the database took: columns and their values as text (None is NULL)."""

    table: str
    sql: str
    columns: tuple[str, ...]
    values: tuple[str | None, ...]
    variant: str

    @property
    def statement(self) -> str:
        """With placeholders."""
        if not self.columns:
            return f"INSERT INTO {self.sql} DEFAULT VALUES"
        names = ", ".join(quoted(name) for name in self.columns)
        return f"INSERT INTO {self.sql} ({names}) VALUES ({', '.join(['%s'] * len(self.columns))})"


@dataclasses.dataclass
class Seeded:
    """rows: {table: how many}. gaps: what has no row or no value, and why. inserts: what was inserted."""

    rows: dict[str, int] = dataclasses.field(default_factory=dict)
    gaps: list[dict] = dataclasses.field(default_factory=list)
    inserts: list[Insert] = dataclasses.field(default_factory=list)


def fill_order(catalog: Catalog) -> list[Table]:
    """Parents before their children; of a circle, those with fewer obligatory references first."""
    todo, done, order = {one.oid: one for one in catalog.own}, set(), []
    while todo:

        def missing(table: Table) -> list[int]:
            return [key["other"] for key in table.of_kind("f") if key["other"] in todo and key["other"] != table.oid]

        ready = [one for one in todo.values() if not missing(one)]
        for table in ready or [min(todo.values(), key=lambda one: len(obligatory(one, missing(one))))]:
            order.append(table)
            done.add(todo.pop(table.oid).oid)
    return order


def obligatory(table: Table, others: list[int]) -> list[dict]:
    """Foreign keys to `others` that cannot be NULL."""
    return [key for key in table.of_kind("f") if key["other"] in others and all(table.column(number).not_null for number in key["columns"])]


class Filler:
    """Fills one table. `start` makes its values differ from those of another round; `salt` only the parents it points at."""

    def __init__(self, connection: object, catalog: Catalog, table: Table, start: int):
        self.connection, self.catalog, self.table, self.start = connection, catalog, table, start
        self.unique = {number for columns in table.unique for number in columns}
        self.pools = {column.number: self._pool(column) for column in table.columns}
        self.fixes: dict[tuple, tuple[int, ...]] = {}  # {check and its columns: which of the choices satisfied it}
        self.last_error = ""

    def _checks(self, column: Column) -> list[str]:
        own = [one["definition"] for one in self.table.of_kind("c") if column.number in (one["columns"] or [])]
        return own + self.catalog.base(column.type, column.modifier)[2]

    def _pool(self, column: Column) -> list[str]:
        """What a column's value has to be one of, as far as its rules name it."""
        if column.number in self.table.partition_key:
            lower = [literals(bound.split(" TO ")[0]) for bound in self.table.bounds if "WITH (" not in bound and bound != "DEFAULT"]
            return [value for texts, numbers in lower for value in texts + numbers]
        pool = []
        for definition in self._checks(column):
            texts, _numbers = literals(definition)
            if "ANY" in definition or " = '" in definition:
                pool += texts
        return pool

    def _choices(self, column: Column, k: int) -> list[str | None]:
        """What may satisfy a check, likeliest first."""
        kind, _modifier, _checks = self.catalog.base(column.type, column.modifier)
        own = [value_of(self.catalog, column.type, column.modifier, variant, k) for variant in ("full", "empty", "edge")]
        found: list[str | None] = list(self.pools[column.number])
        for definition in self._checks(column):
            texts, numbers = literals(definition)
            found += texts
            if kind["category"] == "N":
                found += [str(step + float(one) if "." in one else step + int(one)) for one in numbers for step in (0, 1, -1)]
            elif kind["category"] == "S":
                found += ["x" * min(int(float(one)), 5000) for one in numbers if float(one) > 0]
        found += own
        if kind["category"] == "N":
            found += [str(1 + k % 9), "0", "1", "10", "50", "100"]
        elif kind["name"] in TIMES:
            found += [value_of(self.catalog, column.type, column.modifier, "full", k + days) for days in (400, 800)]
        elif kind["category"] == "S":
            found += [shape.format(k=k) for shape in SHAPES]
        return list(dict.fromkeys([*found, *([] if column.not_null else [None])]))

    def parents(self) -> dict[str, list[tuple]]:
        """{foreign key: values of rows it may point at}, the newest rows first, so that a new round takes new parents."""
        found = {}
        for key in self.table.of_kind("f"):
            other = self.catalog.tables.get(key["other"])
            if other and other.oid != self.table.oid:
                names = ", ".join(quoted(other.column(number).name) + "::text" for number in key["other_columns"])
                query = f"SELECT {names} FROM {other.sql} ORDER BY tableoid, ctid DESC LIMIT 100"
                found[key["name"]] = [row for row in self.connection.execute(query).fetchall() if None not in row]
        return found

    def values(self, variant: str, i: int, parents: dict[str, list[tuple]]) -> dict[int, str | None]:
        """A row: {attnum: text or None}; a column that is left out gets its default."""
        row: dict[int, str | None] = {}
        for column in self.table.columns:
            sequence = (column.default or "").startswith("nextval(") or column.identity == "d"
            optional = not column.not_null or column.default is not None or column.identity
            if column.computed or (sequence and variant != "edge") or (variant == "required" and optional):
                continue
            if variant == "nulls" and not column.not_null:
                row[column.number] = None
                continue
            # Columns differ from each other too: else two that were swapped would look the same.
            k = self.start + 100 * column.number + (0 if variant == "twin" and column.number not in self.unique else i)
            pool = self.pools[column.number]
            kind = "full" if variant in ("nulls", "twin", "required") else variant
            if column.number in self.unique and kind == "empty":
                kind = "full"
            indexed = column.number in self.table.indexed
            row[column.number] = pool[k % len(pool)] if pool else value_of(self.catalog, column.type, column.modifier, kind, k, indexed)
        for key in self.table.of_kind("f"):
            rows = parents.get(key["name"], [])
            if not any(number in row for number in key["columns"]) or all(row.get(number) is None for number in key["columns"]):
                continue
            if rows:
                pick = rows[0 if variant == "twin" and not self.unique & set(key["columns"]) else i % len(rows)]
                row.update(zip(key["columns"], pick, strict=True))
            elif all(self.table.column(number).not_null for number in key["columns"]):
                own = dict(zip(key["other_columns"], key["columns"], strict=True))
                if key["other"] == self.table.oid:  # the first row of a tree points at itself
                    row.update({mine: row.get(theirs) for theirs, mine in own.items()})
            else:
                row.update(dict.fromkeys(key["columns"]))
        return row

    def put(self, row: dict[int, str | None], variant: str) -> Insert | None:
        """Insert a row; None if the database does not take it, which is then in `last_error`."""
        import psycopg

        one = Insert(
            self.table.label, self.table.sql, tuple(self.table.column(number).name for number in row), tuple(row.values()), variant
        )
        try:
            with self.connection.transaction():
                self.connection.execute(one.statement, one.values or None)
        except psycopg.Error as error:
            self.last_error, self.failed = str(error).strip().splitlines()[0], error
            return None
        return one

    def row(self, variant: str, i: int, parents: dict[str, list[tuple]]) -> Insert | None:
        """One row of a variant, or as near to it as the table's checks allow."""
        import psycopg

        row = self.values(variant, i, parents)
        done = self.put(row, variant)
        for _round in range(1 + len(self.table.of_kind("c"))):
            if done or not isinstance(self.failed, psycopg.errors.CheckViolation):
                break
            done = self._mend(row, variant, i)
        if not done and variant != "full" and not isinstance(self.failed, psycopg.errors.UniqueViolation):
            done = self.row("full", i, parents)
        return done

    def _mend(self, row: dict[int, str | None], variant: str, i: int) -> Insert | None:
        """Try other values for the columns of the check that was violated; `row` keeps those that satisfy it."""
        import psycopg

        name = self.failed.diag.constraint_name or ""
        check = next((one for one in self.table.of_kind("c") if one["name"] == name), None)
        columns = [self.table.column(number) for number in (check["columns"] if check else []) or []] or [
            column for column in self.table.columns if self.catalog.base(column.type)[2] or column.number in self.table.partition_key
        ]
        columns = [column for column in columns if column.number in row]
        choices = [self._choices(column, self.start + i) for column in columns]
        before = dict(row)
        places = itertools.islice(itertools.product(*(range(len(one)) for one in choices)), TRIES)
        key = (name, *(column.number for column in columns))
        known = self.fixes.get(key)
        known = known if known and all(place < len(one) for place, one in zip(known, choices, strict=True)) else None
        for place in itertools.chain([known] if known else [], places):
            fix = {column.number: one[at] for column, one, at in zip(columns, choices, place, strict=True)}
            done = self.put({**before, **fix}, variant)
            mended = done or not isinstance(self.failed, psycopg.errors.CheckViolation) or self.failed.diag.constraint_name != name
            if mended and (done or isinstance(self.failed, psycopg.errors.CheckViolation)):
                self.fixes[key] = place
                row.update(fix)
                return done
        return None

    def fill(self) -> list[Insert]:
        """All variants of the table's rows that it takes."""
        labels = [
            len(kind["labels"] or [])
            for column in self.table.columns
            if (kind := self.catalog.base(column.type)[0])["kind"] == "e" or kind.get("labels")
        ]
        count = min(MOST_ROWS, max([len(VARIANTS), *labels, *map(len, self.pools.values())]))
        variants = [*VARIANTS, *["full"] * (count - len(VARIANTS)), "required"]
        parents, done = self.parents(), []
        own = [key for key in self.table.of_kind("f") if key["other"] == self.table.oid]
        for i, variant in enumerate(variants):
            if one := self.row(variant, i, parents):
                done.append(one)
                if own and len(done) == 1:  # from now on rows point at the first one
                    first = self._first(own)
                    parents.update(first)
        return done

    def _first(self, keys: list[dict]) -> dict[str, list[tuple]]:
        found = {}
        for key in keys:
            names = ", ".join(quoted(self.table.column(number).name) + "::text" for number in key["other_columns"])
            found[key["name"]] = self.connection.execute(f"SELECT {names} FROM {self.table.sql} ORDER BY ctid DESC LIMIT 1").fetchall()
        return found


def seed(connection: object, catalog: Catalog, start: int = 0, reasons: dict[str, str] | None = None) -> Seeded:
    """Fill every table of the catalog. reasons: {table or table.column: why it has no row or value}.

    A gap is {table, column | None, why, reason | None}; one without a reason must fail whatever relies on the rows.
    """
    reasons, seeded = reasons or {}, Seeded()
    late = []
    for table in fill_order(catalog):
        filler = Filler(connection, catalog, table, start)
        inserts = filler.fill()
        late += [(table, inserts)]
        seeded.inserts += inserts
        seeded.rows[table.label] = len(inserts)
        if not inserts:
            why = f"no row could be inserted: {filler.last_error}"
            seeded.gaps.append({"table": table.label, "column": None, "why": why, "reason": reasons.get(table.label)})
    close_circles(connection, catalog)
    for table, inserts in late:
        for name in empty_columns(connection, table) if inserts else []:
            key = f"{table.label}.{name}"
            why = "no value could be made for it"
            seeded.gaps.append({"table": table.label, "column": name, "why": why, "reason": reasons.get(key) or reasons.get(table.label)})
    for table in catalog.tables.values():
        if table.skip:
            seeded.gaps.append({"table": table.label, "column": None, "why": table.skip, "reason": table.skip})
    return seeded


def empty_columns(connection: object, table: Table) -> Iterable[str]:
    """The columns that have no value in any row."""
    names = [column.name for column in table.columns]
    counts = ", ".join(f"count({quoted(name)})" for name in names)
    row = connection.execute(f"SELECT {counts} FROM {table.sql}").fetchone()
    return [name for name, number in zip(names, row, strict=True) if not number]


def close_circles(connection: object, catalog: Catalog) -> None:
    """References that could not point anywhere when their row was made, because of a circle, point somewhere now."""
    import psycopg

    for table in catalog.own:
        for key in table.of_kind("f"):
            other = catalog.tables.get(key["other"])
            mine = [quoted(table.column(number).name) for number in key["columns"]]
            if other is None or len(mine) != 1 or table.column(key["columns"][0]).not_null:
                continue
            theirs = quoted(other.column(key["other_columns"][0]).name)
            try:
                with connection.transaction():
                    connection.execute(
                        f"UPDATE {table.sql} SET {mine[0]} = (SELECT min({theirs}::text) FROM {other.sql} WHERE {theirs} IS NOT NULL)"
                        f"::{regtype(connection, table, key['columns'][0])}"
                        f" WHERE NOT EXISTS (SELECT FROM {table.sql} WHERE {mine[0]} IS NOT NULL)"
                    )
            except psycopg.Error:
                continue  # stays a gap, which is reported


def regtype(connection: object, table: Table, number: int) -> str:
    """A column's type as SQL writes it."""
    return connection.execute(
        "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s AND attnum = %s", [table.oid, number]
    ).fetchone()[0]
