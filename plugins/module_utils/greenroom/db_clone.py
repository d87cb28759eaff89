"""The clone of a database at a stated moment, and what is carried away from it: on a host that restores, never over a live server.

A physical backup is recovered to the target as a throw-away cluster; a logical one is proved by its own walk and opened there. Either way
the database is dumped from the clone together with its fingerprint, and whoever loads that dump compares with it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from . import durable
from .backup import fingerprint, point_in_time, seal, verify
from .backup.configuration import load
from .backup.errors import BackupError, BusyError
from .backup.pgbackrest import PgBackRest, judge
from .backup.physical_evidence import load_point
from .backup.pipeline import libpq, run
from .backup.point_in_time import Target
from .backup.restore import OPTIONS, silent
from .backup.scratch_cluster import ScratchCluster, assert_scratch
from .db_plan import wanted

CARRIED, SEALED, TRANSIT = "carry", "carry.age", "transit_key"
FACTS = "carry.json"


def cloned(
    plan: Mapping, folder: Path, *, config: str, repo: int | None = None, recipient: str | None = None, point_file: str | None = None,
    workers: int = 2, limit_s: float = 3600, user: str | None = "postgres",
) -> dict:  # fmt: skip
    """Make the clone that `plan` wants below `folder`, dump the database from it, remove the clone.

    config: backup.json of this host. repo: number of a repository, by default the first that is configured. recipient: age's public key
    of the host that loads it; without one the dump stays as the folder `folder/carry`. point_file: a known point, whose content is
    compared. limit_s: of the replay. {what, sealed (path or None), part, rows, tables, bytes, seconds}. Raises BackupError; nothing is left
    then.
    """
    folder, to = Path(folder).resolve(), wanted(plan["to"])
    folder.mkdir(parents=True, exist_ok=True)
    with only_one(folder.parent):
        return _cloned(plan, folder, to, config, repo, recipient, point_file, workers, limit_s, user)


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold this host's lock of restores; it ends with its process. Raises BusyError at once if another one runs."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(durable.locked(folder / "restore.lock", timeout_s=0))
        except durable.DurableError as error:
            text = f"another restore runs on this host (lock {folder / 'restore.lock'}). Wait for its end. Nothing was changed"
            raise BusyError(text) from error
        yield


def _cloned(plan, folder, to, config, repo, recipient, point_file, workers, limit_s, user) -> dict:
    for name in (CARRIED, "clone"):  # of a run that was killed
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / SEALED).unlink(missing_ok=True)
    settings = load(config)
    try:
        if to["kind"] == "logical":
            facts = _logical(plan, folder, settings, to["id"], workers, user)
        else:
            physical = settings["physical"]
            pgbackrest = PgBackRest(physical["stanza"], physical["config_file"], user=user)
            number = repo or int(physical["repositories"][0]["key"])
            facts = _physical(plan, folder, pgbackrest, number, to, settings["database.bin_dir"], point_file, workers, limit_s, user)
        facts |= {"sealed": None, "part": None}
        if recipient:
            facts["part"] = seal.pack(folder / CARRIED, folder / SEALED, [recipient])
            facts["sealed"] = str(folder / SEALED)
            shutil.rmtree(folder / CARRIED)
        return facts
    except BaseException:
        shutil.rmtree(folder / CARRIED, ignore_errors=True)
        (folder / SEALED).unlink(missing_ok=True)
        raise
    finally:
        shutil.rmtree(folder / "clone", ignore_errors=True)


def _physical(plan, folder, pgbackrest, repo, to, bin_dir, point_file, workers, limit_s, user) -> dict:
    target = Target(**to["target"])
    point = load_point(point_file) if point_file else None
    if point and point["name"] == target.value:
        target = Target(target.kind, target.value, point["lsn"])
    backups = pgbackrest.backups(repo)
    _newest, problems = judge(backups, repo, system_identifier=plan["system_identifier"], max_age_s=None, now=plan["now"])
    mine = [one for one in backups if one["system_identifier"] == plan["system_identifier"]]
    if not mine:
        raise BackupError("; ".join(problems))
    backup = point_in_time.choose(mine, target, to["label"])
    fetched = point_in_time.fetch(pgbackrest, folder / "clone", backup, target)
    cluster, told = point_in_time.recover(folder / "clone", target, bin_dir=bin_dir, user=user, limit_s=limit_s)
    try:
        if point and point["name"] == target.value:
            _after, found = point_in_time.compare(cluster, point, workers=workers)
            if found:
                text = f"the clone differs from the known point {target.value}: {'; '.join(found[:10])}"
                raise BackupError(f"{text}. Restore from another backup")
        what = f"backup {backup['label']} of repository {repo}, {told['log_line']}"
        facts = exported(cluster, plan["database"], folder / CARRIED, what=what, workers=workers)
    finally:
        cluster.remove()
    return {**facts, "prepared": told["prepared"], "seconds": {"fetch": fetched, "recover": told["seconds"]}}


def _logical(plan, folder, settings, backup_id, workers, user) -> dict:
    facts: dict = {}

    def keep(cluster: ScratchCluster, database: str) -> list[dict]:
        what, origin = f"logical backup {backup_id}", plan["system_identifier"]  # compared with its manifest below
        facts.update(exported(cluster, database, folder / CARRIED, what=what, workers=workers, origin=origin))
        return []

    proof = verify.verify(settings, backup_id=backup_id, max_age_s=None, jobs=workers, scratch_dir=folder, also=keep, user=user)
    if proof["verdict"] != verify.VERIFIED:
        raise BackupError(proof["statement"])
    source = proof["source"]
    if (source["system_identifier"], source["database"]) != (plan["system_identifier"], plan["database"]):
        raise BackupError(f"backup {backup_id} is of {source['database']} in cluster {source['system_identifier']}, not of the planned one")
    return {**facts, "prepared": [], "seconds": proof["seconds"]}


def exported(cluster: ScratchCluster, database: str, folder: Path, *, what: str, workers: int, origin: str | None = None) -> dict:
    """Check indexes, take the fingerprint and dump the database of a clone into `folder`: {what, rows, tables, bytes}.

    origin: system identifier of the server it is a clone of, where the clone's own is another one.
    """
    with cluster.connect() as connection:
        assert_scratch(connection)
        names = [row[0] for row in connection.execute("SELECT datname FROM pg_database WHERE NOT datistemplate ORDER BY 1").fetchall()]
    if database not in names:
        raise BackupError(f"there was no database {database} at that moment, only {', '.join(names)}. Choose another target")
    dsn = cluster.dsn(database)
    taken = fingerprint.take(dsn, workers=workers, bin_dir=cluster.bin_dir)
    if not taken["rows"]:
        raise BackupError(f"database {database} had no row at that moment: it is not what is looked for. Choose another target")
    amcheck(dsn, cluster.bin_dir, workers)
    folder.mkdir(mode=0o700)
    conninfo, env = libpq(dsn)
    arguments = ["-Fd", f"-j{workers}", "-Z0", "--no-sync", "--no-subscriptions", "-f", str(folder / "dump"), "--dbname", conninfo]
    silent("pg_dump", run(f"{cluster.bin_dir}/pg_dump", *arguments, env=env).stderr)
    with cluster.connect(database) as connection:
        row = connection.execute(
            "SELECT pg_encoding_to_char(encoding), datcollate, datctype, coalesce(to_jsonb(d) ->> 'datlocprovider', 'c'),"
            " coalesce(to_jsonb(d) ->> 'daticulocale', to_jsonb(d) ->> 'datlocale') FROM pg_database d WHERE datname = %s", [database],
        ).fetchone()  # fmt: skip
    locale = dict(zip(("encoding", "collate", "ctype", "provider", "icu_locale"), row, strict=True))
    facts = {"what": what, "rows": taken["rows"], "tables": len(taken["tables"]), "bytes": taken["database_bytes"]}
    document = {"database": database, "system_identifier": origin or taken["system_identifier"], "locale": locale, **facts}
    (folder / "fingerprint.json").write_bytes(durable.canonical(taken))
    (folder / FACTS).write_text(json.dumps({**document, "fingerprint": durable.digest(taken)}) + "\n")
    return facts


def amcheck(dsn: Mapping, bin_dir: str, workers: int) -> None:
    """Raise BackupError if an index or a table of a database is damaged. The extension is there only meanwhile."""
    import psycopg

    arguments = ["--heapallindexed", "--install-missing", f"-j{workers}", "-h", str(dsn["host"]), "-p", str(dsn["port"]), "-U", dsn["user"]]
    with psycopg.connect(**{**dsn, "autocommit": True}) as connection:
        there = connection.execute("SELECT count(*) FROM pg_extension WHERE extname = 'amcheck'").fetchone()[0]
        try:
            env = {**libpq(dsn)[1], "PGOPTIONS": OPTIONS}
            done = run(f"{bin_dir}/pg_amcheck", *arguments, "--maintenance-db=postgres", "-d", dsn["dbname"], env=env)
        finally:
            if not there:
                connection.execute("DROP EXTENSION IF EXISTS amcheck")
    if text := (done.stdout + done.stderr).decode(errors="replace").strip():
        raise BackupError(f"pg_amcheck of {dsn['dbname']}: {text[-1500:]}. Restore from another backup")
