"""A restore to a stated moment, into a new folder, as a scratch cluster; and the moment whose content is known: a locked restore point.

Under a lock of milliseconds nobody writes, a second connection exports a snapshot, and a restore point is put into WAL: what the snapshot
shows is exactly what a recovery to that point must show. Without the lock a commit can be in WAL before the point and not yet visible.
PostgreSQL succeeds silently when it recovers to "latest" over a gap: here every recovery has a target, and the server's own log line
"recovery stopping …" is required. Source: PostgreSQL manual, "Recovery Target" and "pg_create_restore_point".
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import fingerprint, schema
from .errors import BackupError, NoSpaceError
from .pgbackrest import PROGRAM, PgBackRest
from .scratch_cluster import ScratchCluster, assert_scratch
from .wal import POINT, lsn

SPACE = 1.2  # times the size of the cluster, so that WAL and the growth since the backup fit too
KINDS = ("name", "lsn", "time", "immediate")
STOPPING = {
    "name": r'recovery stopping at restore point "{value}"',
    "lsn": r'recovery stopping (?:before|after) WAL location \(LSN\) "{value}"',
    "time": r"recovery stopping (?:before|after) (?:commit|abort) of .*",
    "immediate": r"recovery stopping after reaching consistency",
}
CONTROL = {
    "max_connections setting": "max_connections", "max_worker_processes setting": "max_worker_processes",
    "max_wal_senders setting": "max_wal_senders", "max_prepared_xacts setting": "max_prepared_transactions",
    "max_locks_per_xact setting": "max_locks_per_transaction",
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """Where recovery stops.

    kind: name (a restore point), lsn, time (ISO 8601 with its zone) or immediate (the end of the backup).
    lsn: of a named point, if known: then a backup that is too young is not chosen.
    """

    kind: str
    value: str = ""
    lsn: str | None = None

    def checked(self) -> Target:
        """Itself. Raises BackupError for a target that PostgreSQL would misread or never find."""
        rules = {"name": POINT.pattern, "lsn": r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}", "immediate": ""}
        rules["time"] = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?\s?(Z|UTC|[+-]\d\d(:?\d\d)?)"
        if self.kind not in KINDS or not re.fullmatch(rules[self.kind], self.value):
            examples = {"time": "an ISO 8601 time with its zone, e.g. 2026-11-20T09:30:00Z", "lsn": "an LSN, e.g. 0/3000028"}
            wanted = examples.get(self.kind) or "one of " + ", ".join(KINDS)
            raise BackupError(f"recovery target {self.kind} {self.value!r}: wanted is {wanted}")
        return self

    def log_line(self) -> str:
        """The regular expression of the line with which the server says that it stopped here."""
        value = self.value
        if self.kind == "lsn":
            value = f"{lsn(value) >> 32:X}/{lsn(value) & 0xFFFFFFFF:X}"
        return STOPPING[self.kind].format(value=re.escape(value))

    def epoch(self) -> float:
        """The time of kind `time` in epoch seconds."""
        from datetime import datetime

        text = re.sub(r"\s?(Z|UTC)$", "+00:00", self.value)
        return datetime.fromisoformat(re.sub(r"([+-]\d\d)$", r"\1:00", text)).timestamp()


# --- at the source: a moment whose content is known ---------------------------------------------------------------------------


@contextlib.contextmanager
def locked_point(dsn: Mapping, name: str, *, lock_timeout_ms: int = 500, tries: int = 10):
    """Make a restore point at which the database's content is known.

    Yields {name, lsn, segment, snapshot, sequences, waited_ms, held_ms, tries, segment_size}. The snapshot lives as long as the block.
    dsn: libpq keywords of a superuser's connection to the database, on the primary. All tables are locked IN SHARE MODE together; if one
    is not to be had within lock_timeout_ms, all are let go and it is tried again, so that writers never wait longer than that.
    Raises BackupError after `tries`, with who held the lock.
    """
    import psycopg

    if not POINT.fullmatch(name):
        raise BackupError(f"restore point {name!r}: 1 to 63 letters, digits, dots, hyphens and underscores")
    with psycopg.connect(**{**dsn, "autocommit": True}) as keeper, psycopg.connect(**{**dsn, "autocommit": True}) as locker:
        if keeper.execute("SELECT pg_is_in_recovery()").fetchone()[0]:
            raise BackupError("this server is a standby: a restore point is made on the primary. Run it there")
        locker.execute(f"SET lock_timeout = {int(lock_timeout_ms)}")
        for attempt in range(1, tries + 1):
            # The oldest readers first: tables that come and go between the two statements are tried again.
            tables = [row[0] for row in locker.execute(
                "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE"
                " c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1"
            )]  # fmt: skip
            if not tables:
                raise BackupError(f"database {dsn.get('dbname')} has no table: a point there would prove nothing. Is it the right one?")
            started = time.monotonic()
            try:
                locker.execute("BEGIN")
                locker.execute(f"LOCK TABLE {', '.join([*tables, 'pg_catalog.pg_largeobject'])} IN SHARE MODE")
                held = time.monotonic()
                keeper.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                snapshot = keeper.execute("SELECT pg_export_snapshot()").fetchone()[0]
                sequences = schema.sequence_values(locker)
                row = locker.execute(
                    "SELECT x::text, pg_walfile_name(x), (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size')"
                    " FROM pg_create_restore_point(%s) x", [name],
                ).fetchone()  # fmt: skip
                locker.execute("COMMIT")
                released = time.monotonic()
                break
            except (psycopg.errors.LockNotAvailable, psycopg.errors.UndefinedTable, psycopg.errors.DeadlockDetected) as error:
                locker.execute("ROLLBACK")
                last = str(error).strip().splitlines()[0]
                time.sleep(0.1 * attempt)
        else:
            blockers = keeper.execute(
                "SELECT DISTINCT a.pid, a.usename, a.application_name, left(a.query, 80) FROM pg_locks l"
                " JOIN pg_stat_activity a USING (pid) WHERE l.mode IN"
                " ('RowExclusiveLock', 'ShareRowExclusiveLock', 'AccessExclusiveLock', 'ExclusiveLock')"
                " AND l.locktype = 'relation' AND a.datname = current_database() AND a.pid <> pg_backend_pid() LIMIT 5"
            ).fetchall()
            prepared = keeper.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()").fetchall()
            raise BackupError(
                f"the tables of {dsn.get('dbname')} could not be locked for a moment in {tries} tries of {lock_timeout_ms} ms ({last})."
                f" Held by: {'; '.join(f'pid {pid} {user} {app} {query}' for pid, user, app, query in blockers) or 'nobody that is seen'}"
                + (f"; prepared transactions: {', '.join(one[0] for one in prepared)}" if prepared else "")
                + ". Let those end, then try again"
            )
        yield {
            "name": name, "lsn": row[0], "segment": row[1], "segment_size": row[2], "snapshot": snapshot, "sequences": sequences,
            "tries": attempt, "waited_ms": round((held - started) * 1000, 2), "held_ms": round((released - held) * 1000, 2),
        }  # fmt: skip


def known_point(dsn: Mapping, name: str, *, bin_dir: str, workers: int = 2, **limits: int) -> dict:
    """A locked restore point with the fingerprint of its content: {name, lsn, segment, segment_size, waited_ms, held_ms, tries,
    fingerprint}.

    Its sequences have the value before the point and the one after the fingerprint: they do not keep to snapshots.
    """
    with locked_point(dsn, name, **limits) as point:
        taken = fingerprint.take(dsn, snapshot=point["snapshot"], workers=workers, bin_dir=bin_dir)
    for sequence, value in point["sequences"].items():
        if sequence in taken["sequences"]:
            taken["sequences"][sequence]["low"] = value
    return {**{key: value for key, value in point.items() if key not in ("snapshot", "sequences")}, "fingerprint": taken}


# --- at the restore host --------------------------------------------------------------------------------------------------------


def choose(backups: list[dict], target: Target, label: str | None = None) -> dict:
    """The backup to begin from: `label`, or the newest good one that ended before the target. Raises BackupError if there is none."""
    good = [one for one in backups if one["error"] is False]
    if label:
        found = [one for one in backups if one["label"] == label]
        if not found:
            raise BackupError(f"no backup {label}; there are {', '.join(one['label'] for one in backups) or 'none'}")
        if found[0]["error"] is not False:
            raise BackupError(f"backup {label} holds corrupt pages (error flag). Take another: {', '.join(one['label'] for one in good)}")
        good = found
    place = target.value if target.kind == "lsn" else target.lsn
    before = [
        one for one in good
        if (place is None or lsn(one["lsn_stop"]) <= lsn(place)) and (target.kind != "time" or one["stopped"] <= target.epoch())
    ]  # fmt: skip
    if not before:
        raise BackupError(
            f"no backup without corrupt pages ended before {target.kind} {target.value}: it cannot be reached."
            f" Oldest: {min((one['label'] for one in good), default='none')}. Look into the other repository, or choose a later target"
        )
    return max(before, key=lambda one: one["stopped"])


def check_folder(folder: Path, needed: int) -> None:
    """Raise BackupError unless `folder` is new or empty, lies in no data folder, and its disk has `needed` bytes (NoSpaceError)."""
    for place in (folder, *folder.parents):
        if (place / "PG_VERSION").exists():
            running = (place / "postmaster.pid").exists()
            raise BackupError(
                f"{folder}: {place} is a data folder of PostgreSQL{', and a server runs on it' if running else ''}."
                " A restore goes into a new folder"
            )
    if folder.exists() and any(folder.iterdir()):
        raise BackupError(f"{folder}: is not empty. A restore never goes over data: give a new folder")
    free = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free
    if free < needed:
        raise NoSpaceError(
            f"{folder}: {free / 1e6:.0f} MB are free there, the restore needs {needed / 1e6:.0f} MB. Free space, or give another disk"
        )


def fetch(
    pgbackrest: PgBackRest, folder: Path, backup: dict, target: Target, *, timeline: str = "latest", check_space: bool = True
) -> float:
    """Restore a backup's files into `folder/data`, set to recover to the target with archive_mode off; the seconds it took.

    Files arrive in `data.partial` and are renamed when all are there. Raises BackupError; what a failed restore left is removed.
    """
    target.checked()
    folder = Path(folder).resolve()
    check_folder(folder, int(backup["size"] * SPACE) if check_space else 0)
    folder.mkdir(parents=True, exist_ok=True)
    partial, data = folder / "data.partial", folder / "data"
    partial.mkdir(mode=0o700)
    if pgbackrest.user:
        for path in (folder, partial):
            shutil.chown(path, pgbackrest.user)
    extra = "".join(f" {option}" for option in pgbackrest.options)
    command = f"{PROGRAM} --config={pgbackrest.config} --stanza={pgbackrest.stanza}{extra} --repo={backup['repo']} --pg1-path={data}"
    options = [
        f"--repo={backup['repo']}", f"--set={backup['label']}", f"--pg1-path={partial}", f"--type={target.kind}", "--archive-mode=off",
        f"--recovery-option=restore_command={command} archive-get %f \"%p\"", f"--tablespace-map-all={folder}/tablespaces",
        "--target-action=promote",
    ]  # fmt: skip
    if target.kind != "immediate":
        value = re.sub(r"T(?=\d\d:)", " ", re.sub(r"\s?(Z|UTC)$", "+00", target.value)) if target.kind == "time" else target.value
        options += [f"--target={value}", f"--target-timeline={timeline}"]
    started = time.monotonic()
    try:
        pgbackrest.run("restore", *options)
        partial.rename(data)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(folder / "tablespaces", ignore_errors=True)
        raise
    return round(time.monotonic() - started, 3)


def control_data(data_dir: Path, bin_dir: str) -> dict[str, str]:
    """What pg_controldata says of a stopped cluster."""
    argv = [f"{bin_dir}/pg_controldata", "-D", str(data_dir)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={"LC_ALL": "C", "PATH": os.defpath})
    if done.returncode:
        raise BackupError(f"{data_dir}: pg_controldata failed: {done.stderr.strip()}. Was the restore complete?")
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in done.stdout.splitlines())}


def control_needs(data_dir: Path, bin_dir: str) -> dict[str, str]:
    """Settings of a server that replays a cluster's WAL: at least what the one that wrote it had; prepared transactions come back too."""
    control = control_data(data_dir, bin_dir)
    return {setting: control[key] for key, setting in CONTROL.items() if key in control}


