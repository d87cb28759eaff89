"""The schema's way back: leave it, or undo revisions, with a side copy of what would be dropped (002 database rollback B).

What is allowed is read from the rehearsal's manifest by `db_routes`; a way that it does not open is not gone, whoever asks. Side copies are
made as the role that owns the schema, in one transaction, before anything is undone, and are kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from . import db_routes, migration
from .db_routes import BAD_RELEASE, Route, Situation
from .migration import Job, MigrationError
from .records import NOT_APPLICABLE, record
from .rehearsal import manifest, side_copy
from .rehearsal.errors import RehearsalError

EVIDENCE = "rollback.db.migration"
GONE = ("downgrade", "side_copy_downgrade")  # the routes that `downgraded` goes


def facts(path: str | None, current: list[str], target: str) -> dict:
    """{revisions (newest first), verdict, old_app_works, recoverable, seconds, side_copy} of going from `current` down to `target`.

    Where nothing is to be undone, nothing has to be known. A manifest that is missing or changed is an error (RehearsalError), one that
    does not lead from `current` to `target` makes the verdict UNPROVEN.
    """
    if current == ([] if target == "base" else [target]):
        return {"revisions": [], "verdict": None, "old_app_works": True, "recoverable": None, "seconds": {}, "side_copy": {}}
    if not path or not Path(path).is_file():
        raise RehearsalError(
            f"{path or 'no manifest was named'}: the migration that is to be undone was not rehearsed, so no way back is known. Restore the"
            " file from the release, or go by a copy or a point in time"
        )
    found = manifest.read(path)
    revisions = db_routes.between(found, current, target)
    return {"revisions": revisions, **db_routes.from_manifest(found, revisions)}


def route(job: Job, path: str | None, wanted: str, expected: list[str] | None = None, **how: object) -> tuple[Route, dict, dict]:
    """(the route that is open, plan, facts). Reads only.

    wanted: `leave_schema` or `downgrade`. expected: the revisions that the caller planned with. Raises MigrationError if the database is
    elsewhere by now, or if the way is closed, with what is open.
    """
    plan, _evidence = migration.planned(job, **how)
    current = plan["current"]
    if expected is not None and sorted(current) != sorted(expected):
        raise MigrationError(
            f"{job.database.name} is at {', '.join(current) or 'base'}, the plan was made at {', '.join(expected) or 'base'}: somebody"
            " migrated in between. Plan again. Nothing was changed", {"plan": plan},
        )  # fmt: skip
    try:
        known = facts(path, current, job.target)
    except RehearsalError as error:
        raise MigrationError(f"{error}. Nothing was changed", {"plan": plan}) from error
    now = Situation(BAD_RELEASE, **{key: known[key] for key in ("verdict", "old_app_works", "recoverable", "seconds")})
    if not known["revisions"]:
        return Route(wanted, True, "the schema is where the release to go back to expects it"), plan, known
    if wanted == "downgrade":
        wanted = next((one.name for one in db_routes.routes(now) if one.open and one.name in GONE), wanted)
    try:
        return db_routes.choose(now, wanted), plan, known
    except ValueError as error:
        raise MigrationError(f"{error}. Nothing was changed", {"plan": plan, "verdict": known["verdict"]}) from error


def left(job: Job, path: str | None, expected: list[str] | None = None, **how: object) -> dict:
    """Whether the release to go back to works on the schema as it is: {route, plan, evidence}. Changes nothing. Raises MigrationError."""
    chosen, plan, known = route(job, path, "leave_schema", expected, **how)
    at = ", ".join(plan["current"]) or "base"
    why = f"the schema stays at {at}: {chosen.reason}"
    evidence = [record(EVIDENCE, NOT_APPLICABLE, f"at {job.target}, or a schema that the old release works on", at, reason=why)]
    return {"route": shown(chosen), "plan": plan, "revisions": known["revisions"], "evidence": evidence}


def shown(chosen: Route) -> dict:
    """A route as plain data."""
    return {"name": chosen.name, "reason": chosen.reason, "loss": chosen.loss, "seconds": chosen.seconds, "then": chosen.then}


def downgraded(
    job: Job, path: str | None, expected: list[str] | None = None, *, act: bool = True, connect: Callable | None = None, **how: object
) -> dict:
    """Undo the revisions down to `job.target`: {route, plan, revisions, side_copies, undone, after, changed, evidence}.

    act: False only says what would be done. connect: makes the owner's connection (autocommit). Raises MigrationError with what was done.
    """
    chosen, plan, known = route(job, path, "downgrade", expected, **how)
    result = {"route": shown(chosen), "plan": plan, "revisions": known["revisions"], "side_copies": [], "undone": [], "after": plan}
    if not act or not known["revisions"]:
        reason = "nothing is to be undone" if not known["revisions"] else "check mode"
        evidence = [record(EVIDENCE, NOT_APPLICABLE, f"at {job.target}", f"at {', '.join(plan['current']) or 'base'}", reason=reason)]
        return {**result, "changed": bool(known["revisions"]), "evidence": evidence}
    began = time.monotonic()
    if chosen.name == "side_copy_downgrade":
        result["side_copies"] = copied_aside(job, known["side_copy"], connect)
    try:
        done, evidence = migration.downgraded(job, **how)
    except MigrationError as error:
        error.result = {**result, **error.result}
        raise
    seconds = round(time.monotonic() - began, 3)
    return {**result, **{key: done[key] for key in ("undone", "after", "changed")}, "seconds": seconds, "evidence": evidence}


def copied_aside(job: Job, wanted: dict[str, list], connect: Callable | None = None) -> list[dict]:
    """Side copies of what the revisions would drop, [{revision, table, copy, columns, key, rows}], all in one transaction.

    Copies of an earlier try are made anew: the database is still above the revision, so all that they hold is there.
    """
    import psycopg

    made = []
    try:
        with (connect or owner)(job) as connection, connection.transaction():
            for revision, copies in wanted.items():
                side_copy.drop(connection, revision)
                made += [{"revision": revision, **one} for one in side_copy.make(connection, revision, copies)]
    except (psycopg.Error, RehearsalError) as error:
        raise MigrationError(
            f"{job.database.name}: the side copy failed: {str(error).strip()}. Nothing was undone; the schema is as it was"
        ) from error
    return made


def owner(job: Job) -> object:
    """A connection of the role that owns the schema."""
    import psycopg

    return psycopg.connect(**job.database.keywords(), application_name=f"greenroom-rollback {job.run_id}"[:63], autocommit=True)
