"""From parameters to a rehearsal, and from a manifest to evidence and words."""

from __future__ import annotations

import datetime
import json
import shutil
from pathlib import Path

from ..durable import write_atomic
from ..records import ERROR, FAIL, PASS, record
from . import manifest, run, statements
from .adapters import AlembicAdapter, CommandAdapter
from .errors import RehearsalError
from .ground import Options

ESTIMATES = r"""
    SELECT CASE nspname WHEN 'public' THEN relname ELSE nspname || '.' || relname END, greatest(reltuples, 0)::bigint
      FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
     WHERE relkind IN ('r', 'p') AND nspname NOT IN ('pg_catalog', 'information_schema') AND nspname NOT LIKE 'pg\_toast%'
"""
SPACE_BYTES = 1 << 30  # two clusters with a few thousand rows a table, and their WAL


def adapter_of(params: dict) -> object:
    """The adapter that the module's parameters describe. Raises RehearsalError."""
    common = {"url_key": params["url_key"], "user": params["user"], "env": params["env"], "time_limit_s": params["time_limit_s"]}
    common["scheme"] = params["url_scheme"]
    if not params["release"]:
        raise RehearsalError("`release` is missing: the folder of the installed release whose migrations are rehearsed")
    if params["tool"] == "command":
        cwd = f"{params['release']}/src"
        return CommandAdapter(params["commands"] or {}, cwd=cwd, version_tables=tuple(params["version_tables"]), **common)
    limits = {key: params[key] for key in ("lock_timeout_s", "statement_timeout_s")}
    return AlembicAdapter(params["release"], config=params["config"], **limits, **common)


def options_of(params: dict) -> Options:
    """What the rehearsal is told. Fixtures are read here. Raises OSError, ValueError."""
    fixtures = {name: Path(file).read_text(encoding="utf-8") for name, file in params["fixtures"].items()}
    return Options(
        owner=params["owner"], roles=tuple(params["roles"]), extensions=tuple(params["extensions"]), depth=params["depth"],
        reasons=params["reasons"], volatile=frozenset(params["volatile"]), fixtures=fixtures, statements=tuple(params["statements"]),
        rows={name: int(number) for name, number in params["rows"].items()}, lock_budget_s=params["lock_budget_s"],
    )  # fmt: skip


def observed(params: dict, *, write: bool) -> dict:
    """What the live database tells a rehearsal: {rows: {table: estimate}, statements: [text]}. Raises RehearsalError.

    Statements are known where the server has loaded pg_stat_statements; its view is made in the database `postgres`, if `write`.
    """
    import psycopg

    about = {"host": params["socket"], "port": params["port"], "application_name": "greenroom-rehearsal", "connect_timeout": 10}
    about |= {"user": params["superuser"]}
    said: list[str] = []
    try:
        with psycopg.connect(**about, dbname=params["database"], autocommit=True) as connection:
            rows = connection.execute(ESTIMATES).fetchall()
        with psycopg.connect(**about, dbname="postgres", autocommit=True) as connection:
            if "pg_stat_statements" in connection.execute("SHOW shared_preload_libraries").fetchone()[0]:
                if write:
                    connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
                if connection.execute("SELECT to_regclass('pg_stat_statements') IS NOT NULL").fetchone()[0]:
                    said = statements.recorded(connection, params["service_role"], params["database"])
    except psycopg.Error as error:
        raise RehearsalError(f"{params['database']} on {params['socket']}: {str(error).strip()}. Does the server run?") from error
    return {"rows": dict(rows), "statements": said}