def recover(
    folder: Path,
    target: Target,
    *,
    bin_dir: str,
    user: str | None = "postgres",
    superuser: str = "postgres",
    limit_s: float = 3600,
    settings: dict | None = None,
) -> tuple[ScratchCluster, dict]:
    """Start the cluster in `folder/data` and replay WAL up to the target.

    (the running cluster, {log_line, lsn, timeline, prepared (names of prepared transactions that came back), seconds}).
    Raises BackupError if the target was not met; the cluster is stopped then and its folder left to look at.
    """
    folder = Path(folder).resolve()
    needs = control_needs(folder / "data", bin_dir)
    cluster = ScratchCluster(folder, bin_dir=bin_dir, user=user, settings={"log_min_messages": "log", **needs, **(settings or {})})
    started = time.monotonic()
    try:
        cluster.adopt(folder / "data", superuser)
        cluster.start(limit_s)
        with cluster.connect() as connection:
            while connection.execute("SELECT pg_is_in_recovery()").fetchone()[0]:
                if not cluster.running or time.monotonic() - started > limit_s:
                    raise BackupError(f"recovery did not end within {limit_s:g} s. Look at {cluster.log}")
                time.sleep(0.05)
            assert_scratch(connection)
            row = connection.execute(
                "SELECT pg_current_wal_lsn()::text, (SELECT timeline_id FROM pg_control_checkpoint()),"
                " ARRAY(SELECT gid FROM pg_prepared_xacts ORDER BY gid)"
            ).fetchone()
    except Exception as error:
        log = cluster.log.read_text(errors="replace") if cluster.log.exists() else ""
        cluster.stop()
        raise missed(target, log, error) from error
    log = cluster.log.read_text(errors="replace")
    found = re.search(target.log_line(), log)
    if not found:
        cluster.stop()
        raise missed(target, log, None)
    return cluster, {
        "log_line": found.group(0), "lsn": row[0], "timeline": row[1], "prepared": row[2], "seconds": round(time.monotonic() - started, 3),
    }  # fmt: skip


