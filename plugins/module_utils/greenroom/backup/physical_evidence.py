"""What the module `restore_drill` does in each state, with evidence: the point at the source, the drill, the mark, the WAL, the RPO.

The database host and the restore host share one file: the point (`save_point`, `load_point`), written durably with a checksum inside.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from ..durable import DurableError, read_sealed, write_sealed
from ..records import ERROR, FAIL, NO_EVIDENCE, PASS, measured, record, red
from . import drill, point_in_time, rpo, wal
from .errors import BackupError
from .pgbackrest import PgBackRest, judge

HEARTBEAT_IN = "postgres"  # the database that holds the heartbeat: no application's own


def save_point(path: str | os.PathLike, point: Mapping) -> None:
    """Write a known point with its fingerprint (0600). Raises BackupError if it cannot be written."""
    try:
        write_sealed(path, dict(point), mode=0o600)
    except OSError as error:
        raise BackupError(f"{path}: the restore point could not be written ({error.strerror}). Free space or correct the path") from error


def load_point(path: str | os.PathLike) -> dict:
    """The known point of a file. Raises BackupError for one that is missing, cut, edited or no point."""
    try:
        point = read_sealed(path, "Make a new point on the database host (state: point), and copy its file here")
    except DurableError as error:
        raise BackupError(str(error)) from error
    if point is None:
        raise BackupError(f"{path}: does not exist. Make a point on the database host (state: point), and copy its file here")
    if not {"name", "lsn", "segment", "segment_size", "fingerprint"} <= set(point):
        raise BackupError(f"{path}: is no restore point. Make one on the database host (state: point)")
    return point


def make_point(
    pgbackrest: PgBackRest, repos: tuple[int, ...], dsn: Mapping, *, name: str, bin_dir: str, workers: int, wait_s: float
) -> dict:
    """A restore point of known content, confirmed in every repository: {point, evidence}. Raises BackupError with the evidence."""
    import psycopg

    evidence: list[dict] = []
    expected = f"archived in {len(repos)} repositories and read back from each"
    with (
        measured("backup.physical.restore_point", expected, into=evidence) as check,
        psycopg.connect(**{**dsn, "dbname": HEARTBEAT_IN, "autocommit": True}) as connection,
    ):
        for _ in range(2):  # one counts when the next began in the archived part: the RPO of this moment is then known
            wal.beat(connection)
        point = point_in_time.known_point(dsn, wal.point_name(name), bin_dir=bin_dir, workers=workers)
        if not point["fingerprint"]["rows"]:
            raise BackupError(f"database {dsn['dbname']} has no row: a drill to this point would prove nothing. Is it the right one?")
        point = wal.confirm_point(connection, point, pgbackrest, repos, wait_s)
        check.detail = {key: point[key] for key in ("lsn", "segment", "tries", "waited_ms", "held_ms", "archived_s")}
        check.judge(True, f"{point['name']} in {point['archived_s']:.1f} s")
    if evidence[0]["status"] != PASS:
        raise BackupError(evidence[0]["reason"].removeprefix("BackupError: "), {"evidence": evidence})
    return {"point": point, "evidence": evidence}


def protect(pgbackrest: PgBackRest, repos: tuple[int, ...], dsn: Mapping, *, name: str, wait_s: float, max_age_s: float | None) -> dict:
    """What must be in each repository before a database is changed (003 deploy preparation): a good backup and, after it, a restore point.

    {point: {name, lsn, segment, archived_s, repos, backups: {repository: label}}, evidence}. Raises BackupError with the evidence.
    """
    import psycopg

    evidence: list[dict] = []
    expected = f"a good backup, and a restore point after it, read back from {len(repos)} repositories"
    with (
        measured("protect.backup.before_deploy", expected, into=evidence) as check,
        psycopg.connect(**{**dsn, "dbname": HEARTBEAT_IN, "autocommit": True}) as connection,
    ):
        system, problems, newest = wal.server_state(connection)["system_identifier"], [], {}
        for repo in repos:
            backup, wrong = judge(pgbackrest.backups(repo), repo, system_identifier=system, max_age_s=max_age_s, now=time.time())
            problems += wrong
            newest[str(repo)] = backup["label"] if backup else None
        if problems:
            raise BackupError("; ".join(problems))
        point = {**wal.restore_point(connection, wal.point_name(name), pgbackrest, repos, wait_s), "backups": newest}
        check.detail = {key: point[key] for key in ("lsn", "segment", "archived_s", "backups")}
        check.judge(True, f"{point['name']} after {', '.join(newest.values())}")
    if evidence[0]["status"] != PASS:
        raise BackupError(evidence[0]["reason"].removeprefix("BackupError: "), {"evidence": evidence})
    return {"point": point, "evidence": evidence}


def run_drill(pgbackrest: PgBackRest, folder: str, point: Mapping, repos: tuple[int, ...], **options: object) -> dict:
    """A drill from each repository, one after the other: {drills, evidence}; one that fails does not keep the next from running."""
    drills = [drill.drill(pgbackrest, Path(folder) / f"repository-{repo}", point, repo=repo, **options) for repo in repos]
    for one in drills:
        one["contents"] = one.get("contents", {})
    return {"drills": drills, "evidence": [each for one in drills for each in one.pop("evidence")]}


def mark_verified(pgbackrest: PgBackRest, drills: list[Mapping]) -> dict:
    """Write what drills proved into their repositories, on the database host: {marked: labels, evidence}. A failed drill is no proof."""
    marked = []
    for one in drills:
        if one.get("verdict") != drill.VERIFIED or not one.get("backup"):
            raise BackupError(f"repository {one.get('repo')}: its drill ended as {one.get('verdict')!r}, so nothing was marked as verified")
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        pgbackrest.mark_verified(one["repo"], one["backup"]["label"], at, one["sha256"])
        marked.append(one["backup"]["label"])
    return {"marked": marked, "evidence": []}


def check_wal(
    pgbackrest: PgBackRest, repos: tuple[int, ...], dsn: Mapping, *, max_age_s: float | None, margin_s: float, rpo_limit_s: float | None
) -> dict:
    """Backups and WAL of each repository from the newest backup to now, and the RPO of this moment: {state, repositories, evidence}."""
    import psycopg

    evidence, seen, best = [], {}, None
    with psycopg.connect(**{**dsn, "dbname": HEARTBEAT_IN, "autocommit": True}) as connection:
        wal.beat(connection)
        state = wal.server_state(connection)
        for repo in repos:
            target = {"target": f"repository {repo}"}
            try:
                backups = pgbackrest.backups(repo)
                newest, problems = judge(
                    backups, repo, system_identifier=state["system_identifier"], max_age_s=max_age_s, now=time.time()
                )  # fmt: skip
                evidence.append(_judged("backup.physical.age", "a good backup of this cluster, young enough", newest, problems, target))
                if newest is None:
                    continue
                observed, problems = wal.continuity(pgbackrest, repo, newest, state, margin_s=margin_s)
                seen[repo] = {**observed, "backup": newest["label"]}
                shown = f"{observed['segments'] - len(observed['missing'])} of {observed['segments']} segments" if not problems else None
                evidence.append(_judged("backup.physical.wal", "every segment since the backup", shown, problems, target))
                now = wal.rpo_now(connection, observed, state["segment_size"])
                best = now if best is None else best if now is None else min(best, now)
            except BackupError as error:
                evidence.append(record("backup.physical.wal", ERROR, "every segment since the backup", reason=str(error), detail=target))
    unseen = [] if state["checksums"] else ["data checksums are off: a corrupt page gets into every backup unseen. pg_checksums --enable"]
    evidence.append(_judged("backup.physical.checksums", "on", "off" if unseen else "on", unseen, {}))
    if rpo_limit_s is not None:
        late = best is None or best > rpo_limit_s
        lost = f"{best:.0f} s of writes are in no repository, {rpo_limit_s:g} s are allowed" if best is not None else ""
        reason = (lost or "no heartbeat was archived yet: look again after archive_timeout") if late else None
        status, observed = NO_EVIDENCE if best is None else FAIL if late else PASS, None if best is None else round(best, 1)
        evidence.append(record("protect.rpo", status, rpo_limit_s, observed, unit="s", reason=reason, detail={"target": "now"}))
    return {"state": state, "repositories": seen, "evidence": evidence, "problems": red(evidence)}


def _judged(evidence_id: str, expected: object, observed: object, problems: list, detail: dict) -> dict:
    if isinstance(observed, dict):
        observed = observed["label"]
    reason = "; ".join(problems) or None
    return record(evidence_id, FAIL if problems else PASS, expected, observed, reason=reason, detail=detail or None)


def measure_rpo(folder: str, *, rpo_limit_s: float, **options: object) -> dict:
    """The experiment, judged: {rpo, evidence}."""
    evidence: list[dict] = []
    result: dict = {}
    with measured("protect.rpo", rpo_limit_s, unit="s", into=evidence) as check:
        result = rpo.experiment(folder, **options)
        figures = {key: result[key] for key in ("lost_rows", "recovered", "gaps", "archive_timeout_s")}
        check.detail = {"target": "experiment", "samples": result["acked"], **figures}
        if result["gaps"]:
            check.judge(False, result["lost_s"], f"{result['gaps']} acknowledged rows are missing in the middle of what came back")
        else:
            lost = f"{result['lost_rows']} acknowledged rows of {result['lost_s']:.1f} s were lost, {rpo_limit_s:g} s are allowed"
            check.judge(result["lost_s"] <= rpo_limit_s, result["lost_s"], f"{lost}. Lower archive_timeout")
    return {"rpo": result, "evidence": evidence}
