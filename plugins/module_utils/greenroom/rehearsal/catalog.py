"""What tables a scratch database has, as far as filling them with rows needs it: columns, types, keys, checks."""

from __future__ import annotations

import dataclasses
import re

OWN_SCHEMA = "_rb_"  # side copies live in schemas of this prefix; nobody else's business

TABLES = """
    SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, c.relkind::text AS kind, c.relfilenode::bigint AS filenode,
           c.relispartition AS partition,
           EXISTS (SELECT FROM pg_depend d
                    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') AS of_extension,
           (SELECT json_agg(json_build_object('number', a.attnum, 'name', a.attname, 'type', a.atttypid::bigint, 'modifier', a.atttypmod,
                    'not_null', a.attnotnull, 'generated', a.attgenerated::text, 'identity', a.attidentity::text,
                    'default', pg_get_expr(d.adbin, d.adrelid)) ORDER BY a.attnum)
              FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns,
           (SELECT json_agg(json_build_object('name', k.conname, 'kind', k.contype::text, 'columns', k.conkey, 'definition',
                    pg_get_constraintdef(k.oid), 'other', nullif(k.confrelid, 0)::bigint, 'other_columns', k.confkey) ORDER BY k.conname)
              FROM pg_constraint k
             WHERE k.conrelid = c.oid AND k.contype IN ('p', 'u', 'f', 'c', 'x') AND k.conparentid = 0) AS constraints,
           (SELECT json_agg(json_build_object('unique', i.indisunique, 'columns', i.indkey::int2[]))
              FROM pg_index i WHERE i.indrelid = c.oid) AS indexes,
           (SELECT json_agg(pg_get_expr(p.relpartbound, p.oid)) FROM pg_inherits h JOIN pg_class p ON p.oid = h.inhrelid
             WHERE h.inhparent = c.oid AND p.relispartition) AS bounds,
           (SELECT partattrs::int2[] FROM pg_partitioned_table WHERE partrelid = c.oid) AS partition_key
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'f') AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
       AND n.nspname NOT LIKE '\\_rb\\_%'
     ORDER BY n.nspname, c.relname
"""
TYPES = """
    SELECT t.oid::bigint AS oid, t.typname AS name, t.typtype::text AS kind, t.typcategory::text AS category, t.typelem::bigint AS element,
           t.typbasetype::bigint AS base, t.typtypmod AS modifier, t.typnotnull AS not_null,
           (SELECT array_agg(e.enumlabel::text ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid) AS labels,
           (SELECT array_agg(pg_get_constraintdef(k.oid)) FROM pg_constraint k WHERE k.contypid = t.oid) AS checks,
           (SELECT array_agg(a.atttypid::bigint ORDER BY a.attnum) FROM pg_attribute a
             WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) AS parts,
           (SELECT rngsubtype::bigint FROM pg_range r WHERE r.rngtypid = t.oid) AS subtype
      FROM pg_type t WHERE t.typtype <> 'p' AND (t.typtype <> 'c' OR t.oid > 16383)
"""
SETTINGS = (
    "SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET extra_float_digits = 3;"
    " SET bytea_output = 'hex'; SET row_security = off"
)  # what makes values readable the same way every time


