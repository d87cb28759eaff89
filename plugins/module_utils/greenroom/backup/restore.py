"""A strict restore of an opened logical backup into an empty scratch cluster: one error, or one word of warning, and it has failed."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from . import schema
from .errors import BackupError, NoSpaceError, ScratchError
from .pipeline import libpq, run
from .scratch_cluster import ScratchCluster, assert_scratch

ROOM = 1.2  # of the source's size must be free on the scratch cluster's disk
JOBS = 2
# Settings of the restored database or its roles must not be in the way of the restore itself.
OPTIONS = "-c client_min_messages=warning -c default_transaction_read_only=off -c session_preload_libraries="
# Of the cluster that is restored into: rows copied into a table of the same transaction are not logged, indexes are built in memory.
SETTINGS = {"wal_level": "minimal", "max_wal_senders": "0", "maintenance_work_mem": "256MB"}
# What a good restore says: subscriptions are made without a connection, so that the copy pulls nothing.
ALLOWED = re.compile(r"^(?:pg_restore: )?WARNING:\s+(?:tables were not subscribed|subscription was created, but is not connected)|^HINT: ")


def restore(inside: Path, document: Mapping, cluster: ScratchCluster, *, jobs: int = JOBS) -> dict[str, float]:
    """Restore roles and the database of the opened backup in `inside` into `cluster`; its name there is the source's.

    document: the manifest. {step: seconds}. Raises ScratchError if the target is no scratch cluster, is the source itself or is not
    empty; NoSpaceError; BackupError, with what the server said, for everything else (a role, an extension or a locale that is missing …).
    """
    source, seconds = document["source"], {}
    with cluster.connect() as connection:
        assert_scratch(connection)
        _check_target(connection, source)
        check_extensions(connection, source["extensions"])
    free = shutil.disk_usage(cluster.folder).free
    if free < ROOM * source["database_bytes"]:
        needed = int(ROOM * source["database_bytes"]) >> 20
        raise NoSpaceError(f"{cluster.folder}: {free >> 20} MB are free, the restored database needs {needed} MB. Free space there")
    with _timed(seconds, "roles"):
        _globals(inside / "globals.sql", source, cluster)
    with _timed(seconds, "restore"):
        conninfo, env = libpq(cluster.dsn())
        env["PGOPTIONS"] = OPTIONS
        # -C makes the database from template0 with its own encoding, locale, owner, rights and settings.
        arguments = ["-C", "--exit-on-error", f"-j{jobs}", "--dbname", conninfo, str(inside / "dump")]
        silent("pg_restore", run(f"{cluster.bin_dir}/pg_restore", *arguments, env=env, advice=_advice(source)).stderr)
    with _timed(seconds, "analyze"), cluster.connect(source["database"]) as connection:
        connection.execute("ANALYZE")  # a dump carries no statistics for the planner
    return seconds


@contextlib.contextmanager
def _timed(seconds: dict, name: str):
    start = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - start, 3)


def _advice(source: Mapping) -> str:
    return (
        "What is missing above must be installed on this host (extension, locale"
        f" {source['collate']}) or was not in the backup (role): the backup cannot be restored as it is"
    )


def _check_target(connection, source: Mapping) -> None:
    identifier, version, superuser = connection.execute(
        "SELECT (SELECT system_identifier::text FROM pg_control_system()), current_setting('server_version_num')::int,"
        " (SELECT rolname FROM pg_roles WHERE oid = 10)"
    ).fetchone()
    if identifier == source["system_identifier"]:
        raise ScratchError("the target is the cluster that the backup was taken from. Nothing was changed")
    found = connection.execute("SELECT datname FROM pg_database WHERE datname NOT IN ('postgres', 'template0', 'template1')").fetchall()
    tables = connection.execute("SELECT count(*) FROM pg_class WHERE oid >= 16384 AND relkind IN ('r', 'p')").fetchone()[0]
    if found or tables:
        what = f"databases {', '.join(row[0] for row in found)}" if found else f"{tables} tables in database postgres"
        raise ScratchError(f"the target is not empty: it has {what}. Restores go into a new cluster")
    if version // 10000 < source["server_version_num"] // 10000:
        raise BackupError(
            f"the backup is of PostgreSQL {source['server_version'].split()[0]}, this host has {version // 10000}: install"
            f" postgresql-{source['server_version_num'] // 10000} (programs only) here"
        )
    if superuser != source["superuser"]:
        raise ScratchError(
            f"the target's first superuser is {superuser}, the source's {source['superuser']}: make the cluster with that name"
        )


def check_extensions(connection, extensions: Mapping) -> None:
    """Raise BackupError unless the server could make each of {extension: version}."""
    available = set(connection.execute("SELECT name, version FROM pg_available_extension_versions").fetchall())
    missing = [f"{name} {version}" for name, version in sorted(extensions.items()) if (name, version) not in available]
    if missing:
        raise BackupError(f"extensions are missing on this host: {', '.join(missing)}. Install the packages that the database host has")


_LOCATION = re.compile(r"^(CREATE TABLESPACE (?P<name>\"(?:[^\"]|\"\")+\"|\S+) .*LOCATION )'.*';$")


def _globals(path: Path, source: Mapping, cluster: ScratchCluster) -> None:
    """Roles and tablespaces. The first superuser is there already; tablespaces get folders beside the cluster."""
    superuser, lines = source["superuser"], []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line in (f"CREATE ROLE {superuser};", f'CREATE ROLE "{superuser}";'):
            continue
        found = _LOCATION.match(line)
        if found:
            folder = cluster.folder / f"tablespace-{len(lines)}"
            folder.mkdir()
            if cluster.user:
                shutil.chown(folder, cluster.user)
            line = f"{found.group(1)}'{folder}';"
        lines.append(line)
    conninfo, env = libpq(cluster.dsn())
    env["PGOPTIONS"] = OPTIONS
    done = run(
        f"{cluster.bin_dir}/psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", conninfo, "-f", "-",
        env=env, input="\n".join(lines).encode() + b"\n",
        advice="An `invalid command` means that psql here is older than the pg_dumpall that wrote the roles: update it",
    )  # fmt: skip
    silent("psql", done.stderr)


def silent(program: str, stderr: bytes) -> None:
    """Raise BackupError if a program that ended with 0 said anything but what is known to be harmless."""
    text = "\n".join(line for line in stderr.decode(errors="replace").splitlines() if line.strip() and not ALLOWED.search(line))
    if text:
        raise BackupError(f"{program} ended with 0 but said: {text[-1500:]}. A restore with warnings counts as failed")


def reloaded_schema(cluster: ScratchCluster, dbname: str, dumped: str) -> str:
    """The normalised schema of a database that is made from the schema dump `dumped`, with the owner that `dbname` has.

    PostgreSQL writes some expressions differently once they were loaded again (`x IN (…)` on a varchar): comparing what both become tells
    that from a real difference.
    """
    with cluster.connect() as connection:
        assert_scratch(connection)
    return reloaded(cluster.dsn(), cluster.bin_dir, dbname, dumped, "greenroom_reload")


def reloaded(dsn: Mapping, bin_dir: str, dbname: str, dumped: str, name: str) -> str:
    """The same on any server, through a database `name` that exists only meanwhile. dsn: of its superuser."""
    import psycopg

    quoted, text = '"' + name.replace('"', '""') + '"', None
    with psycopg.connect(**{**dsn, "dbname": "postgres", "autocommit": True}) as connection:
        query = "SELECT quote_ident(pg_get_userbyid(datdba)) FROM pg_database WHERE datname = %s"
        owner = connection.execute(query, [dbname]).fetchone()[0]
        connection.execute(f"DROP DATABASE IF EXISTS {quoted}")
        connection.execute(f"CREATE DATABASE {quoted} TEMPLATE template0 OWNER {owner}")
        try:
            conninfo, env = libpq({**dsn, "dbname": name})
            env["PGOPTIONS"] = OPTIONS
            run(f"{bin_dir}/psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", conninfo, "-f", "-", env=env, input=dumped.encode())
            text = schema.schema_text({**dsn, "dbname": name}, bin_dir)
        finally:
            connection.execute(f"DROP DATABASE {quoted}")
    return text
