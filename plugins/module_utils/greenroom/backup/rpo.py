"""The RPO by experiment: acknowledged writes, the server lost with its disk, and what came back from the archive.

A throw-away cluster archives as the real one does (same archive_timeout, same kinds of repository). A writer commits numbered rows and
notes each number when the commit has been acknowledged. Then every process of the server is killed and its data folder is deleted; what
counts is what a restore from the repository brings back. It is lost just before the next segment would have been archived, which is the
worst moment: a figure from a lucky moment would promise too much. Source: 001 §7.2 (RPO).
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import statistics
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from .errors import BackupError
from .pgbackrest import PgBackRest
from .scratch_cluster import MARKER, ScratchCluster, assert_scratch

STANZA = "greenroom-rpo"


class ArchivingCluster(ScratchCluster):
    """A scratch cluster that archives with pgBackRest: only this experiment makes one, and never from a restored folder."""

    def __init__(self, folder: Path, config: Path, **options: object):
        super().__init__(folder, **options)
        self.config = config

    def _server_settings(self) -> dict:
        command = f"pgbackrest --config={self.config} --stanza={STANZA} archive-push %p"
        return {**super()._server_settings(), "archive_mode": "on", "archive_command": command}


class Writer(threading.Thread):
    """Commits numbered rows one after the other; `acked` are (number, time of the acknowledgement), `latencies` in seconds."""

    def __init__(self, dsn: Mapping, rate: float):
        super().__init__(daemon=True)
        self.dsn, self.pause, self.stop = dict(dsn), 1 / rate, threading.Event()
        self.acked: list[tuple[int, float]] = []
        self.latencies: list[float] = []

    def run(self) -> None:
        import psycopg

        with contextlib.suppress(psycopg.Error), psycopg.connect(**self.dsn, autocommit=True) as connection:
            number = 0
            while not self.stop.is_set():
                number += 1
                started = time.monotonic()
                connection.execute("INSERT INTO numbers (n) VALUES (%s)", [number])
                now = time.monotonic()
                self.acked.append((number, now))
                self.latencies.append(now - started)
                time.sleep(max(0.0, self.pause - (now - started)))


def configuration(folder: Path, data: Path, cluster: ScratchCluster, repository: Mapping[str, object], user: str | None) -> Path:
    """Write the experiment's pgBackRest configuration (0600). repository: options of repo1, `{"repo1-type": "s3", …}`; {} is a folder."""
    options = {"repo1-path": folder / "repository", **repository, "compress-type": "zst", "start-fast": "y", "log-level-file": "off"}
    options |= {"log-path": folder, "lock-path": folder / "lock", "spool-path": folder / "spool", "log-level-console": "warn"}
    lines = [f"{key}={value}" for key, value in options.items()]
    lines += ["", f"[{STANZA}]", f"pg1-path={data}", f"pg1-port={cluster.port}", f"pg1-socket-path={cluster.socket_dir}"]
    path = folder / "pgbackrest.conf"
    path.touch(mode=0o600)
    path.write_text("\n".join(["[global]", *lines, ""]), encoding="utf-8")
    for name in ("repository", "lock", "spool"):
        (folder / name).mkdir()
    if user:
        for place in (folder, path, *(folder / name for name in ("repository", "lock", "spool"))):
            shutil.chown(place, user, pwd.getpwnam(user).pw_gid)
    return path


def lose(cluster: ScratchCluster) -> None:
    """The server is gone: every process of it killed at once, then its data folder deleted. The caller proved that it is a scratch one."""
    pid = cluster.pid
    children = [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and _parent(entry) == pid]
    for each in (pid, *children):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    cluster.stop(signal.SIGKILL)
    if not (cluster.data_dir / MARKER).exists():
        raise BackupError(f"{cluster.data_dir}: has no {MARKER}; nothing was deleted")
    shutil.rmtree(cluster.data_dir)


