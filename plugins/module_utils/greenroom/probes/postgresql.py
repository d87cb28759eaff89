"""PostgreSQL: connect, version, TLS, extensions, tables, indexes, privileges, a query's values, a CRUD round trip.

Every part compares values read from the server's catalogue (001 §3.1-3.2, runbook 003 L631-734); nothing is left behind:
each attempt works in one transaction that is rolled back, and the CRUD table is looked for afterwards.
"""

from __future__ import annotations

import secrets as random

from .base import Arg, Context, Findings, Outcome, Probe, need, shown
from .compare import compare, expectation

PRIVILEGE_FUNCTIONS = {
    "table": "has_table_privilege",
    "schema": "has_schema_privilege",
    "database": "has_database_privilege",
    "sequence": "has_sequence_privilege",
}


def run(args: dict, context: Context) -> Outcome:
    psycopg = need("psycopg")
    where = f"{args['dbname']} at {args['host']}:{args['port']} as {args['user']}"
    options = {
        "host": args["host"], "port": args["port"], "dbname": args["dbname"], "user": args["user"], "sslmode": args["sslmode"],
        "connect_timeout": max(2, int(context.timeout_s)), "application_name": "greenroom health_check",
        "options": f"-c statement_timeout={int(context.timeout_s * 1000)} -c lock_timeout={int(context.timeout_s * 1000)}",
    }  # fmt: skip
    if args["password_key"]:
        options["password"] = context.secret(args["password_key"])
    if args["ca_file"]:
        options["sslrootcert"] = args["ca_file"]
    found = Findings()
    try:
        with psycopg.connect(**options) as connection:
            found.add(f"connects to {where}", "connected")
            try:
                for part in (_version, _tls, _extensions, _tables, _indexes, _privileges, _refused, _query, _crud):
                    part(args, connection, found)
            finally:
                connection.rollback()
    except psycopg.Error as error:
        found.add(None if found.expected else f"connects to {where}", _text(error), False, _text(error))
    return found.outcome(where)


def _text(error: Exception) -> str:
    """The first line of the server's message; the lines after it (DETAIL, the statement) can hold data."""
    first = str(error).strip().splitlines()
    return shown(first[0] if first else type(error).__name__)


