"""One logical backup: dump and fingerprint in one exported snapshot, sealed, signed, put into every place and read back from there.

Nothing that is half done can be taken for a backup: work lies in a folder of its own that the next run removes, files get their names when
they are whole, and a place gets the manifest last. One at a time, by a lock that ends with its process.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from .. import durable
from . import fingerprint, manifest, retention, schema, seal, signature, store
from .configuration import Configuration
from .errors import BackupError, BusyError, NoSpaceError, no_space
from .pipeline import Children, libpq, run, version

MARGIN = 1.3  # of the last backup's size must be free
JOBS = 2
LOCK_WAIT_MS = 30_000  # a table that somebody else holds this long is an error, not a backup that waits for ever
LEFT = "dump-"  # prefix of work folders


@contextlib.contextmanager
def only_one(work_dir: Path) -> Iterator[None]:
    """Hold the lock of this host's logical backups and restores. Raises BusyError at once if another process has it."""
    work_dir.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(durable.locked(work_dir / "logical.lock", timeout_s=0))
        except durable.DurableError as error:
            text = f"another logical backup or restore runs on this host (lock {work_dir / 'logical.lock'}). Wait for its end"
            raise BusyError(text) from error
        yield


def run_dump(config: Configuration, *, jobs: int = JOBS, now=None) -> dict:
    """Take one backup: {id, bytes, places: {name: {ok, bytes, reason}}, seconds: {step: s}, …}, ready for JSON.

    Raises BackupError; where at least one place has a complete backup, its `result` is that mapping with the failed places in it.
    """
    work_dir = Path(config["work_dir"])
    with only_one(work_dir):
        for left in work_dir.glob(LEFT + "*"):
            shutil.rmtree(left, ignore_errors=True)  # of a run that was killed; the lock says that it is gone
        clock = _Clock()
        places = [store.make(place) for place in config["places"]]
        if not places:
            raise BackupError(f"{config.path}: places is empty: a backup would lie nowhere")
        seal.check_recipients(config["seal.recipients"])
        started = now or datetime.datetime.now(datetime.timezone.utc)  # noqa: UP017
        backup_id = manifest.new_id(config["service"], started)
        folder = work_dir / (LEFT + backup_id)
        try:
            folder.mkdir(mode=0o700)
            document = _make(config, folder, backup_id, started, jobs, clock)
            return _spread(config, folder, document, places, clock)
        except OSError as error:
            if no_space(error):
                raise NoSpaceError(f"{work_dir}: the disk is full. Free space there, then run the backup again") from error
            raise BackupError(f"{error.filename or work_dir}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)


class _Clock:
    """Seconds by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0) + time.monotonic() - start, 3)


def _make(config: Configuration, folder: Path, backup_id: str, started, jobs: int, clock: _Clock) -> dict:
    """The sealed file in `folder`, and its manifest."""
    import psycopg

    dsn, bin_dir, inside = config.dsn(), config["database.bin_dir"], folder / "inside"
    inside.mkdir(mode=0o700)
    try:
        leader = psycopg.connect(**dsn, autocommit=True, connect_timeout=10, application_name="greenroom-backup")
    except psycopg.Error as error:
        raise BackupError(f"the database {dsn['dbname']} at {dsn['host']}:{dsn['port']} cannot be reached: {str(error).strip()}") from error
    with leader:
        leader.execute(schema.pin_statement())
        _check_server(leader, bin_dir, bool(config.get("database.allow_standby", False)))
        _check_space(leader, config, folder)
        low = schema.sequence_values(leader)
        leader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        snapshot = leader.execute("SELECT pg_export_snapshot()").fetchone()[0]
        source = _source(leader, dsn) | {"snapshot": snapshot}
        snapshot_time = leader.execute("SELECT transaction_timestamp()").fetchone()[0].astimezone(datetime.timezone.utc)  # noqa: UP017
        with clock.step("dump and fingerprint"):
            taken = _dump_and_fingerprint(dsn, bin_dir, snapshot, inside / "dump", jobs)
        leader.execute("COMMIT")
        high = schema.sequence_values(leader)
    for name, value in taken["sequences"].items():
        # pg_dump read it at some moment between these two.
        value |= {"low": low.get(name, value["low"]), "high": high.get(name, value["high"])}
    with clock.step("roles"):
        conninfo, env = libpq(dsn)
        hidden = [] if source["sees_passwords"] else ["--no-role-passwords"]
        roles = run(f"{bin_dir}/pg_dumpall", "--globals-only", *hidden, "-d", conninfo, env=env)
        (inside / "globals.sql").write_bytes(roles.stdout)
    (inside / "fingerprint.json").write_bytes(durable.canonical(taken))
    dump_bytes = sum(path.stat().st_size for path in inside.rglob("*") if path.is_file())
    partial, sealed = folder / (manifest.DATA + store.PARTIAL), folder / manifest.DATA
    with clock.step("seal"):
        measured = seal.pack(inside, partial, config["seal.recipients"])
        os.rename(partial, sealed)
        durable.fsync_dir(folder)
    shutil.rmtree(inside)
    finished = datetime.datetime.now(datetime.timezone.utc)  # noqa: UP017
    return {
        "format": manifest.FORMAT,
        "kind": "logical",
        "id": backup_id,
        "service": config["service"],
        "status": "complete",
        "started": started.isoformat(),
        "snapshot_time": snapshot_time.isoformat(),
        "finished": finished.isoformat(),
        "source": source,
        "tools": {"pg_dump": _dotted(version(f"{bin_dir}/pg_dump")), "age": _dotted(version("age"))},
        "contents": {
            "tables": len(taken["tables"]),
            "rows": taken["rows"],
            "bytes": taken["bytes"],
            "fingerprint": durable.digest(taken),
            "dump_bytes": dump_bytes,
        },
        "seal": {"type": "age", "recipients": [seal.key_id(one) for one in config["seal.recipients"]]},
        "parts": [{"name": manifest.DATA, **measured}],
    }


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))


def _check_server(connection, bin_dir: str, allow_standby: bool) -> None:
    """What would make the dump incomplete or impossible to restore is found before it starts."""
    row = connection.execute(
        "SELECT pg_is_in_recovery(), current_setting('server_version_num')::int,"
        " (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user), current_user,"
        " (SELECT count(*) FROM pg_class WHERE relrowsecurity)"
    ).fetchone()
    standby, number, sees_all, user, guarded = row
    if standby and not allow_standby:
        raise BackupError(
            "this server is a standby: its backup may be behind. Run the backup on the primary, or set database.allow_standby"
        )
    if guarded and not sees_all:
        raise BackupError(f"role {user} does not see all rows: {guarded} tables have row security. Give it BYPASSRLS, or use postgres")
    client = version(f"{bin_dir}/pg_dump")
    server = (number // 10000, number % 10000)
    if client[0] < server[0] or (client[0] == server[0] and client[1] < server[1]):
        raise BackupError(f"pg_dump {_dotted(client)} in {bin_dir} is older than the server {_dotted(server)}: install the same version")


def _check_space(connection, config: Configuration, folder: Path) -> None:
    """Room for the uncompressed dump and the sealed file: as much as the last one took, or as the database has."""
    last = _last(config)
    size = connection.execute("SELECT pg_database_size(current_database())").fetchone()[0]
    needed = int(MARGIN * (last["dump_bytes"] + last["bytes"])) if last else size
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise NoSpaceError(
            f"{folder.parent}: {free >> 20} MB are free, a backup needs about {needed >> 20} MB. Free space there, or set"
            " work_dir to a larger disk"
        )


def _last(config: Configuration) -> dict | None:
    try:
        return json.loads((Path(config["work_dir"]) / "last.json").read_text())
    except (OSError, ValueError):
        return None


def _source(connection, dsn) -> dict:
    row = connection.execute(
        "SELECT (SELECT system_identifier::text FROM pg_control_system()), d.oid::bigint, current_setting('server_version'),"
        " current_setting('server_version_num')::int, pg_encoding_to_char(d.encoding), d.datcollate, d.datctype, coalesce(to_jsonb(d) ->>"
        " 'datlocprovider', 'c'), coalesce(to_jsonb(d) ->> 'daticulocale', to_jsonb(d) ->> 'datlocale'), to_jsonb(d) ->> 'datcollversion',"
        " pg_database_size(d.oid), CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text,"
        " (SELECT rolname FROM pg_roles WHERE oid = 10), has_table_privilege('pg_authid', 'SELECT'),"
        " (SELECT coalesce(jsonb_object_agg(extname, extversion), '{}') FROM pg_extension) FROM pg_database d"
        " WHERE d.datname = current_database()"
    ).fetchone()
    names = ("system_identifier", "database_oid", "server_version", "server_version_num", "encoding", "collate", "ctype", "provider",
             "icu_locale", "collation_version", "database_bytes", "lsn", "superuser", "sees_passwords", "extensions")  # fmt: skip
    return {"database": dsn["dbname"], **dict(zip(names, row, strict=True))}


def _dump_and_fingerprint(dsn, bin_dir: str, snapshot: str, target: Path, jobs: int) -> dict:
    """pg_dump in the directory format and the fingerprint, side by side in one snapshot. Either's failure ends both."""
    conninfo, env = libpq(dsn)
    outcome: dict = {}

    def take() -> None:
        try:
            outcome["fingerprint"] = fingerprint.take(dsn, snapshot=snapshot, workers=jobs, bin_dir=bin_dir)
        except BaseException as error:
            outcome["error"] = error

    with Children() as children:
        arguments = ["-Fd", f"-j{jobs}", "-Z0", f"--snapshot={snapshot}", "--no-sync", "-f", str(target), "--dbname", conninfo]
        arguments.append(f"--lock-wait-timeout={LOCK_WAIT_MS}")
        process = children.start(f"{bin_dir}/pg_dump", *arguments, env=env, stdout=subprocess.DEVNULL)
        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(0.05)
            if process.poll():
                break  # it failed: no need to read on
        if "error" in outcome:
            raise outcome["error"]
        children.finish()
        said = children.stderr_of(process).strip()
        thread.join()
    if "error" in outcome:
        raise outcome["error"]
    if said:
        raise BackupError(f"pg_dump ended with 0 but said: {said[-1000:]}. A dump with warnings may not restore: look into them")
    if not (target / "toc.dat").is_file():
        raise BackupError("pg_dump ended with 0 but wrote no toc.dat")
    return outcome["fingerprint"]


def _spread(config: Configuration, folder: Path, document: dict, places: list, clock: _Clock) -> dict:
    """Put the backup into every place; one that fails does not keep the others from having it."""
    sealed, part = folder / manifest.DATA, document["parts"][0]
    content = manifest.dump(manifest.parse(manifest.dump(document)))
    signed = signature.sign(content, config["signature.key_file"], config["signature.namespace"])
    backup_id, outcome = document["id"], {}
    for place in places:
        with clock.step(f"place {place.name}"):
            try:
                place.clean()
                place.put(sealed, f"{backup_id}/{manifest.DATA}", part)
                place.put_bytes(signed, f"{backup_id}/{manifest.SIGNATURE}")
                # From here on it counts as a backup; the data was read back before.
                place.put_bytes(content, f"{backup_id}/{manifest.MANIFEST}")
                place.put_bytes(
                    durable.canonical({"id": backup_id, "manifest_sha256": hashlib.sha256(content).hexdigest()}), manifest.LATEST
                )
                outcome[place.name] = {"ok": True, "bytes": part["size"], "reason": None}
            except (BackupError, OSError) as error:
                outcome[place.name] = {"ok": False, "bytes": None, "reason": str(error)}
    result = {
        "id": backup_id,
        "bytes": part["size"],
        "dump_bytes": document["contents"]["dump_bytes"],
        "tables": document["contents"]["tables"],
        "rows": document["contents"]["rows"],
        "snapshot_time": document["snapshot_time"],
        "sha256": part["sha256"],
        "places": outcome,
        "seconds": clock.seconds,
    }
    failed = [name for name, one in outcome.items() if not one["ok"]]
    if len(failed) < len(places):
        durable.write_atomic(Path(config["work_dir"]) / "last.json", durable.canonical(result))
    if failed:
        text = "; ".join(outcome[name]["reason"] for name in failed)
        raise BackupError(f"backup {backup_id} is not in {len(failed)} of {len(places)} places: {text}", result)
    result["retention"] = prune(config, places)
    return result


def prune(config: Configuration, places: list) -> dict:
    """Apply retention.logical: {place: {removed: [id], note}}. A place whose key cannot delete keeps all, and says so."""
    keep, outcome = int(config["retention.logical"]), {}
    for place in places:
        removed: list[str] = []
        try:
            verified = proved(config)
            manifests = [manifest.parse(place.read(f"{one}/{manifest.MANIFEST}")) for one in manifest.ids(place.keys())]
            gone, note = retention.plan(manifests, keep, verified)
            for backup_id in gone:
                # The manifest first: what is left without one is no backup.
                for name in (manifest.MANIFEST, manifest.SIGNATURE, manifest.DATA):
                    place.delete(f"{backup_id}/{name}")
                removed.append(backup_id)
        except (BackupError, OSError) as error:
            note = f"not applied: {error}"
        outcome[place.name] = {"removed": removed, "note": note}
    return outcome


def proved(config: Configuration) -> list[str]:
    """Ids of backups that a restore has proved, as this host was told (`mark_proved`)."""
    try:
        document = durable.read_sealed(Path(config["work_dir"]) / "proved.json", "Remove it and run backup_verify again")
    except durable.DurableError as error:
        raise BackupError(str(error)) from error
    return list(document["ids"]) if document else []


def mark_proved(config: Configuration, backup_id: str) -> None:
    """Remember that a restore has proved this backup: retention then keeps it until a newer one is proved."""
    if not manifest.ID.fullmatch(backup_id):
        raise BackupError(f"{backup_id!r} is no id of a backup")
    ids = [one for one in proved(config) if one != backup_id] + [backup_id]
    durable.write_sealed(Path(config["work_dir"]) / "proved.json", {"ids": ids[-100:]})
