"""Logical backups against `pg_dump | gzip` and `gunzip | psql`, on a pgbench database and a jsonb table with a GIN index.

    python tests/bench/bench_backup.py [SCALE [ROWS [RUNS]]]     (30, 300000, 3)

Prints medians and ratios of one run; places are a folder and `rclone serve s3` over TLS on loopback. Exit status 1 if a ratio is above its
limit. Needs PostgreSQL, age and rclone (scripts/install_test_servers, requirements/control.txt), and root or the user postgres.
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
sys.path.insert(0, str(ROOT / "tests" / "integration"))
from ansible.module_utils.greenroom.backup import dump, fingerprint, manifest, restore, seal, verify  # noqa: E402
from ansible.module_utils.greenroom.backup.scratch_cluster import ScratchCluster  # noqa: E402
from backup_site import DATABASE, S3, Site  # noqa: E402
from backup_source import fill, shell  # noqa: E402

LIMITS = {"dump and seal": 0.55, "the whole backup": 1.2, "fetch, open, restore": 0.7, "the whole proof": 2.0}


class SelfSigned:
    """A certificate of its own for loopback."""

    def __init__(self, folder: Path):
        self.ca_file, self.key = folder / "ca.pem", folder / "ca.key"
        argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        argv += ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(self.key), "-out", str(self.ca_file)]
        subprocess.run(argv, check=True, capture_output=True)

    def issue(self, *_names) -> tuple[Path, Path]:
        return self.ca_file, self.key


class Bench:
    def __init__(self, folder: Path, source: ScratchCluster, site: Site, env: dict):
        self.folder, self.source, self.site, self.env, self.times = folder, source, site, env, {}

    def time(self, name: str, function) -> object:
        start = time.monotonic()
        result = function()
        self.times.setdefault(name, []).append(time.monotonic() - start)
        return result

    def once(self) -> dict:
        plain, bin_dir, env = self.folder / "plain.sql.gz", self.source.bin_dir, self.env
        self.time("pg_dump | gzip", lambda: shell(f"{bin_dir}/pg_dump {DATABASE} | gzip -6 > {plain}", env))
        with ScratchCluster(self.folder / "plain") as target:
            there = {**env, "PGHOST": str(target.socket_dir)}
            with target.connect() as connection:
                connection.execute(f"CREATE DATABASE {DATABASE}")
            self.time("gunzip | psql", lambda: shell(f"gunzip -c {plain} | {bin_dir}/psql -X -q -v ON_ERROR_STOP=1 {DATABASE}", there))
        self.site.clear()
        made = self.time("the whole backup", lambda: dump.run_dump(self.site.config()))
        bare = self.folder / "bare"
        bare.mkdir()
        try:
            conninfo, _ = dump.libpq(self.source.dsn(DATABASE))
            argv = [f"{bin_dir}/pg_dump", "-Fd", "-j2", "-Z0", "--no-sync", "-f", str(bare / "dump"), "--dbname", conninfo]

            def dump_and_seal() -> None:
                subprocess.run(argv, check=True, env=env)
                seal.pack(bare, self.folder / "sealed", [seal.recipient_of(self.site.identity)])

            self.time("dump and seal", dump_and_seal)
        finally:
            shutil.rmtree(bare)
            (self.folder / "sealed").unlink(missing_ok=True)
        taken = self.time("fingerprint", lambda: fingerprint.take(self.source.dsn(DATABASE), bin_dir=bin_dir))
        self.restore(made["id"])
        proof = self.time("the whole proof", lambda: verify.verify(self.site.config()))
        if proof["verdict"] != "verified":
            sys.exit(proof["statement"])
        print(f"  backup {made['seconds']}, proof {proof['seconds']}")
        return taken

    def restore(self, backup_id: str) -> None:
        inside = self.folder / "inside"
        inside.mkdir()
        try:
            with ScratchCluster(self.folder / "target", settings=restore.SETTINGS) as target:

                def fetch_and_restore() -> None:
                    place = self.site.places()[0]
                    document = manifest.parse(place.read(f"{backup_id}/{manifest.MANIFEST}"))
                    place.fetch(f"{backup_id}/{manifest.DATA}", self.folder / "fetched")
                    seal.unpack(self.folder / "fetched", inside, self.site.identity, document["parts"][0])
                    restore.restore(inside, document, target)

                self.time("fetch, open, restore", fetch_and_restore)
        finally:
            shutil.rmtree(inside)


def main() -> int:
    """Run, print, and say whether every ratio is below its limit."""
    given = [int(word) for word in sys.argv[1:]]
    scale, rows, runs = given + [30, 300000, 3][len(given) :]
    folder = Path(tempfile.mkdtemp(prefix="greenroom-bench-"))
    folder.chmod(0o755)
    server = None
    try:
        certificate = SelfSigned(folder)
        (folder / "s3").mkdir()
        server = S3(folder / "s3", certificate).start()
        (folder / "site").mkdir()
        (folder / "site").chmod(0o755)
        with ScratchCluster(folder / "source") as source:
            env = {**os.environ, "PGHOST": str(source.socket_dir), "PGPORT": str(source.port), "PGUSER": "postgres"}
            fill(source, DATABASE, scale, rows, env)
            with source.connect(DATABASE) as connection:
                size, heap = connection.execute(
                    "SELECT pg_database_size(current_database()),"
                    " (SELECT sum(pg_table_size(oid)) FROM pg_class WHERE relkind = 'r' AND oid > 16383)"
                ).fetchone()
            print(f"database {size / 1e6:.0f} MB, tables {float(heap) / 1e6:.0f} MB, {runs} runs")
            bench = Bench(folder, source, Site(folder / "site", source, server, certificate.ca_file), env)
            for _ in range(runs):
                bench.once()
    finally:
        if server:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return report(bench.times, float(heap))


def report(times: dict[str, list[float]], heap: float) -> int:
    medians = {name: statistics.median(values) for name, values in times.items()}
    bad = 0
    for name, seconds in medians.items():
        base = "gunzip | psql" if name in ("fetch, open, restore", "the whole proof", "gunzip | psql") else "pg_dump | gzip"
        ratio, limit = seconds / medians[base], LIMITS.get(name)
        bad += limit is not None and ratio > limit
        print(f"{name:22} {seconds:7.2f} s  {ratio:5.2f} of {base}" + (f"  (limit {limit})" if limit else ""))
    print(f"fingerprint            {heap / 1e6 / medians['fingerprint']:7.0f} MB/s of tables")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
