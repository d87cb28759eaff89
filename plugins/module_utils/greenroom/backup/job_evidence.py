"""Evidence of a database host's backups: what the jobs left in each place, the timers, the WAL archive.

A physical backup is looked up in the repository itself (`info`), never believed from the job's own word. Sources: 001 §7.1, 003 L185-206,
004 L131.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..records import FAIL, NO_EVIDENCE, PASS, measured, record
from . import archiver
from .errors import BackupError
from .job import JOBS
from .repositories import Repositories

PLAUSIBLE = 0.5  # a physical backup holds at least this share of what the server's files take up


def unit(config: Mapping, job: str, kind: str) -> str:
    """Name of a job's unit; kind: service or timer."""
    return f"greenroom-backup-{config['service']}@{job}.{kind}"


def timers(config: Mapping) -> list[str]:
    """The timers of a database host."""
    return [unit(config, job, "timer") for job in JOBS]


def of_result(config: Mapping, job: str, result: Mapping, since: float | None = None, ended: str = "") -> list[dict]:
    """Records of one job's newest result: that it ran, that each place holds the backup, and that its size is plausible.

    since: start of the result before; one that began no later was not made now. ended: what systemd said, if the unit failed.
    """
    run = {"target": job, "started": result.get("started"), "ended": result.get("ended")}
    stale = since is not None and result.get("started") == since
    if not result or stale or not result.get("ended"):
        reason = ended or ("it never ran" if not result else "it left no new result" if stale else "it did not come to its end")
        return [record("protect.backup.run", FAIL, "a run that ended well", None, reason=f"{job}: {reason}", detail=run)]
    places, made = result["places"], []
    faults = "; ".join(f"{place}: {told['reason']}" for place, told in places.items() if not told["ok"])
    good = [place for place, told in places.items() if told["ok"]]
    faults = faults or ended or ("" if places else "no place was tried")
    made.append(
        record(
            "protect.backup.run", FAIL if faults else PASS, "a good backup in every place", ", ".join(good) or "none",
            reason=faults or None, detail={**run, "samples": len(places)},
        )
    )  # fmt: skip
    repositories = Repositories(config)
    for place in good:
        if job == "logical":
            made += _logical(place, places[place])
        else:
            made += _physical(repositories, config, job, place, places[place])
    return made


def _logical(place: str, told: Mapping) -> list[dict]:
    """What the logical backup's own process read back from the place it wrote to."""
    detail = {"target": f"logical, {place}", "id": told.get("id")}
    size = told.get("bytes")
    status = PASS if isinstance(size, (int, float)) and size > 0 else FAIL
    reason = None if status == PASS else "its size is not known, or 0"
    return [
        record("protect.backup.file", PASS, "complete, read back after it was written", told.get("id"), detail=detail),
        record("protect.backup.size", status, "above 0", size, unit="bytes", reason=reason, detail=detail),
    ]


def _physical(repositories: Repositories, config: Mapping, job: str, place: str, told: Mapping) -> list[dict]:
    """The backup as the repository itself tells of it, and its size against the server's files."""
    made: list[dict] = []
    target = f"{job}, {place}"
    found: dict = {}
    with measured("protect.backup.file", expected=f"{told.get('id')}, without an error", into=made) as check:
        check.detail = {"target": target}
        found = next((one for one in repositories.look(place) if one["label"] == told.get("id")), {})
        why = "the repository does not list it" if not found else f"its error flag is {found['error']!r}: a damaged page"
        check.judge(bool(found) and found["error"] is False, found.get("label", "not there"), why)
    with measured("protect.backup.size", expected=f"at least {PLAUSIBLE:.0%} of the server's files", unit="bytes", into=made) as check:
        files = _size_of_files(config)
        check.detail = {"target": target, "files": files, "stored": found.get("repo_size")}
        size = found.get("size", 0)
        check.judge(size >= files * PLAUSIBLE and size > 0, size, f"the server's databases take up {files} bytes")
    return made


def _size_of_files(config: Mapping) -> int:
    with archiver.connected(config) as connection:
        return int(connection.execute("SELECT sum(pg_database_size(oid)) FROM pg_database").fetchone()[0])


def of_timers(config: Mapping, shown: str) -> list[dict]:
    """One record a timer, from `systemctl show --property=Id,ActiveState,UnitFileState` of them all."""
    states = {}
    for block in shown.strip().split("\n\n"):
        fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        states[fields.get("Id")] = f"{fields.get('ActiveState')}, {fields.get('UnitFileState')}"
    return [
        record(
            "protect.backup.job", PASS if states.get(name) == "active, enabled" else FAIL, "active, enabled", states.get(name, "not there"),
            reason=None if states.get(name) == "active, enabled" else f"{name} is {states.get(name, 'not there')}; run the role db_backup",
            detail={"target": name},
        )
        for name in timers(config)
    ]  # fmt: skip


def of_archive(config: Mapping) -> list[dict]:
    """The WAL archive works at this moment, and damaged pages would be seen."""
    try:
        state = archiver.look(config)
    except BackupError as error:
        return [record(item, NO_EVIDENCE, reason=str(error)) for item in ("backup.wal.archive", "backup.page_checksums")]
    why = archiver.failing(state) or (None if state["archived"] else "no segment was ever archived")
    detail = {key: state[key] for key in ("archived", "failed", "waiting", "wal_bytes")}
    off = "the cluster has no page checksums: a damaged page goes into every backup unseen. Stop the server and run pg_checksums --enable"
    return [
        record("backup.wal.archive", FAIL if why else PASS, "last try good", state["last_archived_wal"], reason=why, detail=detail),
        record(
            "backup.page_checksums", PASS if state["checksums"] == "on" else FAIL, "on", state["checksums"],
            reason=None if state["checksums"] == "on" else off,
        ),
    ]  # fmt: skip
