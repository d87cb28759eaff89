"""Values for a column, as PostgreSQL reads them: what real data holds sooner or later, not what a test thinks of first.

A variant asks for something of every column: `full` an ordinary value, `longest` the longest text and the highest scale, `empty` the
empty text, zero or the empty list, `foreign` characters outside ASCII and quotes, `mixed` capitals and blanks at the ends, `edge` numbers
that need the type's width, microseconds and time zones. `k` makes values differ from row to row.
"""

from __future__ import annotations

import datetime
import hashlib

from .catalog import Catalog

VARIANTS = ("full", "full", "nulls", "longest", "empty", "foreign", "mixed", "edge", "twin")
LONG_TEXT, LONG_INDEXED = 3000, 400  # characters; an index entry has a limit of 2704 bytes
# For checks with a pattern: one of these is what most patterns want. {k} makes them differ where the pattern leaves room for it.
SHAPES = (
    "a{k}@b.example",
    "+49151{k:07d}",
    "https://example.invalid/{k}",
    "a{k}",
    "A{k}",
    "{k}",
    "AB-{k}",
    "a-{k}",
    "a_{k}",
    "/a/{k}",
    "1.2.{k}",
    "#{k:06x}",
    "{k:032x}",
    "00000000-0000-4000-8000-{k:012d}",
    "2024-02-29",
    "abc",
    "ABC",
    "de",
    "DE",
)
TEXTS = {
    "full": "value {k}",
    "empty": "",
    "foreign": "Größe 漢字 🙂 'q' \"d\" \\ {k}",
    "mixed": "  MiXed Case {k} ",
    "edge": "line\nbreak\tand {k}%",
}
NUMBERS = {
    "int2": {"full": 100, "edge": 32000, "longest": 31000},
    "int4": {"full": 1000, "edge": 70_000, "longest": 90_000},
    "int8": {"full": 100_000, "edge": 5_000_000_000, "longest": 6_000_000_000},
    "oid": {"full": 1000, "edge": 70_000},
    "float4": {"full": 10.5, "edge": 1234.5},
    "float8": {"full": 1000.25, "edge": 123456789012.125},
    "money": {"full": 10.25, "edge": 99999.99},
}


def digest(*parts: object) -> str:
    """32 hexadecimal digits that depend on the parts only."""
    return hashlib.md5("/".join(map(str, parts)).encode(), usedforsecurity=False).hexdigest()


def text_value(variant: str, k: int, limit: int | None, indexed: bool) -> str:
    """A text of at most `limit` characters; it ends with k, so that short ones differ too."""
    if variant == "longest":
        length = limit if limit and limit <= LONG_TEXT else LONG_INDEXED if indexed else LONG_TEXT
        return (("x" * length) + str(k))[-length:]
    value = TEXTS.get(variant, TEXTS["full"]).format(k=k)
    if limit and len(value) > limit:
        value = value[:limit] if variant in ("foreign", "mixed") else str(k)[-limit:]
    return value


def numeric_value(variant: str, k: int, modifier: int) -> str:
    """A number with the highest scale its type has."""
    if modifier < 0:
        return {"edge": f"1234567890123.{k:09d}", "longest": f"{k}.123456789012345678", "empty": "0"}.get(variant, f"{k}.25")
    precision, scale = (modifier - 4) >> 16 & 0xFFFF, (modifier - 4) & 0x7FF
    if variant == "empty":
        return "0"
    whole = max(precision - scale, 0)
    top = "9" * whole if variant in ("edge", "longest") else str(k)[-whole:] if whole else "0"
    return (top or "0") + ("." + f"{k % 10**scale:0{scale}d}"[:-1] + "7" if scale else "")


def moment(variant: str, k: int) -> datetime.datetime:
    """A day of a leap year's end and the microseconds after it."""
    base = datetime.datetime(2024, 2, 29, 23, 59, 59, 123456 if variant != "empty" else 0)
    return base + datetime.timedelta(days=k, microseconds=k)


