"""Many rows in one statement a table, so that the time of a migration can be seen at two sizes."""

from __future__ import annotations

from .catalog import Catalog, Table, quoted
from .seed import Insert, Seeded, fill_order

# What makes a value of a unique column differ from row to row; {i} is the number of the row.
VARYING = {
    "int2": "({i} % 30000)::int2",
    "int4": "(100000 + {i})::int4",
    "int8": "(10000000000 + {i})::int8",
    "numeric": "(100000 + {i})::numeric",
    "text": "('grown ' || {i})",
    "varchar": "('g' || {i})",
    "bpchar": "('g' || {i})",
    "citext": "('grown ' || {i})",
    "uuid": "md5('grown' || {i})::uuid",
    "date": "('2001-01-01'::date + ({i} % 100000)::int4)",
    "bytea": "decode(md5({i}::text), 'hex')",
    "timestamp": "('2001-01-01'::timestamp + {i} * interval '1 second')",
    "timestamptz": "('2001-01-01 UTC'::timestamptz + {i} * interval '1 second')",
    "inet": "('10.0.0.0'::inet + {i}::int8)",
    "float8": "(100000 + {i})::float8",
    "float4": "({i})::float4",
}


def ancestors(catalog: Catalog, tables: list[Table]) -> list[Table]:
    """These tables and those they point at, parents first."""
    wanted, todo = set(), [one.oid for one in tables]
    while todo:
        oid = todo.pop()
        if oid not in wanted and oid in catalog.tables:
            wanted.add(oid)
            todo += [key["other"] for key in catalog.tables[oid].of_kind("f")]
    return [one for one in fill_order(catalog) if one.oid in wanted]


def grow(connection: object, catalog: Catalog, seeded: Seeded, tables: list[Table], first: int, last: int) -> dict[str, str]:
    """Add the rows number first..last to tables and what they point at; {table: why it could not be grown}."""
    import psycopg

    failed = {}
    for table in ancestors(catalog, tables):
        model = next((one for one in seeded.inserts if one.table == table.label and one.variant == "full"), None)
        if model is None:
            failed[table.label] = "it has no ordinary row to be multiplied"
            continue
        try:
            with connection.transaction():
                connection.execute(statement(catalog, table, model, first, last))
        except psycopg.Error as error:
            failed[table.label] = str(error).strip().splitlines()[0]
    return failed


def statement(catalog: Catalog, table: Table, model: Insert, first: int, last: int) -> str:
    """INSERT … SELECT from generate_series: the model's values, other ones where the table wants them unique, parents by their number."""
    unique = {number for columns in table.unique for number in columns}
    unique -= {number for one in table.of_kind("c") for number in one["columns"] or []}  # a check names what it may be
    count, sources, columns, values = last - first + 1, [f"generate_series({first}, {last}) AS g(i)"], [], {}
    for number, key in enumerate(table.of_kind("f")):
        other = catalog.tables.get(key["other"])
        mine = [table.column(column) for column in key["columns"]]
        if other is None or other.oid == table.oid or not any(one.name in model.columns for one in mine):
            continue
        picked = ", ".join(f"{quoted(other.column(column).name)} AS c{place}" for place, column in enumerate(key["other_columns"]))
        source = f"(SELECT {picked}, row_number() OVER (ORDER BY tableoid, ctid DESC) - 1 AS n FROM {other.sql} LIMIT {count}) AS p{number}"
        sources.append(f"LEFT JOIN {source} ON p{number}.n = g.i - {first}")
        values.update({one.name: f"p{number}.c{place}" for place, one in enumerate(mine)})
    for name, value in zip(model.columns, model.values, strict=True):
        column = table.named(name)
        kind, modifier, _checks = catalog.base(column.type, column.modifier)
        if name in values:
            pass
        elif column.number in unique and kind["name"] in VARYING:
            values[name] = VARYING[kind["name"]].format(i="g.i")
            if kind["name"] in ("varchar", "bpchar") and 4 <= modifier < 16:
                values[name] = f"right({values[name]}, {modifier - 4})"
        else:
            literal = "NULL" if value is None else "E'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
            values[name] = literal
        columns.append(name)
    listed = ", ".join(map(quoted, columns))
    return f"INSERT INTO {table.sql} ({listed}) SELECT {', '.join(values[name] for name in columns)} FROM {' '.join(sources)}"
