"""What runs in the release's own virtual environment: one alembic job after the other, each in a process of its own.

Starting Python and importing alembic takes far longer than a revision does. So this imports them once and forks for every job: the
job's process loads the project's env.py and scripts anew and does what `migration_alembic` does in production, and nothing that a
migration leaves in memory reaches the next one. Standard input: one line {library: source of migration_alembic, env, cwd}, then a job
a line. Standard output: an answer a line. Ends with its standard input.

job      migration_alembic's, and: id; operation also history, render, check; kill_after: statements before the session is ended
answer   migration_alembic's, and: id, output, and (for upgrade and downgrade)
         statements: [{text, seconds, autocommit}] of the revision itself
         locks: [{relation: oid, mode, seconds}] on relations, as held until the transaction ended (autocommit statements: not seen here)
         scanned: {oid: rows that were read}
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import tempfile
import time
import types

MODES = ("ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock")  # those that make writers wait
HELD = (
    "SELECT relation::bigint, mode, coalesce(pg_stat_get_xact_tuples_returned(relation), 0) FROM pg_locks"
    " WHERE pid = pg_backend_pid() AND locktype = 'relation' AND granted AND relation > 16383"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
DRIVERS = ("psycopg", "psycopg2", "asyncpg", "pg8000")
OUTPUT_CHARACTERS = 4000


class Watch:
    """Sees what a revision sends to the server, and which locks its transaction holds for how long."""

    def __init__(self, kill_after: int | None):
        self.kill_after, self.answer = kill_after, None
        self.statements, self.locks, self.scanned, self.open = [], {}, {}, {}
        self.began = 0.0

    def inside(self) -> bool:
        """Whether a revision's own function runs: alembic's bookkeeping is not what is measured."""
        started = (self.answer or {}).get("started") or []
        return bool(started) and "seconds" not in started[-1]

    def listen(self) -> None:
        """Begin to watch every engine of this process."""
        from sqlalchemy import event
        from sqlalchemy.engine import Engine

        @event.listens_for(Engine, "before_cursor_execute")
        def before(*_given: object) -> None:
            self.began = time.monotonic()

        @event.listens_for(Engine, "after_cursor_execute")
        def after(connection: object, _cursor: object, text: str, _parameters: object, _context: object, _many: bool) -> None:
            if self.inside():
                self.executed(connection, text)

        @event.listens_for(Engine, "commit")
        def commit(_connection: object) -> None:
            self.ended()

        @event.listens_for(Engine, "rollback")
        def rollback(_connection: object) -> None:
            self.ended()

    def executed(self, connection: object, text: str) -> None:
        """One statement of the revision is done."""
        now = time.monotonic()
        autocommit = "AUTOCOMMIT" in str(connection.get_execution_options().get("isolation_level", "")).upper()
        self.statements.append({"text": text, "seconds": round(now - self.began, 6), "autocommit": autocommit})
        if not autocommit:
            cursor = connection.connection.cursor()
            cursor.execute(HELD)
            for relation, mode, rows in cursor.fetchall():
                if mode in MODES:
                    self.open.setdefault((relation, mode), self.began)
                self.scanned[relation] = max(self.scanned.get(relation, 0), rows)
            cursor.close()
        if self.kill_after == len(self.statements):
            cursor = connection.connection.cursor()
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    def ended(self) -> None:
        """The transaction ends, and its locks."""
        now = time.monotonic()
        for key, since in self.open.items():
            self.locks[key] = max(self.locks.get(key, 0), now - since)
        self.open = {}

    def seen(self) -> dict:
        """What goes into the answer."""
        locks = [{"relation": oid, "mode": mode, "seconds": round(held, 6)} for (oid, mode), held in self.locks.items()]
        return {"statements": self.statements, "locks": locks, "scanned": {str(oid): rows for oid, rows in self.scanned.items()}}


def history(config: object, library: types.ModuleType) -> dict:
    """Every revision, oldest first."""
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(config)
    found = [
        {
            "revision": script.revision, "message": script.doc, "parents": sorted(library.down_revisions(script)), "path": script.path,
            "downgrades_to": [script.down_revision] if isinstance(script.down_revision, str) else list(script.down_revision or []),
        }
        for script in reversed(list(scripts.walk_revisions()))
    ]  # fmt: skip
    return {"history": found, "heads": sorted(scripts.get_heads())}


def do(job: dict, library: types.ModuleType) -> dict:
    """One job; in a process of its own."""
    if job["operation"] in ("plan", "upgrade", "downgrade"):
        watch = Watch(job.get("kill_after"))
        if job["operation"] != "plan":
            watch.listen()

        def tell(answer: dict) -> None:
            watch.answer = answer

        return {**library.answer_to(job, tell), **watch.seen()}
    from alembic import command
    from alembic.config import Config

    try:
        config = Config(job["config"], stdout=sys.stderr)
        if job["operation"] == "history":
            return {**history(config, library), "error": None}
        library.set_on_connect(job["settings"])
        if job["operation"] == "render":
            with tempfile.TemporaryFile("w+") as file:
                config.output_buffer = file
                getattr(command, job["direction"])(config, job["target"], sql=True)
                file.seek(0)
                return {"sql": file.read(), "error": None}
        command.check(config)
        return {"error": None}
    except SystemExit as error:
        return {"error": {"kind": "SystemExit", "message": str(error)}}
    except Exception as error:
        return {"error": {"kind": type(error).__name__, "message": str(error)}}


def forked(job: dict, library: types.ModuleType) -> dict:
    """`do` in a child; whatever alembic, env.py and revisions print becomes `output`."""
    read, write = os.pipe()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.close(read)
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
                os.environ.update(job.get("env") or {})
                os.environ[job["url_key"]] = job["url"]
                with os.fdopen(write, "w", encoding="utf-8") as out:
                    json.dump(do(job, library), out)
                sys.stdout.flush()
                sys.stderr.flush()
                status = 0
            finally:
                os._exit(status)
        os.close(write)
        with os.fdopen(read, encoding="utf-8") as given:
            text = given.read()
        _pid, status = os.waitpid(child, 0)
        said.seek(0)
        output = said.read()[-OUTPUT_CHARACTERS:]
    try:
        return {**json.loads(text), "output": output}
    except ValueError:
        code = os.waitstatus_to_exitcode(status)
        return {"error": {"kind": "tool", "message": f"ended with status {code}. {output.strip()[-1500:]}"}, "output": output}


def main() -> None:
    """Serve until standard input ends."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    begin = json.loads(sys.stdin.readline())
    os.environ.update(begin["env"])
    os.chdir(begin["cwd"])
    sys.path.insert(0, begin["cwd"])
    library = types.ModuleType("migration_alembic")
    exec(compile(begin["library"], "migration_alembic.py", "exec"), library.__dict__)
    for name in ("alembic.command", "alembic.config", "alembic.autogenerate", "sqlalchemy.dialects.postgresql", *DRIVERS):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps({"id": job["id"], **forked(job, library)}), file=channel, flush=True)


if __name__ == "__main__":
    main()
