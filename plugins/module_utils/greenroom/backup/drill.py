"""The restore drill of a physical backup: what it takes to serve again, measured, and the proof that what came back is right.

The clock runs from "go" to the first verified write of an application: choosing the backup, fetching, decrypting, replaying WAL, comparing
with the fingerprint taken at the restore point, writing. A step that fails ends the walk; what comes after it is "not run", never "ok".
At the end the checks are tried on a damaged copy; if they do not turn red, the verdict is "verifier broken".
Sources: 001 §7.1 and §7.2 (restore test, RTO); 003 'backup script'.
"""

from __future__ import annotations

import datetime
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ..records import FAIL, NOT_RUN, PASS
from . import fingerprint, negative_control, point_in_time
from .errors import BackupError
from .pgbackrest import PgBackRest, judge
from .pipeline import libpq, run
from .point_in_time import Target
from .scratch_cluster import assert_scratch
from .wal import missing_between, ranges
from .walk import BROKEN, VERIFIED, Stop, Walk

# step -> (evidence, what is expected). The clock of the RTO stops after "write".
STEPS = {
    "select": ("backup.physical.age", "a backup without corrupt pages, of this cluster, young enough, that ended before the point"),
    "archive": ("backup.physical.wal", "every WAL segment from the backup to the point"),
    "fetch": ("backup.physical.fetch", "all files fetched, decrypted, with their checksums, into a new folder"),
    "recover": ("protect.restore.run", "replayed to the restore point and promoted, as the server's log says"),
    "isolate": ("protect.restore.isolated", "a throw-away cluster: marker, socket only, archive_mode off"),
    "compare": ("protect.restore.integrity", "0 differences from the fingerprint of the restore point"),
    "write": ("backup.physical.write", "a row written by the application's role reads back on a new connection"),
    "indexes": ("backup.physical.amcheck", "indexes and heaps agree"),
    "control": ("backup.physical.negative_control", "a missing segment, a deleted row, a right and a damaged page turn red"),
}
CLOCK_ENDS = "write"


def drill(
    pgbackrest: PgBackRest,
    folder: str | Path,
    point: Mapping,
    *,
    repo: int,
    bin_dir: str,
    rto_limit_s: float,
    max_age_s: float | None = None,
    label: str | None = None,
    role: str | None = None,
    application: Callable[[dict], list[dict]] | None = None,
    workers: int = 2,
    user: str | None = "postgres",
    superuser: str = "postgres",
    limit_s: float = 3600,
    host: str | None = None,
) -> dict:
    """Restore to a restore point of known content (`point_in_time.known_point`) below `folder`, prove it, damage it, remove it.

    repo: number of the repository. rto_limit_s, max_age_s (of the newest backup): seconds. label: a backup, by default the newest before
    the point. role: the application's database role, which writes the row; by default the superuser. application: gets libpq keywords of
    the restored database and returns evidence of the release's own checks; it belongs to the clock. limit_s: of the replay.

    {verdict, statement, repo, backup, point, seconds: {step: s}, rto_s, differences, expires, evidence, sha256}. Never raises for a bad
    backup. `folder` must be new or empty and is empty again afterwards.
    """
    options = {
        "repo": repo, "bin_dir": bin_dir, "rto_limit_s": rto_limit_s, "max_age_s": max_age_s, "label": label, "role": role,
        "application": application, "workers": workers, "user": user, "superuser": superuser, "limit_s": limit_s, "host": host,
    }  # fmt: skip
    return _Drill(pgbackrest, Path(folder).resolve(), point, options).run()


