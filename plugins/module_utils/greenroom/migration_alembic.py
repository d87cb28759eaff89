"""What runs in the release's own virtual environment: the plan, the upgrade and the downgrade of an alembic project.

`migration_worker` (and the rehearsal's worker) starts it with `python -c <this file>` as the service's user, hands the job over as JSON on
standard input (so no secret is in argv or on disk), and reads its answer from standard output: JSON, one line whenever something is
known, the last one is complete. So what a run that had to be killed was doing is known too. Needs nothing of Greenroom.

job   {operation: plan | upgrade | downgrade, config: path of alembic.ini, url_key, url, env: {key: value},
       settings: {postgresql setting: value}, target: revision (head if left out),
       copies: {revision: [SQL that runs before its upgrade, in the same transaction]}}
answer   {before: plan, started: [{revision, message, seconds, done}], after: plan, error: {kind, message} | null}
plan  {current: [revision], heads: [revision], pending: [{revision, message}], unknown: [revision]}
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable


def down_revisions(script: object) -> set[str]:
    """The revisions a script builds on: its parents and what it depends on."""
    found = set()
    for names in (script.down_revision, script.dependencies):
        found.update([names] if isinstance(names, str) else names or [])
    return found


def plan(config: object, scripts: object) -> dict:
    """Where the database is, where the release wants it, and the revisions in between, oldest first."""
    from alembic.runtime.environment import EnvironmentContext

    current: list[str] = []

    def look(revisions: tuple, context: object) -> list:
        current.extend(revisions)
        return []

    # What `alembic current` does: reads the version table through the project's own env.py and changes nothing.
    with EnvironmentContext(config, scripts, fn=look, dont_mutate=True):
        scripts.run_env()
    newest_first = list(scripts.walk_revisions())
    by_name = {script.revision: script for script in newest_first}
    unknown = [revision for revision in current if revision not in by_name]
    applied, todo = set(), [revision for revision in current if revision in by_name]
    while todo:
        revision = todo.pop()
        if revision not in applied:
            applied.add(revision)
            todo += down_revisions(by_name[revision])
    pending = [
        {"revision": script.revision, "message": script.doc}
        for script in reversed(newest_first)
        if not unknown and script.revision not in applied  # nothing can be said from an unknown revision
    ]  # fmt: skip
    return {"current": sorted(current), "heads": sorted(scripts.get_heads()), "pending": pending, "unknown": unknown}


def set_on_connect(settings: dict) -> None:
    """Give every database session of SQLAlchemy these settings: not every driver reads PGOPTIONS and PGAPPNAME (asyncpg does not)."""
    from sqlalchemy import event
    from sqlalchemy.pool import Pool

    @event.listens_for(Pool, "connect")
    def connected(connection: object, _record: object) -> None:
        cursor = connection.cursor()
        for name, value in settings.items():
            cursor.execute("SELECT set_config('{}', '{}', false)".format(name, str(value).replace("'", "''")))
        cursor.close()
        connection.commit()


def move(
    config: object, scripts: object, direction: str, target: str, answer: dict, tell: Callable[[dict], None], copies: dict
) -> None:  # fmt: skip
    """`alembic upgrade` or `downgrade` to `target`; `answer.started` gets an entry for each revision as it begins: a failure has a name.

    Copies run on the migration's own connection: what is written up to the upgrade is in them.
    """
    from alembic import command, op
    from alembic.script import ScriptDirectory

    def watched(revision: dict, run: object) -> object:
        def step() -> None:
            entry = {**revision, "done": False}
            answer["started"].append(entry)
            tell(answer)
            clock = time.monotonic()
            try:
                for sql in copies.get(revision["revision"], []) if direction == "upgrade" else []:
                    op.get_bind().exec_driver_sql(sql)
                run()
                entry["done"] = True
            finally:
                entry["seconds"] = round(time.monotonic() - clock, 6)

        return step

    for script in scripts.walk_revisions():
        run = getattr(script.module, direction, None)  # alembic itself says so where it is missing
        if run:
            setattr(script.module, direction, watched({"revision": script.revision, "message": script.doc}, run))
    ScriptDirectory.from_config = classmethod(
        lambda cls, _config: scripts
    )  # so that the command runs the watched scripts
    getattr(command, direction)(config, target)


def answer_to(job: dict, tell: Callable[[dict], None]) -> dict:
    """Do the job. An error is part of the answer; `tell` gets the answer as far as it is known."""
    answer = {"before": None, "started": [], "after": None, "error": None}
    try:
        from alembic.config import Config
        from alembic.script import ScriptDirectory

        set_on_connect(job["settings"])
        config = Config(job["config"], stdout=sys.stderr)
        scripts = ScriptDirectory.from_config(config)
        answer["before"] = before = plan(config, scripts)
        target = job.get("target", "head")  # a rehearsal goes one revision up, or down; a deployment to the newest
        clear = not before["unknown"] and (target != "head" or (before["pending"] and len(before["heads"]) == 1))
        if job["operation"] in ("upgrade", "downgrade") and clear:
            try:
                tell(answer)
                move(config, scripts, job["operation"], target, answer, tell, job.get("copies", {}))
            finally:
                answer["after"] = plan(config, scripts)
    except SystemExit as error:  # alembic's CommandError path and env.py files that give up
        answer["error"] = {"kind": "SystemExit", "message": str(error)}
    except Exception as error:
        answer["error"] = {"kind": type(error).__name__, "message": str(error)}
    return answer


def main() -> None:
    """Read the job, answer. Whatever alembic and env.py print goes to standard error."""
    channel = os.dup(1)
    os.dup2(2, 1)
    job = json.load(sys.stdin)
    os.environ.update(job["env"])
    os.environ[job["url_key"]] = job["url"]
    sys.path.insert(0, os.getcwd())
    with os.fdopen(channel, "w", encoding="utf-8") as out:

        def tell(answer: dict) -> None:
            print(json.dumps(answer), file=out, flush=True)

        tell(answer_to(job, tell))


if __name__ == "__main__":
    main()