def rehearsed(params: dict, *, write: bool) -> dict:
    """Rehearse; the manifest, which is written if `write`. Raises RehearsalError."""
    folder = Path(params["folder"])
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if free < SPACE_BYTES:
        raise RehearsalError(f"{folder.parent}: {free >> 20} MiB free, a rehearsal wants {SPACE_BYTES >> 20}. Free space there")
    found = run.rehearse(
        adapter_of(params), folder, options_of(params), current=None if params["whole_history"] else params["current"],
        newest=params["newest"],
        released=params["released"], about=params["about"], bin_dir=params["bin_dir"],
    )  # fmt: skip
    if write:
        write_atomic(params["manifest"], (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode())
    return found


def summary(found: dict) -> str:
    """A rehearsal in a line."""
    if not found["revisions"]:
        return "nothing is pending, nothing was rehearsed"
    verdicts = ", ".join(f"{one['revision']} {' '.join([one['verdict'], *one['flags']])}" for one in found["revisions"])
    return f"rehearsed {len(found['revisions'])} revision(s) in {found['seconds']:g} s: {verdicts}"


def refusal(blockers: list[dict]) -> str:
    """All blockers, a line each."""
    lines = [f"{one['code']}: {one['reason']} -> {one['fix']}" for one in blockers]
    return f"the live database must not be migrated, {len(lines)} reason(s). Nothing live was touched.\n" + "\n".join(lines)


def broken_record(why: str) -> dict:
    """Evidence of a rehearsal that could not be carried out."""
    return record("rehearsal.verdict", ERROR, "every pending revision is rehearsed", None, reason=why)


def judged(found: dict, params: dict, today: datetime.date) -> dict:
    """{blockers, verdicts, side_copy, copy_before, digest, evidence} of a manifest under the waivers and promises of `params`."""
    blockers = manifest.gate(found, params["waivers"], today, pending=params["pending"], side_copies=params["side_copies"])
    entries = found["revisions"]
    verdicts = {one["revision"]: one["verdict"] for one in entries}
    copies = {one["revision"]: one["side_copy"] for one in entries if one["side_copy"]}
    before = {one["revision"]: one["copy_before"] for one in entries if one["copy_before"]}
    result = {"blockers": blockers, "verdicts": verdicts, "side_copy": copies, "copy_before": before, "digest": found["digest"]}
    return {**result, "evidence": evidence(found, blockers)}


def evidence(found: dict, blockers: list[dict]) -> list[dict]:
    """The records of a judged manifest."""
    entries, control = found["revisions"], found["control"]
    detail = {"revisions": len(entries), **{key: found[key] for key in ("depth", "digest", "made", "seconds")}}
    why = "; ".join(f"{one['code']}: {one['reason'][:300]}" for one in blockers)
    observed = f"{len(blockers)} blocker(s); {summary(found)}"
    records = [
        record("rehearsal.verdict", FAIL if blockers else PASS, "no blocker", observed, reason=why or None, detail=detail),
    ]  # fmt: skip
    if not entries:
        return records
    walked = f"caught {len(control['walked']) - len(control['missed'])} of {len(control['walked'])}"
    missed = f"not caught: {', '.join(control['missed'])}" if control["missed"] else "none was walked"
    status = PASS if control["ok"] else FAIL
    records.append(
        record(
            "rehearsal.control", status, "every bad migration of the control is caught", walked,
            reason=None if control["ok"] else missed, detail={"samples": len(control["walked"])},
        )
    )  # fmt: skip
    for id_, step, expected in (
        ("protect.migration_rollback.test", 6, "down and up again works"),
        ("protect.migration_rollback.data", 5, "schema, rows and sequences are as they were"),
    ):
        not_so = [one["revision"] for one in entries if one["steps"][step]["status"] != "pass"]
        # What a waiver or a side copy answers for is named, and does not stop the deployment a second time.
        stopped = {one["revision"] for one in blockers}
        red = [name for name in not_so if name in stopped]
        accepted = [name for name in not_so if name not in stopped]
        detail = {"samples": sum(sum(one["rows"].values()) for one in entries), "accepted": accepted}
        reason = f"not so: {', '.join(red)}" if red else None
        observed = f"{len(entries) - len(not_so)} of {len(entries)} revisions"
        records.append(record(id_, FAIL if red else PASS, expected, observed, reason=reason, detail=detail))
    return records