class _Drill(Walk):
    def __init__(self, pgbackrest: PgBackRest, folder: Path, point: Mapping, options: dict):
        self.pgbackrest, self.folder, self.point, self.option = pgbackrest, folder, point, options
        self.database = point["fingerprint"]["database"]
        self.target = Target("name", point["name"], point["lsn"])
        self.cluster, self.backup, self.made = None, None, False
        shown = {key: value for key, value in point.items() if key != "fingerprint"}
        told = {"repo": options["repo"], "backup": None, "point": shown, "rto_s": None}
        super().__init__(STEPS, f"physical, repository {options['repo']}", told, options["host"])

    def run(self) -> dict:
        go = time.monotonic()
        try:
            for name in STEPS:
                self._step(name)
                if name == CLOCK_ENDS:
                    self.result["rto_s"] = round(time.monotonic() - go, 3)
        except Stop:
            self.result["reason"] = self.evidence[-1]["reason"]
        finally:
            if self.cluster:
                self.cluster.remove()
            if self.made:
                for name in ("data", "data.partial", "tablespaces", "socket"):
                    shutil.rmtree(self.folder / name, ignore_errors=True)
        self._rto()
        return self._conclude(datetime.datetime.now(datetime.timezone.utc))  # noqa: UP017

    # --- the steps ----------------------------------------------------------------------------------------------------------

    def _select(self):
        repo, wanted = self.option["repo"], self.point["fingerprint"]["system_identifier"]
        backups = self.pgbackrest.backups(repo)
        _, problems = judge(backups, repo, system_identifier=wanted, max_age_s=self.option["max_age_s"], now=time.time())
        if problems:
            raise BackupError("; ".join(problems))
        mine = [one for one in backups if one["system_identifier"] == wanted]
        self.backup = point_in_time.choose(mine, self.target, self.option["label"])
        self.result["backup"] = {key: value for key, value in self.backup.items() if key != "annotations"}
        return f"{self.backup['label']} of cluster {wanted}", {"age_s": round(time.time() - self.backup["stopped"], 1)}

    def _archive(self):
        wanted, missing, self.held = missing_between(
            self.pgbackrest, self.option["repo"], self.backup, self.point["segment"], self.point["segment_size"]
        )
        self.wanted = wanted
        if missing:
            raise BackupError(
                f"repository {self.option['repo']}: {len(missing)} of {len(wanted)} WAL segments from backup {self.backup['label']} to the"
                f" point are missing: {ranges(missing, self.point['segment_size'])}. No restore gets past the first gap: restore from the"
                " other repository, and take a full backup now",
                {"observed": len(wanted) - len(missing)},
            )
        return f"{len(wanted)} of {len(wanted)} segments", {"samples": len(wanted)}

    def _fetch(self):
        point_in_time.check_folder(self.folder, 0)
        self.made = True
        seconds = point_in_time.fetch(self.pgbackrest, self.folder, self.backup, self.target)
        return f"{self.backup['size']} bytes in {seconds:.1f} s", {"bytes": self.backup["size"], "repo_bytes": self.backup["repo_size"]}

    def _recover(self):
        options = {key: self.option[key] for key in ("bin_dir", "user", "superuser", "limit_s")}
        self.cluster, self.recovery = point_in_time.recover(self.folder, self.target, **options)
        return self.recovery["log_line"], {key: self.recovery[key] for key in ("lsn", "timeline", "prepared")}

    def _isolate(self):
        with self.cluster.connect() as connection:
            assert_scratch(connection)
            row = connection.execute("SELECT current_setting('archive_mode'), current_setting('archive_command'), pg_is_in_recovery()")
            mode, command, recovering = row.fetchone()
        if mode != "off" or recovering:
            raise BackupError(f"archive_mode is {mode} ({command}), in recovery: {recovering}. This copy must not be used")
        return f"socket {self.cluster.socket_dir}, archive_mode off", None

    def _compare(self):
        after, found = point_in_time.compare(self.cluster, self.point, workers=self.option["workers"])
        self.result["differences"] = found
        self.result["contents"] = {"tables": len(after["tables"]), "rows": after["rows"], "bytes": after["bytes"]}
        if after["rows"] == 0:
            raise BackupError("no row was compared: that proves nothing. Is it the right database?", {"observed": 0})
        if found:
            raise BackupError(f"{len(found)} differences: {'; '.join(found[:10])}", {"observed": len(found)})
        return 0, {"samples": after["rows"], "tables": len(after["tables"]), "bytes": after["bytes"]}

    def _write(self):
        role = self.option["role"]
        with self.cluster.connect(self.database) as connection:
            assert_scratch(connection)
            connection.execute("CREATE SCHEMA greenroom_drill")
            connection.execute("CREATE TABLE greenroom_drill.written (at timestamptz PRIMARY KEY DEFAULT clock_timestamp())")
            if role:
                name = connection.execute("SELECT quote_ident(rolname) FROM pg_roles WHERE rolname = %s", [role]).fetchone()
                if not name:
                    raise BackupError(f"role {role} did not come back. Is it the role of this cluster's application?")
                connection.execute(f"GRANT USAGE ON SCHEMA greenroom_drill TO {name[0]}")
                connection.execute(f"GRANT SELECT, INSERT ON greenroom_drill.written TO {name[0]}")
                connection.execute(f"SET ROLE {name[0]}")
            written = connection.execute("INSERT INTO greenroom_drill.written DEFAULT VALUES RETURNING at").fetchone()[0]
        with self.cluster.connect(self.database) as connection:
            if connection.execute("SELECT count(*) FROM greenroom_drill.written WHERE at = %s", [written]).fetchone()[0] != 1:
                raise BackupError("the row that was written does not read back. This copy must not be used")
        if self.option["application"]:
            records = self.option["application"](self.cluster.dsn(self.database))
            self.evidence += records
            if bad := [one for one in records if one["status"] != PASS]:
                raise BackupError(f"the release's own check {bad[0]['id']}: {bad[0].get('reason')}")
        return f"1 row as {role or self.option['superuser']}, read back", {"samples": 1}

    def _indexes(self):
        dsn = self.cluster.dsn(self.database)
        arguments = ["--heapallindexed", "--parent-check", "--install-missing", f"-j{self.option['workers']}", "-h", dsn["host"]]
        arguments += ["-p", dsn["port"], "-U", dsn["user"], "--maintenance-db=postgres", "-d", self.database]
        done = run(f"{self.cluster.bin_dir}/pg_amcheck", *arguments, env=libpq(dsn)[1])
        if text := (done.stdout + done.stderr).decode(errors="replace").strip():
            raise BackupError(f"pg_amcheck: {text[-1500:]}. The source's indexes or tables are damaged: look there with pg_amcheck")
        with self.cluster.connect(self.database) as connection:
            count = connection.execute("SELECT count(*) FROM pg_index WHERE indexrelid >= 16384").fetchone()[0]
        return f"{count} indexes agree with their tables", {"samples": max(count, 1)}

    def _control(self):
        blind, gap = [], self.wanted[len(self.wanted) // 2]
        if [name for name in self.wanted if name not in self.held - {gap}] != [gap]:
            blind.append(f"the archive's check did not see that {gap} was missing")
        before = self.point["fingerprint"]
        more, table = negative_control.restored_copy(self.cluster, self.database, before)
        page = self._damaged_page(before, table)
        blind += more + (page or [])
        if blind:
            self.result["verdict"] = BROKEN
            raise BackupError("verifier broken: " + "; ".join(blind))
        if page is None:
            told = f"segment {gap}, a row of {table} and a right on it turned red; no page was damaged: data checksums are off"
            return told, {"samples": 3}
        return f"segment {gap}, a row of {table}, a right on it and a page turned red", {"samples": 4}

    def _damaged_page(self, before: Mapping, table: str) -> list[str] | None:
        """Change one bit of a table's file while the server is down; reading it must fail, or show other rows.

        None without data checksums: then nothing promises that it is seen (`restore_drill state=wal` is red for that).
        """
        with self.cluster.connect(self.database) as connection:
            assert_scratch(connection)
            only = fingerprint.take(
                self.cluster.dsn(self.database), workers=1, bin_dir=self.cluster.bin_dir, like=before, tables=[table]
            )  # fmt: skip
            connection.execute("CHECKPOINT")
            path, checksums = connection.execute(
                "SELECT pg_relation_filepath(%s::regclass), current_setting('data_checksums')", [table]
            ).fetchone()
        if checksums != "on":
            return None
        self.cluster.stop()
        offset = negative_control.flip_byte(self.cluster.data_dir / path)
        self.cluster.start()
        try:
            after = fingerprint.take(
                self.cluster.dsn(self.database), workers=1, bin_dir=self.cluster.bin_dir, like=before, tables=[table]
            )  # fmt: skip
        except BackupError:
            return []
        same = after["tables"][table]["sha256"] == only["tables"][table]["sha256"]
        return [f"the comparison did not see that byte {offset} of {table}'s file was changed"] if same else []

    # --- the end ------------------------------------------------------------------------------------------------------------

    def _rto(self) -> None:
        limit, taken = self.option["rto_limit_s"], self.result["rto_s"]
        if taken is None:
            self._record("protect.rto", NOT_RUN, limit, unit="s", reason=f"the step {self.result.get('failed_step')} failed before it")
            return
        timed = list(STEPS)[: list(STEPS).index(CLOCK_ENDS) + 1]
        steps = {f"{name}_s": value for name, value in self.result["seconds"].items() if name in timed}
        late = None if taken <= limit else f"{taken:.1f} s from go to the first verified write, {limit:g} s are allowed"
        self._record("protect.rto", FAIL if late else PASS, limit, taken, unit="s", reason=late, detail={"samples": 1, **steps})
        if late and "failed_step" not in self.result:
            self.result |= {"failed_step": "rto", "reason": late}

    def _statement(self) -> str:
        if self.result["verdict"] != VERIFIED:
            return f"{self.result['verdict']} at step {self.result['failed_step']}: {self.result['reason']}"
        backup, contents, point = self.backup, self.result["contents"], self.point
        return (
            f"Physical backup {backup['label']} of cluster {backup['system_identifier']} was fetched from repository {backup['repo']} and"
            f" decrypted with the restore host's configuration; WAL was replayed over {len(self.wanted)} segments to restore point"
            f" {point['name']} (LSN {point['lsn']}); {contents['tables']} tables, {contents['rows']} rows, {contents['bytes']} bytes of"
            f" {self.database} and its catalogues equal the fingerprint taken at that point; indexes match their tables; a write reads"
            f" back; RTO {self.result['rto_s']:.1f} s."
        )