def _parent(pid: str) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def experiment(
    folder: str | Path,
    *,
    archive_timeout_s: int,
    bin_dir: str,
    repository: Mapping[str, object] | None = None,
    rate: float = 50.0,
    user: str | None = "postgres",
    limit_s: float = 600,
    worst: bool = True,
) -> dict:
    """Write, lose the server, restore, count. Raises BackupError if the experiment itself could not be made.

    folder: new or empty; everything lies there, and is gone afterwards. archive_timeout_s: as the real server has it, at least 1.
    repository: options of pgBackRest's repo1, by default a folder. rate: commits a second. worst: lose the server just before the next
    segment is archived.

    {archive_timeout_s, acked, recovered, lost_rows, lost_s (from the first acknowledged row that did not come back to the loss; 0 if none),
    gaps (numbers missing before the last that came back: must be 0), restore_s, commit_ms: {p50, p99}, segments}.
    """
    from .point_in_time import check_folder

    folder = Path(folder).resolve()
    check_folder(folder, 400_000_000)
    folder.mkdir(parents=True, exist_ok=True)
    user = user if os.geteuid() == 0 else None
    source_folder, repo_folder, back = folder / "source", folder / "pgbackrest", folder / "back"
    repo_folder.mkdir()
    settings = {"archive_timeout": str(archive_timeout_s), "synchronous_commit": "on", "wal_level": "replica", "full_page_writes": "on"}
    config = repo_folder / "pgbackrest.conf"
    source = ArchivingCluster(source_folder, config, bin_dir=bin_dir, user=user or "postgres", settings=settings)
    restored = None
    try:
        source._make_folders()
        configuration(repo_folder, source.data_dir, source, repository or {}, user)
        source.start()
        pgbackrest = PgBackRest(STANZA, config, user=user)
        pgbackrest.run("stanza-create")
        with source.connect() as connection:
            connection.execute("CREATE TABLE numbers (n int PRIMARY KEY, at timestamptz DEFAULT clock_timestamp())")
        backup = pgbackrest.backup(1, "full")
        writer = Writer(source.dsn(), rate)
        writer.start()
        archived = _wait_for_loss(source, archive_timeout_s, limit_s, worst)
        lost_at = time.monotonic()
        lose(source)
        writer.stop.set()
        writer.join(30)
        acked = list(writer.acked)  # what was acknowledged until the very end counts
        lost_at = max(lost_at, acked[-1][1] if acked else 0.0)
        started = time.monotonic()
        numbers, restored = _restored(pgbackrest, back, backup, bin_dir, user)
        return _verdict(acked, numbers, lost_at, writer.latencies) | {
            "archive_timeout_s": archive_timeout_s, "restore_s": round(time.monotonic() - started, 3), "segments": archived,
        }  # fmt: skip
    finally:
        if restored:
            restored.remove()
        source.remove()
        for place in (source_folder, repo_folder, back):
            shutil.rmtree(place, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.rmdir()


def _wait_for_loss(source: ScratchCluster, archive_timeout_s: int, limit_s: float, worst: bool) -> int:
    """Wait until segments that the writer filled were archived, then for the moment of the loss; how many were."""
    query = "SELECT archived_count, extract(epoch FROM clock_timestamp() - last_archived_time)::float FROM pg_stat_archiver"
    until = time.monotonic() + limit_s
    with source.connect() as connection:
        assert_scratch(connection)
        first = connection.execute(query).fetchone()[0]
        while True:
            count, age = connection.execute(query).fetchone()
            # The backup's own segments came before `first`; what comes now holds the writer's rows. The next is due archive_timeout later.
            if count >= first + 1 and (not worst or age >= 0.9 * archive_timeout_s):
                return count - first
            if time.monotonic() > until:
                raise BackupError(
                    f"nothing was archived within {limit_s:g} s: {count - first} segments. Look at archive_timeout and at {source.log}"
                )
            time.sleep(0.02)


def _restored(pgbackrest: PgBackRest, back: Path, backup: dict, bin_dir: str, user: str | None) -> tuple[set[int], ScratchCluster]:
    """The numbers that came back, replayed to the end of the archive, and the cluster they are in.

    Here, and only here, recovery goes to the end of what there is: how far that reaches is the question, and gaps are counted.
    """
    from .point_in_time import control_needs

    back.mkdir()
    data = back / "data"
    data.mkdir(mode=0o700)
    if pgbackrest.user:
        for place in (back, data):
            shutil.chown(place, pgbackrest.user)
    pgbackrest.run("restore", "--repo=1", f"--set={backup['label']}", f"--pg1-path={data}", "--type=default", "--archive-mode=off")
    cluster = ScratchCluster(back, bin_dir=bin_dir, user=user or "postgres", settings=control_needs(data, bin_dir))
    cluster.adopt(data)
    try:
        cluster.start(600)
        with cluster.connect() as connection:
            while connection.execute("SELECT pg_is_in_recovery()").fetchone()[0]:
                time.sleep(0.05)
            return {row[0] for row in connection.execute("SELECT n FROM numbers").fetchall()}, cluster
    except BaseException:
        cluster.remove()
        raise


def _verdict(acked: list[tuple[int, float]], numbers: set[int], lost_at: float, latencies: list[float]) -> dict:
    """What was lost, of what was acknowledged."""
    if len(acked) < 10:
        raise BackupError(f"only {len(acked)} rows were acknowledged: that proves nothing. Is this machine overloaded?")
    last = max(numbers, default=0)
    gone = [(number, at) for number, at in acked if number not in numbers]
    cuts = statistics.quantiles(latencies, n=100)
    return {
        "acked": len(acked), "recovered": len([one for one in acked if one[0] in numbers]), "lost_rows": len(gone),
        "lost_s": round(lost_at - gone[0][1], 3) if gone else 0.0, "gaps": len([one for one in gone if one[0] < last]),
        "commit_ms": {"p50": round(cuts[49] * 1000, 2), "p99": round(cuts[98] * 1000, 2)},
    }  # fmt: skip