def quoted(*names: str) -> str:
    """An SQL identifier, with its schema if two names are given."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


@dataclasses.dataclass
class Column:
    """number is attnum: it stays when the column is renamed."""

    number: int
    name: str
    type: int
    modifier: int
    not_null: bool
    generated: bool
    identity: str
    default: str | None

    @property
    def computed(self) -> bool:
        """Whether the server makes its value, and takes no other."""
        return self.generated or self.identity == "a"


@dataclasses.dataclass
class Table:
    """oid stays when the table is renamed; filenode changes when it is rewritten."""

    oid: int
    schema: str
    name: str
    kind: str
    filenode: int
    columns: list[Column]
    constraints: list[dict]
    unique: list[list[int]]
    indexed: set[int]
    bounds: list[str]
    partition_key: list[int]
    skip: str | None  # why nobody can be expected to fill it

    @property
    def label(self) -> str:
        """Its name for people and for keys of results: without the schema if that is public."""
        return self.name if self.schema == "public" else f"{self.schema}.{self.name}"

    @property
    def sql(self) -> str:
        """Its name in SQL."""
        return quoted(self.schema, self.name)

    def column(self, number: int) -> Column | None:
        """The column with this attnum."""
        return next((one for one in self.columns if one.number == number), None)

    def named(self, name: str) -> Column | None:
        """The column of this name."""
        return next((one for one in self.columns if one.name == name), None)

    def of_kind(self, kind: str) -> list[dict]:
        """Its constraints of a kind (p, u, f, c, x)."""
        return [one for one in self.constraints if one["kind"] == kind]

    @property
    def key(self) -> list[str]:
        """Names of the primary key's columns, else of the first unique constraint over columns that are not null, else none."""
        for one in self.of_kind("p") + self.of_kind("u"):
            columns = [self.column(number) for number in one["columns"]]
            if all(column and (one["kind"] == "p" or column.not_null) for column in columns):
                return [column.name for column in columns]
        return []


@dataclasses.dataclass
class Catalog:
    """tables by oid, in name order; types by oid."""

    tables: dict[int, Table]
    types: dict[int, dict]

    @property
    def own(self) -> list[Table]:
        """The tables that hold the application's rows themselves, partitions as part of their parent."""
        return [one for one in self.tables.values() if not one.skip]

    def by_label(self, label: str) -> Table | None:
        """The table of this label."""
        return next((one for one in self.tables.values() if one.label == label), None)

    def base(self, type_oid: int, modifier: int = -1) -> tuple[dict, int, list[str]]:
        """(type, modifier, checks) below all domains."""
        kind, checks = self.types.get(type_oid, {"name": "unknown", "kind": "b", "element": 0, "category": "U"}), []
        while kind["kind"] == "d":
            checks += kind["checks"] or []
            modifier = kind["modifier"] if kind["modifier"] >= 0 else modifier
            kind = self.types[kind["base"]]
        return kind, modifier, checks


def read(connection: object, version_tables: tuple[str, ...] = ()) -> Catalog:
    """The catalog of a database; `version_tables` (the migration tool's own) are left out."""
    import psycopg

    tables = {}
    with connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
        for row in cursor.execute(TABLES).fetchall():
            if row["name"] in version_tables:
                continue
            skip = (
                "belongs to an extension" if row["of_extension"]
                else "its rows live on another server" if row["kind"] == "f"
                else "a partition: filled through its parent" if row["partition"]
                else None if row["columns"] else "has no column"
            )  # fmt: skip
            columns = [Column(**{**one, "generated": bool(one["generated"])}) for one in row["columns"] or []]
            indexes = row["indexes"] or []
            tables[row["oid"]] = Table(
                row["oid"], row["schema"], row["name"], row["kind"], row["filenode"], columns, row["constraints"] or [],
                [one["columns"] for one in indexes if one["unique"]],
                {number for one in indexes for number in one["columns"]}, row["bounds"] or [], row["partition_key"] or [], skip,
            )  # fmt: skip
        types = {row["oid"]: row for row in cursor.execute(TYPES).fetchall()}
    return Catalog(tables, types)


def literals(definition: str) -> tuple[list[str], list[str]]:
    """(texts, numbers) that a check or a partition's bound names: what a value may have to be."""
    texts = [text.replace("''", "'") for text in re.findall(r"'((?:[^']|'')*)'", definition)]
    bare = re.sub(r"'(?:[^']|'')*'|\"[^\"]*\"", " ", definition)
    numbers = re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.])", bare)
    return list(dict.fromkeys(texts)), list(dict.fromkeys(numbers))