def missed(target: Target, log: str, error: Exception | None) -> BackupError:
    """Why recovery did not end at its target, from the server's log."""
    what = f"recovery to {target.kind} {target.value}".strip()
    lines = [line.split(": ", 1)[-1].strip() for line in log.splitlines() if re.search(r"\b(FATAL|PANIC|ERROR):", line)]
    said = "; ".join(dict.fromkeys(line for line in lines if "starting up" not in line))[-800:]
    if isinstance(error, NoSpaceError):
        return NoSpaceError(f"{what}: {error}")
    if "recovery ended before configured recovery target was reached" in log:
        last = re.findall(r"restored log file \"([0-9A-F]{24})\"", log)
        return BackupError(
            f"{what} failed: WAL in the archive ended (last segment {last[-1] if last else 'none'}) before the target was met. A segment is"
            " missing or was never archived, or the target never was. Check the archive (WAL continuity), or choose an earlier target",
            {"last_segment": last[-1] if last else None},
        )
    if "could not locate required checkpoint record" in log:
        return BackupError(
            f"{what} failed: WAL that the backup itself needs is missing in its repository ({said}). Restore from the other repository,"
            " and take a full backup into this one now"
        )
    if error is None:
        text = f"{what} ended without the log line that says so: this is not that moment. Do not use this copy"
        return BackupError(text, {"log": log[-2000:]})
    return BackupError(f"{what} failed: {said or error}. See pgBackRest's and the server's words above; the live server was not touched")


def compare(cluster: ScratchCluster, point: Mapping, *, workers: int = 2) -> tuple[dict, list[str]]:
    """(fingerprint of the restored database, its differences from the point's): [] means equal, row for row."""
    before = point["fingerprint"]
    after = fingerprint.take(cluster.dsn(before["database"]), workers=workers, bin_dir=cluster.bin_dir, like=before)
    found = fingerprint.differences(before, after, physical=True)
    if after["system_identifier"] != before["system_identifier"]:
        found.append(f"system identifier is {after['system_identifier']} instead of {before['system_identifier']}")
    return after, found