def in_list(value: str) -> str:
    """A value inside an array or a composite."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def plain_value(name: str, variant: str, k: int, modifier: int) -> str | None:
    """A value of a type that is neither text, number nor made of others; None if the type is not known."""
    when, hexes = moment(variant, k), digest(name, k)
    zone = "+05:30" if variant == "edge" else "+00"
    simple = {
        "bool": "t" if k % 2 else "f",
        "uuid": hexes,
        "date": when.date().isoformat(),
        "time": when.time().isoformat(),
        "timestamp": when.isoformat(" "),
        "timestamptz": when.isoformat(" ") + zone,
        "timetz": when.time().isoformat() + zone,
        "interval": f"1 mon {k} days 03:04:05.123456",
        "bytea": "\\x" if variant == "empty" else f"\\x00ff{hexes}",
        "json": "{}" if variant == "empty" else f'{{"b": {k}, "a": [1.10, null, {{"ü": "\\u0041"}}], "b": {k}}}',
        "jsonb": "{}" if variant == "empty" else f'{{"k": {k}, "ü": [1.10, null, {{"a": "b"}}], "t": "x"}}',
        "inet": f"10.{k // 250 % 250}.{k % 250}.1/24",
        "cidr": f"10.{k // 250 % 250}.{k % 250}.0/24",
        "macaddr": f"02:00:{hexes[:2]}:{hexes[2:4]}:{hexes[4:6]}:01",
        "macaddr8": f"02:00:{hexes[:2]}:{hexes[2:4]}:{hexes[4:6]}:01:02:03",
        "xml": f'<a b="ü">{k}</a>',
        "point": f"({k},2.5)",
        "line": "{1,2,3}",
        "lseg": f"[(0,0),({k},1)]",
        "box": f"(({k},2),(0,0))",
        "path": f"((0,0),({k},1))",
        "polygon": f"((0,0),({k},1),(1,1))",
        "circle": f"<(1,1),{k}>",
        "tsvector": f"'a':1 'k{k}':2",
        "tsquery": f"'a' & 'k{k}'",
        "pg_lsn": f"0/{k:X}",
        "jsonpath": f"$.a[{k}]",
        "hstore": '"a"=>"1", "ü"=>NULL',
        "ltree": f"top.k{k}",
        "lquery": "top.*",
        "xid8": str(k),
        "name": f"name_{k}",
        "char": "abcdefgh"[k % 8],
        "regclass": "pg_class",
        "regtype": "integer",
        "tid": f"(0,{k % 60000 + 1})",
        "txid_snapshot": "10:20:10,14,15",
        "pg_snapshot": "10:20:10,14,15",
    }
    if name in ("bit", "varbit"):
        width = modifier if modifier > 0 else 1 if name == "bit" else 12
        return format(k % 2**width, f"0{width}b")
    return simple.get(name)


def value_of(catalog: Catalog, type_oid: int, modifier: int, variant: str, k: int, indexed: bool = False) -> str | None:
    """The text of a value; None if nobody knows one for this type (then the column is named as a gap)."""
    kind, modifier, _checks = catalog.base(type_oid, modifier)
    name = kind["name"]
    if kind["kind"] == "e":
        return kind["labels"][k % len(kind["labels"])] if kind["labels"] else None
    if name in ("text", "varchar", "bpchar", "citext"):
        return text_value(variant, k, modifier - 4 if modifier >= 4 else None, indexed)
    if name == "numeric":
        return numeric_value(variant, k, modifier)
    if name in NUMBERS:
        return "0" if variant == "empty" else str(NUMBERS[name].get(variant, NUMBERS[name]["full"]) + (k % 700 if name == "int2" else k))
    if kind["category"] == "A" and kind["element"]:
        if variant == "empty":
            return "{}"
        inner = [value_of(catalog, kind["element"], modifier, variant, k + step, indexed) for step in (0, 1)]
        return None if None in inner else "{" + ",".join(map(in_list, inner)) + "}"
    if kind["kind"] == "c":
        inner = [value_of(catalog, part, -1, variant, k, indexed) for part in kind["parts"] or []]
        return "(" + ",".join("" if one is None else in_list(one) for one in inner) + ")"
    if kind["kind"] == "r":
        low, high = (value_of(catalog, kind["subtype"], -1, "full", k + step) for step in (0, 1))
        return None if low is None else f"[{in_list(low)},{in_list(high)})"
    if kind["kind"] == "m":
        return "{}"
    return plain_value(name, variant, k, modifier)
