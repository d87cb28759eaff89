"""What a database is besides its rows: its definition as `pg_dump -s` writes it, and what that leaves out, asked from the catalogues.

`schema_text` is one text that is equal for equal schemas. `catalog` is a mapping {section: {object: value}}, so that a difference can be
named. Both read with the settings of PINNED, on every side of a comparison.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .catalog_queries import QUERIES, ROLE_HASH, USER_SCHEMAS
from .pipeline import libpq, run

# Output of values must not depend on the server's, the database's or the role's settings.
PINNED = {
    "search_path": "",
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "xmloption": "content",
    "xmlbinary": "base64",
    "lc_monetary": "C",
    "row_security": "off",
    "client_encoding": "UTF8",
    "quote_all_identifiers": "off",
    "statement_timeout": "0",
    "lock_timeout": "30s",
    "idle_in_transaction_session_timeout": "0",
    "work_mem": "64MB",
    "jit": "off",
}


def pin_statement(local: bool = False) -> str:
    """One SQL text that sets PINNED, for the session or (local) the transaction."""
    return "; ".join(f"SET {'LOCAL ' if local else ''}{key} = '{value}'" for key, value in PINNED.items())


def dump_schema(dsn: Mapping, bin_dir: str, snapshot: str | None = None) -> str:
    """`pg_dump -s` of a database as it is written, seen in `snapshot` if one is given. It can be loaded again.

    Without subscriptions: a database that has one cannot be dropped, and their addresses hold passwords. `catalog` names them.
    """
    conninfo, env = libpq(dsn)
    arguments = ["-s", "--no-subscriptions", "--dbname", conninfo, *(["--snapshot", snapshot] if snapshot else [])]
    return run(f"{bin_dir}/pg_dump", *arguments, env=env).stdout.decode()


_NOISE = re.compile(r"^(?:-- Dumped (?:from|by) |-- Started on |-- Completed on |\\(?:un)?restrict |SET |SELECT pg_catalog\.set_config\()")
_ENTRY = re.compile(r"(?m)^--\n-- Name: ")


def normalise(dumped: str) -> str:
    """A schema dump as a text that is equal for equal schemas: no versions, no session settings, entries sorted.

    The order of columns, and everything else inside an entry, stays as it is.
    """
    lines, quoted = [], None
    for line in dumped.splitlines():
        # The body of a function may hold lines that look like noise; it is between two equal $tags$.
        if quoted is None and _NOISE.match(line):
            continue
        for tag in re.findall(r"\$(?:[A-Za-z_]\w*)?\$", line):
            quoted = tag if quoted is None else (None if tag == quoted else quoted)
        lines.append(line)
    entries = ["-- Name: " + part for part in _ENTRY.split("\n".join(lines))[1:]]
    tidy = [
        re.sub(r"\n{2,}", "\n", re.sub(r"\n--\n-- PostgreSQL database dump complete\n--\s*$", "\n", entry)).strip() for entry in entries
    ]
    return "\n\n".join(sorted(tidy)) + "\n"


def schema_text(dsn: Mapping, bin_dir: str, snapshot: str | None = None) -> str:
    """The normalised definition of a database's schema. Raises BackupError when pg_dump fails."""
    return normalise(dump_schema(dsn, bin_dir, snapshot))


def entries(text: str) -> dict[str, str]:
    """{name of the entry: its text} of a normalised schema; entries of one name are joined."""
    found: dict[str, str] = {}
    for part in re.split(r"\n\n(?=-- Name: )", text.strip()):
        if part:
            name = re.sub(r"^-- Name: ", "", part.split("\n", 1)[0])
            found[name] = found[name] + "\n" + part if name in found else part
    return found


def catalog(connection) -> dict[str, dict[str, object]]:
    """{section: {object: value}} of the database that `connection` (psycopg) leads to; JSON-able, keys sorted.

    A reader who may not see pg_authid gets `unreadable` for passwords. The connection's settings are pinned, for its session.
    """
    connection.execute(pin_statement())
    allowed = connection.execute("SELECT has_table_privilege('pg_authid', 'SELECT')").fetchone()[0]
    found = {}
    for section, query in QUERIES.items():
        rows = connection.execute(query.replace("{role_hash}", ROLE_HASH if allowed else "'unreadable'")).fetchall()
        found[section] = {str(key): _sorted(value) for key, value in sorted(rows, key=lambda row: str(row[0]))}
    return found


def _sorted(value: object) -> object:
    """Lists of rights come in any order."""
    if isinstance(value, dict):
        return {key: sorted(inner) if isinstance(inner, list) and key == "grants" else inner for key, inner in sorted(value.items())}
    return sorted(value) if isinstance(value, list) and all(isinstance(item, str) for item in value) else value


def sequence_values(connection) -> dict[str, list]:
    """{sequence: [last value, whether it was given out]}. Not bound to a snapshot: sequences never are."""
    connection.execute(pin_statement())
    where = "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'S' AND c.relpersistence <> 't'"
    where += f" AND {USER_SCHEMAS}"
    names = [row[0] for row in connection.execute(f"SELECT format('%I.%I', n.nspname, c.relname) {where} ORDER BY 1")]
    found: dict[str, list] = {}
    for start in range(0, len(names), 200):
        chunk = names[start : start + 200]
        query = " UNION ALL ".join(f"SELECT {number}, last_value, is_called FROM {name}" for number, name in enumerate(chunk))
        found |= {chunk[number]: [value, called] for number, value, called in connection.execute(query)}
    return found
