"""What runs in the transient unit: holds the advisory lock, runs the tool in the release's environment, looks at what came of it.

The lock's connection and the migration live and die together in one unit, so a control node that is killed cannot leave a
migration running without its lock. `migration.py` starts it with Greenroom's own Python (psycopg) as the service's user; the
job comes on standard input, the result goes to standard output, both JSON.

job     {operation: plan | migrate | downgrade, target: revision (of a downgrade),
         tool: {python, source, config, cwd, env}, url, url_key, database: {libpq keyword: value},
         lock_key, lock_wait_s, lock_name, application_name, settings: {postgresql setting: value}, time_limit_s,
         tables: [name], indexes: [name]}
result  {before, after, started, lock: {waited_s, holder}, tables: {missing}, indexes: {missing, invalid}, output,
         error: {kind, message} | null}
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

POLL_S = 0.2
OUTPUT_CHARACTERS = 4000  # of the tool's output, its end

LOCK_HOLDER = """
    SELECT activity.pid, activity.application_name, activity.usename AS "user", activity.client_addr::text AS address,
           date_trunc('second', activity.backend_start)::text AS since
      FROM pg_locks AS locks JOIN pg_stat_activity AS activity USING (pid)
     WHERE locks.locktype = 'advisory' AND locks.granted AND locks.objsubid = 1
       AND locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND (locks.classid::bigint << 32) | locks.objid::bigint = %s
"""
# search_path says which schema's table is meant, as it does for the service.
TABLES = "SELECT name FROM unnest(%s::text[]) AS name WHERE to_regclass(quote_ident(name)) IS NULL"
INDEXES = """
    SELECT name, index.indisvalid AND index.indisready AS valid
      FROM unnest(%s::text[]) AS name LEFT JOIN pg_index AS index ON index.indexrelid = to_regclass(quote_ident(name))
"""


class WorkerError(Exception):
    """Something ended the work; `kind` is one of connect, lock, tool, time_limit."""

    def __init__(self, kind: str, message: str, answer: dict | None = None):
        super().__init__(message)
        self.kind, self.answer = kind, answer or {}


def connect(database: dict, name: str) -> object:
    """A connection of our own, each statement a transaction of its own. Raises WorkerError(connect)."""
    import psycopg

    try:
        return psycopg.connect(
            **database, application_name=name[:63], autocommit=True, row_factory=psycopg.rows.dict_row
        )
    except psycopg.OperationalError as error:
        raise WorkerError("connect", str(error).strip()) from error


@contextlib.contextmanager
def advisory_lock(connection: object, key: int, wait_s: float, lock: dict) -> Iterator[None]:
    """Hold the migration's lock of this database. `lock` gets `waited_s` and, while somebody else has it, `holder`.

    Polled with pg_try_advisory_lock, each try a transaction of its own: a waiting pg_advisory_lock would hold a snapshot open and stop the
    other migration's CREATE INDEX CONCURRENTLY for good. Raises WorkerError(lock) after `wait_s` seconds, naming the holder.
    """
    begun = time.monotonic()
    while not connection.execute("SELECT pg_try_advisory_lock(%s) AS got", [key]).fetchone()["got"]:
        lock["holder"] = connection.execute(LOCK_HOLDER, [key]).fetchone() or lock.get("holder")
        if time.monotonic() - begun >= wait_s:
            raise WorkerError("lock", f"the migration lock was not free within {wait_s:g} s")
        time.sleep(POLL_S)
    lock["waited_s"] = round(time.monotonic() - begun, 3)
    lock["holder"] = None
    yield
    # The lock ends with its connection. If that ended early, somebody else may have migrated beside us: this then fails.
    connection.execute("SELECT pg_advisory_unlock(%s)", [key])


def run_tool(job: dict, operation: str) -> dict:
    """Run the tool in the release's virtual environment; its answer, with `output`.

    Raises WorkerError(tool or time_limit); its `answer` is what the tool had said by then.
    """
    tool = job["tool"]
    request = {
        "operation": operation, "config": tool["config"], "env": tool["env"], "url": job["url"], "url_key": job["url_key"],
        "settings": {**job["settings"], "application_name": job["application_name"]}, "target": job.get("target") or "head",
        "copies": job.get("copies") or {},
    }  # fmt: skip
    try:
        done = subprocess.run(
            [tool["python"], "-c", tool["source"]], cwd=tool["cwd"], input=json.dumps(request), capture_output=True, text=True,
            errors="replace", timeout=job["time_limit_s"], check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        told = last_answer((error.stdout or b"").decode())
        raise WorkerError("time_limit", f"not done after {job['time_limit_s']:g} s, ended", told) from error
    except OSError as error:
        raise WorkerError("tool", f"{tool['python']} in {tool['cwd']}: {error.strerror}") from error
    answer = last_answer(done.stdout)
    if done.returncode or not answer:
        said = done.stderr[-OUTPUT_CHARACTERS:].strip()
        raise WorkerError("tool", f"ended with status {done.returncode}. {said}", answer)
    return {**answer, "output": done.stderr[-OUTPUT_CHARACTERS:]}


def last_answer(text: str) -> dict:
    """The newest whole line of a tool's answer; empty if there is none."""
    lines = text.split("\n")[:-1]
    try:
        return json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}


def end_sessions(connection: object, name: str) -> int:
    """End what the migration left running: a statement goes on in the server when its client is killed. How many were ended."""
    return connection.execute(
        "SELECT count(pg_terminate_backend(pid)) AS ended FROM pg_stat_activity "
        "WHERE application_name = %s AND usename = current_user AND datname = current_database() AND pid <> pg_backend_pid()",
        [name],
    ).fetchone()["ended"]


def look(connection: object, job: dict, result: dict) -> None:
    """Compare the tables and indexes the contract declares with what exists and is valid."""
    result["tables"] = {"missing": [row["name"] for row in connection.execute(TABLES, [job["tables"]])]}
    rows = connection.execute(INDEXES, [job["indexes"]]).fetchall()
    result["indexes"] = {
        "missing": [row["name"] for row in rows if row["valid"] is None],
        "invalid": [row["name"] for row in rows if row["valid"] is False],
    }


def run(job: dict) -> dict:
    """Do the job; errors are part of the result."""
    import psycopg

    result = {
        "before": None,
        "after": None,
        "started": [],
        "lock": {},
        "tables": None,
        "indexes": None,
        "output": "",
        "error": None,
    }
    try:
        with connect(job["database"], job["lock_name"]) as connection:
            if job["operation"] == "plan":
                result.update(run_tool(job, "plan"))
                return result
            with advisory_lock(connection, job["lock_key"], job["lock_wait_s"], result["lock"]):
                try:
                    result.update(run_tool(job, "downgrade" if job["operation"] == "downgrade" else "upgrade"))
                except WorkerError as error:
                    end_sessions(connection, job["application_name"])
                    # It could not say what it left: ask anew.
                    result.update(error.answer, after=run_tool(job, "plan")["before"])
                    result["error"] = {"kind": error.kind, "message": str(error)}
                if not result["error"] and job["operation"] == "migrate":
                    look(connection, job, result)
    except WorkerError as error:
        result["error"] = {"kind": error.kind, "message": str(error)}
    except psycopg.Error as error:
        result["error"] = result["error"] or {
            "kind": "connection",
            "message": f"the connection that holds the lock: {str(error).strip()}",
        }
    return result


def main(job: dict) -> None:
    """Run the job and write its result to standard output."""
    json.dump(run(job), sys.stdout)
    sys.stdout.flush()
    os.close(0)
