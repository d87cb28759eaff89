"""Makes and drops what `scratch` names: a database with its role, a virtual host with its user, for one run of the service's own tests.

One call does it all on the server's own host, so that a run which only measures stays short. Nothing live can be reached from there:
the live database must be closed to other roles, or nothing is made (runbook weaknesses D34).
"""

from __future__ import annotations

import base64
import contextlib
import json
import netrc
import os
import pwd
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from urllib.parse import quote, urlsplit

from .scratch import GROUP, definitions, leftovers

_STATE = """
SELECT array(SELECT datname::text FROM pg_database), array(SELECT rolname::text FROM pg_roles),
       EXISTS (SELECT FROM pg_database WHERE datname = %s AND has_database_privilege('public', oid, 'CONNECT'))
"""
_ROLE = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS"
TIMEOUT_S = 30


class ScratchError(Exception):
    """A scratch database or virtual host cannot be made or dropped; the text says on which server, why, and what to do."""


@contextlib.contextmanager
def _acting_as(user: str | None) -> Iterator[None]:
    """The server asks the kernel who connects to its socket (peer authentication): be that user while connecting."""
    if not user or os.geteuid() != 0:
        yield
        return
    entry = pwd.getpwnam(user)
    os.setegid(entry.pw_gid)
    os.seteuid(entry.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


class Database:
    """One PostgreSQL server, as its administrator.

    login  libpq's keywords without dbname; as_user  Unix user for a local socket; live  name of the service's live database.
    Each method raises ScratchError.
    """

    def __init__(self, login: Mapping, *, as_user: str | None = None, live: str = ""):
        self.login, self.as_user, self.live = dict(login), as_user, live

    @contextlib.contextmanager
    def _connected(self, name: str = "postgres") -> Iterator:
        import psycopg

        where = f"PostgreSQL at {self.login.get('host')}:{self.login.get('port', 5432)}"
        try:
            with _acting_as(self.as_user):
                about = {"dbname": name, "connect_timeout": 10, "application_name": "greenroom-scratch"}
                connection = psycopg.connect(**self.login, **about, autocommit=True)
            with connection:
                connection.execute(f"SET statement_timeout = '{TIMEOUT_S}s'")
                yield connection
        except psycopg.Error as error:
            raise ScratchError(f"{where}: {str(error).strip().splitlines()[0]}") from error

    def found(self) -> list[str]:
        """Names of all databases and roles."""
        with self._connected() as connection:
            databases, roles, _ = connection.execute(_STATE, [self.live]).fetchone()
        return [*databases, *roles]

    def make(self, made: Mapping, connections: int, extensions: list[str]) -> None:
        """A role and a database of `made`'s names, closed to everybody else, with `extensions`; `connections` is the role's limit."""
        from psycopg import sql

        name, group = sql.Identifier(made["database"]), sql.Identifier(GROUP)
        with self._connected() as connection:
            _, roles, open_to_all = connection.execute(_STATE, [self.live]).fetchone()
            if open_to_all:
                raise ScratchError(
                    f"every role may connect to the database {self.live}, so the tests' scratch role could reach live data. "
                    f"Run REVOKE CONNECT ON DATABASE {self.live} FROM PUBLIC, or --tags prepare"
                )
            if GROUP not in roles:  # pg_hba lets the members of this group in
                connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(group))
            secret = sql.Literal(_scram(connection, made["password"]))
            role = f"CREATE ROLE {{}} {_ROLE} CONNECTION LIMIT {int(connections)} PASSWORD {{}}"
            connection.execute(sql.SQL(role).format(name, secret))
            connection.execute(sql.SQL("GRANT {} TO {}").format(group, name))
            database = "CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'"
            connection.execute(sql.SQL(database).format(name, name))
            connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))
        with self._connected(made["database"]) as connection:
            connection.execute(sql.SQL("ALTER SCHEMA public OWNER TO {}").format(name))
            for extension in extensions:
                connection.execute(sql.SQL("CREATE EXTENSION IF NOT EXISTS {}").format(sql.Identifier(extension)))

    def drop(self, names: list[str]) -> None:
        """Drop databases, their open sessions ended, and roles of these names; what is not there is fine."""
        from psycopg import sql

        with self._connected() as connection:
            for name in names:
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
            for name in names:
                connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))


def _scram(connection: object, password: str) -> str:
    """The password's verifier, so that its text is in no statement and in no log of the server."""
    return connection.pgconn.encrypt_password(password.encode(), b"role", b"scram-sha-256").decode()


class Broker:
    """One RabbitMQ, by its management API; the administrator's login is read from a netrc file. Each method raises ScratchError."""

    def __init__(self, api: str, netrc_file: str):
        self.api, self.netrc_file = api.rstrip("/"), netrc_file

    def _call(self, method: str, path: str, body: Mapping | None = None, *, missing_is_fine: bool = False) -> dict:
        try:
            login = netrc.netrc(self.netrc_file).authenticators(urlsplit(self.api).hostname)
        except (OSError, netrc.NetrcParseError) as error:
            raise ScratchError(f"{self.netrc_file}: {error}. --tags prepare writes it") from error
        if not login:
            raise ScratchError(f"{self.netrc_file}: no login for {urlsplit(self.api).hostname}. --tags prepare writes it")
        token = base64.b64encode(f"{login[0]}:{login[2]}".encode()).decode()
        headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"{self.api}/{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            if error.code == 404 and missing_is_fine:
                return {}
            raise ScratchError(f"{self.api}/{path.split('/')[0]}: {method} was answered with {error.code} {error.reason}") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ScratchError(f"{self.api}: {reason}. Is the broker's management plugin running?") from error

    def found(self) -> list[str]:
        """Names of all virtual hosts and users."""
        answer = self._call("GET", "definitions")
        return [one["name"] for one in [*answer.get("vhosts", []), *answer.get("users", [])]]

    def make(self, made: Mapping) -> None:
        """The virtual host, and its user with rights there only."""
        self._call("POST", "definitions", definitions(made))

    def drop(self, names: list[str]) -> None:
        """Delete virtual hosts (they begin with a slash) and users; what is not there is fine."""
        for name in names:
            self._call("DELETE", f"{'vhosts' if name.startswith('/') else 'users'}/{quote(name, safe='')}", missing_is_fine=True)


def left(servers: list[Database | Broker], service: str) -> list[str]:
    """What runs of this service's tests have made on these servers and not taken away."""
    return sorted({name for server in servers for name in leftovers(server.found(), service)})


def absent(servers: list[Database | Broker], service: str, *, dry: bool = False) -> dict:
    """Drop whatever this service's test runs have left; {dropped: [name], left: [name]}, `left` read back afterwards.

    Only a run that holds the lease may call it: nobody else is using them then. Every server is tried before a failure is told.
    """
    dropped, problems = [], []
    for server in servers:
        try:
            names = leftovers(server.found(), service)
            if names and not dry:
                server.drop(names)
            dropped += names
        except ScratchError as error:
            problems.append(str(error))
    if problems:
        raise ScratchError("; ".join(problems))
    return {"dropped": sorted(set(dropped)), "left": [] if dry else left(servers, service)}