def _version(args, connection, found):
    version = connection.info.server_version
    text = f"{version // 10000}.{version % 10000}"
    found.detail["server_version"] = text
    if args["version_min"] is not None:
        found.add(f"version ≥ {args['version_min']}", f"version {text}", version // 10000 >= args["version_min"])


def _tls(args, connection, found):
    if args["ssl"] is None:
        return
    row = connection.execute("SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetchone()
    used = bool(row and row[0])
    wanted = "the connection uses TLS" if args["ssl"] else "the connection is plain"
    found.add(wanted, f"TLS ({row[1]})" if used else "no TLS", used is args["ssl"])


def _present(found, what, wanted, have):
    """`wanted` names must all be in `have`."""
    missing = [name for name in wanted if name not in have]
    seen = ", ".join(name for name in wanted if name in have) or "none of them"
    found.add(f"{what} {', '.join(wanted)}", f"{what} {seen}", not missing, f"{what} missing: {', '.join(missing)}")


def _qualified(name: str) -> str:
    return name if "." in name else f"public.{name}"


def _names(connection, query) -> set:
    return {row[0] for row in connection.execute(query).fetchall()}


def _extensions(args, connection, found):
    if args["extensions"]:
        _present(found, "extensions", args["extensions"], _names(connection, "SELECT extname FROM pg_extension"))


def _tables(args, connection, found):
    if args["tables"]:
        query = (
            "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE c.relkind IN ('r', 'p')"
        )
        _present(found, "tables", [_qualified(name) for name in args["tables"]], _names(connection, query))


def _indexes(args, connection, found):
    if args["indexes"]:
        # An index that a failed CREATE INDEX CONCURRENTLY left behind exists, and is not used.
        query = (
            "SELECT n.nspname || '.' || c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
            "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE i.indisvalid AND i.indisready"
        )
        _present(found, "indexes", [_qualified(name) for name in args["indexes"]], _names(connection, query))


def _privileges(args, connection, found):
    for rule in args["privileges"]:
        role, kind, name = rule.get("role") or args["user"], rule["kind"], rule["object"]
        wish = {**dict.fromkeys(rule.get("has", []), True), **dict.fromkeys(rule.get("has_not", []), False)}
        for privilege, wanted in wish.items():
            row = connection.execute(f"SELECT {PRIVILEGE_FUNCTIONS[kind]}(%s, %s, %s)", (role, name, privilege)).fetchone()
            held = bool(row and row[0])
            text = {True: f"{role} has {privilege} on {kind} {name}", False: f"{role} has no {privilege} on {kind} {name}"}
            found.add(text[wanted], text[held], held is wanted)


def _refused(args, connection, found):
    psycopg = need("psycopg")
    for statement in args["refused"]:
        wanted = f"not allowed: {shown(statement)}"
        connection.execute("SAVEPOINT greenroom_refused")
        try:
            connection.execute(statement)
        except psycopg.errors.InsufficientPrivilege:
            found.add(wanted, "refused for lack of privilege")
        except psycopg.Error as error:
            found.add(
                wanted, f"failed otherwise ({_text(error)})", False, f"what must be refused failed for another reason: {_text(error)}"
            )
        else:
            found.add(wanted, "allowed", False, f"{args['user']} may run: {shown(statement)}")
        connection.execute("ROLLBACK TO SAVEPOINT greenroom_refused")


def _query(args, connection, found):
    if args["query"] is None:
        return
    cursor = connection.execute(args["query"], args["parameters"] or None)
    rows = [list(row) for row in cursor.fetchall()] if cursor.description else []
    found.detail["rows"] = len(rows)
    rule = args["expect"]
    if not rows and rule != []:
        found.add(f"query gives {expectation(rule)}", "query gives no row", False)
        return
    if not isinstance(rule, list):
        have = rows[0][0]
    elif rule and isinstance(rule[0], list):
        have = rows
    else:
        have = [row[0] for row in rows] if not rows or len(rows[0]) == 1 else rows[0]
    ok, seen = compare(rule, have)
    found.add(f"query gives {expectation(rule)}", f"query gives {seen}", ok)


def _crud(args, connection, found):
    """Write, read, update and delete one row, comparing each value; the table is temporary or in the scratch schema named."""
    if not args["crud"]:
        return
    sql = need("psycopg.sql")
    name, value, changed = f"greenroom_probe_{random.token_hex(6)}", random.token_hex(16) + " é ' \" \\", random.token_hex(16)
    schema = args["crud_schema"] or "pg_temp"
    table = sql.Identifier(schema, name)
    done: list = []
    problem = None

    def step(what, statement, parameters, want):
        cursor = connection.execute(sql.SQL(statement).format(table=table), parameters)
        got = cursor.fetchall() if cursor.description else cursor.rowcount
        if got != want:
            raise _Mismatch(f"{what}: got {shown(repr(got))}, not {shown(repr(want))}")
        done.append(what)

    try:
        connection.execute(sql.SQL("CREATE TABLE {table} (id integer PRIMARY KEY, value text NOT NULL)").format(table=table))
        step("write", "INSERT INTO {table} VALUES (1, %s)", (value,), 1)
        step("read", "SELECT id, value FROM {table}", None, [(1, value)])
        step("update", "UPDATE {table} SET value = %s WHERE id = 1 AND value = %s", (changed, value), 1)
        step("read again", "SELECT id, value FROM {table}", None, [(1, changed)])
        step("delete", "DELETE FROM {table} WHERE id = 1", None, 1)
        step("nothing remains", "SELECT count(*) FROM {table}", None, [(0,)])
    except _Mismatch as error:
        problem = str(error)
    finally:
        connection.rollback()
        found.detail["crud"] = done
    found.add("a row is written, read back, updated and deleted", f"{', '.join(done) or 'nothing'} done", problem is None, problem)
    left = connection.execute("SELECT count(*) FROM pg_class WHERE relname = %s", (name,)).fetchone()
    found.add("the table is gone afterwards", "table gone" if left == (0,) else f"{schema}.{name} is still there", left == (0,))


class _Mismatch(Exception):
    pass


def _check(args: dict) -> list:
    problems = []
    for number, rule in enumerate(args["privileges"], 1):
        where = f"privileges item {number}"
        if not isinstance(rule, dict):
            problems.append((where, "must be a dict of object, kind, has, has_not, role"))
            continue
        unknown = set(rule) - {"object", "kind", "has", "has_not", "role"}
        if unknown:
            problems.append((where, f"unknown key {', '.join(sorted(unknown))}"))
        if not rule.get("object") or rule.get("kind") not in PRIVILEGE_FUNCTIONS:
            problems.append((where, f"needs object, and kind one of {', '.join(sorted(PRIVILEGE_FUNCTIONS))}"))
        if not rule.get("has") and not rule.get("has_not"):
            problems.append((where, "needs has or has_not"))
    if args["query"] is not None and args["expect"] is None:
        problems.append(("expect", "missing beside query: a result that is compared with nothing proves nothing"))
    if args["crud_schema"] and not args["crud"]:
        problems.append(("crud_schema", "is only used with crud: true"))
    return problems


PROBE = Probe(
    "postgresql",
    "a PostgreSQL server accepts the user and holds what it should",
    {
        "host": Arg("str", "host name, address or socket folder", required=True),
        "port": Arg("int", "port number", default=5432),
        "dbname": Arg("str", "database", required=True),
        "user": Arg("str", "role", required=True),
        "password_key": Arg("secret", "key of the password"),
        "sslmode": Arg(
            "str", "as libpq's", default="prefer", choices=("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
        ),
        "ca_file": Arg("str", "file of the authorities for verify-ca and verify-full"),
        "version_min": Arg("int", "oldest major version allowed"),
        "ssl": Arg("bool", "this connection uses TLS, or not"),
        "extensions": Arg("list", "extensions that must be there", default=[], elements="str"),
        "tables": Arg("list", "tables that must be there, `schema.table` or in public", default=[], elements="str"),
        "indexes": Arg("list", "valid indexes that must be there", default=[], elements="str"),
        "privileges": Arg("list", "items of {object, kind, has: [], has_not: [], role}", default=[], elements="dict"),
        "refused": Arg("list", "statements that must fail for lack of privilege; always rolled back", default=[], elements="str"),
        "query": Arg("str", "a query, with expect"),
        "parameters": Arg("list", "its parameters for %s"),
        "expect": Arg(
            "any",
            "value or operators for the first column of the first row; a list for one column or one row; a list of lists for all rows",
        ),
        "crud": Arg("bool", "write, read, update and delete one row in a temporary table", default=False),
        "crud_schema": Arg("str", "scratch schema to make that table in instead"),
    },
    run,
    _check,
)
