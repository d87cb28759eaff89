"""Physical backups against `gunzip | psql` of the same data, the drill, the RPO, and what archiving costs a commit.

    python tests/bench/bench_physical.py [SCALE [ROWS [RUNS]]]     (30, 300000, 3)

A pgbench database and a jsonb table with a GIN index; pgBackRest with zstd and AES-256 into a folder. Prints medians and ratios of one
run; exit status 1 if a ratio is above its limit. Needs PostgreSQL and pgBackRest (scripts/install_test_servers), and root or the user
postgres.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ansible.module_utils

ROOT = Path(__file__).resolve().parents[2]
ansible.module_utils.__path__.append(str(ROOT / "plugins" / "module_utils"))
from ansible.module_utils.greenroom.backup import drill, point_in_time, rpo, wal  # noqa: E402
from ansible.module_utils.greenroom.backup.pgbackrest import PgBackRest  # noqa: E402
from ansible.module_utils.greenroom.backup.point_in_time import Target  # noqa: E402
from ansible.module_utils.greenroom.backup.scratch_cluster import ScratchCluster  # noqa: E402
from backup_source import fill, shell  # noqa: E402

DATABASE = "bench"
LIMITS = {"restore to a point": 0.35, "delta restore": 0.15}
REPOSITORY = {"repo1-cipher-type": "aes-256-cbc", "repo1-cipher-pass": "bench-only-b7d1", "process-max": 2}


class Source(rpo.ArchivingCluster):
    """A cluster whose archiving can be switched off between two starts."""

    archiving = True

    def _server_settings(self) -> dict:
        settings = super()._server_settings()
        return settings if self.archiving else {**settings, "archive_mode": "off", "archive_command": ""}


class Bench:
    """One source, its repository, and the times of each run."""

    def __init__(self, folder: Path, source: Source, pgbackrest: PgBackRest, env: dict):
        self.folder, self.source, self.pgbackrest, self.env, self.times = folder, source, pgbackrest, env, {}

    def time(self, name: str, function):
        start = time.monotonic()
        result = function()
        self.times.setdefault(name, []).append(time.monotonic() - start)
        return result

    def plain(self) -> None:
        dump, bin_dir = self.folder / "plain.sql.gz", self.source.bin_dir
        shell(f"{bin_dir}/pg_dump {DATABASE} | gzip -6 > {dump}", self.env)
        with ScratchCluster(self.folder / "plain") as target:
            there = {**self.env, "PGHOST": str(target.socket_dir)}
            with target.connect() as connection:
                connection.execute(f"CREATE DATABASE {DATABASE}")
            self.time("gunzip | psql", lambda: shell(f"gunzip -c {dump} | {bin_dir}/psql -X -q -v ON_ERROR_STOP=1 {DATABASE}", there))

    def point(self) -> dict:
        made = point_in_time.known_point(self.source.dsn(DATABASE), wal.point_name("bench"), bin_dir=self.source.bin_dir)
        with self.source.connect() as connection:
            return wal.confirm_point(connection, made, self.pgbackrest, (1,))

    def once(self) -> None:
        self.plain()
        self.time("full backup", lambda: self.pgbackrest.backup(1, "full"))
        shell(f"{self.source.bin_dir}/pgbench -n -t 250 -c 4 {DATABASE}", self.env)
        self.time("incremental after 1000 transactions", lambda: self.pgbackrest.backup(1, "incr"))
        point = self.time("a known point, archived", self.point)
        target, copy = Target("name", point["name"], point["lsn"]), self.folder / "copy"
        backup = point_in_time.choose(self.pgbackrest.backups(1), target)

        def restore():
            point_in_time.fetch(self.pgbackrest, copy, backup, target)
            return point_in_time.recover(copy, target, bin_dir=self.source.bin_dir)[0]

        cluster = self.time("restore to a point", restore)
        cluster.stop()
        options = ["--repo=1", f"--set={backup['label']}", f"--pg1-path={copy / 'data'}", "--type=name", f"--target={target.value}"]
        self.time("delta restore", lambda: self.pgbackrest.run("restore", "--delta", "--archive-mode=off", *options))
        cluster.remove()
        result = drill.drill(self.pgbackrest, self.folder / "drill", point, repo=1, bin_dir=self.source.bin_dir, rto_limit_s=3600)
        if result["verdict"] != drill.VERIFIED:
            sys.exit(result["statement"])
        self.times.setdefault("RTO", []).append(result["rto_s"])
        self.times.setdefault("whole drill", []).append(sum(result["seconds"].values()))
        print(f"  lock waited {point['waited_ms']} ms, held {point['held_ms']} ms; drill {result['seconds']}")

    def latency(self, archiving: bool) -> tuple[float, float]:
        """(p50, p99) in ms of commits at 200 a second for 15 s; archive_timeout is 2 s."""
        self.source.stop()
        self.source.archiving = archiving
        self.source.start()
        with self.source.connect() as connection:
            connection.execute("DROP TABLE IF EXISTS numbers")
            connection.execute("CREATE TABLE numbers (n int PRIMARY KEY)")
        writer = rpo.Writer(self.source.dsn(), 200)
        writer.start()
        time.sleep(15)
        writer.stop.set()
        writer.join()
        cuts = statistics.quantiles(writer.latencies, n=100)
        return cuts[49] * 1000, cuts[98] * 1000


def main(scale: int = 30, rows: int = 300_000, runs: int = 3) -> int:
    """Run the bench; the exit status."""
    folder = Path(tempfile.mkdtemp(prefix="greenroom-bench-"))
    folder.chmod(0o755)
    user = "postgres" if os.geteuid() == 0 else None
    (folder / "pgbackrest").mkdir()
    settings = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "archive_timeout": "2", "wal_level": "replica"}
    source = Source(folder / "source", folder / "pgbackrest" / "pgbackrest.conf", settings=settings)
    try:
        source._make_folders()
        rpo.configuration(folder / "pgbackrest", source.data_dir, source, REPOSITORY, user)
        source.start()
        source.stop()
        checksums = [f"{source.bin_dir}/pg_checksums", "--enable", "-D", str(source.data_dir)]
        subprocess.run(checksums, check=True, capture_output=True, **source._as_user())
        source.start()
        pgbackrest = PgBackRest(rpo.STANZA, source.config, user=user)
        pgbackrest.run("stanza-create")
        env = {"PATH": os.environ["PATH"], "PGHOST": str(source.socket_dir), "PGPORT": str(source.port), "PGUSER": "postgres"}
        fill(source, DATABASE, scale, rows, env)
        bench = Bench(folder, source, pgbackrest, env)
        for _ in range(runs):
            bench.once()
        on, off = bench.latency(True), bench.latency(False)
        source.stop()
        lost = rpo.experiment(folder / "rpo", archive_timeout_s=30, bin_dir=source.bin_dir, rate=50)
    finally:
        source.remove()
        shutil.rmtree(folder, ignore_errors=True)
    base = statistics.median(bench.times["gunzip | psql"])
    worst = 0
    print(f"medians of {runs}; ratio to gunzip | psql")
    for name, values in bench.times.items():
        ratio, limit = statistics.median(values) / base, LIMITS.get(name)
        worst |= int(limit is not None and ratio > limit)
        note = f"   at most {limit}: {'ABOVE' if ratio > limit else 'ok'}" if limit else ""
        print(f"  {name:38} {statistics.median(values):7.2f} s  {ratio:5.2f}{note}")
    print(f"  commit p50/p99, archiving on  {on[0]:.2f} / {on[1]:.2f} ms; off {off[0]:.2f} / {off[1]:.2f} ms; p50 {on[0] / off[0]:.2f}")
    print(f"  RPO at archive_timeout 30 s   {lost['lost_s']:.1f} s, {lost['lost_rows']} of {lost['acked']} rows, gaps {lost['gaps']}")
    return worst


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
