"""One act of a way back, in a transient unit of its own: `python -m greenroom.db_rollback` with a job on standard input, or `heal`.

The unit has a name, so that a second act on the same host is refused; a limit; and an ExecStopPost that opens what an act left blocked,
also when it was killed. So an act ends by itself, and nobody stays locked out, when the control node is gone. `ACTS` says what there is.

job     {act, dsn: {libpq keyword: value}, database, id, folder, …: arguments of the act}
result  {ok, kind: error's class | null, message, result}
"""

from __future__ import annotations

import datetime
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from . import db_carry, db_clone, db_plan, db_switch, transient_unit
from .backup.errors import BackupError
from .backup.scratch_cluster import find_bin_dir
from .db_switch import SwitchError

NAME_BYTES = 63
GRACE_S = 60  # beyond an act's own limit, before systemd ends the unit
ERRORS = (SwitchError, BackupError, OSError)


def superuser(socket: str, port: int, id: str = "") -> dict:
    """libpq keywords of the server's superuser, through its socket; sessions are told apart by the operation's id."""
    return {"host": socket, "port": str(port), "user": "postgres", "application_name": f"greenroom-rollback {id}".strip()[:63]}


@contextmanager
def operating(dsn: Mapping, *, wait_s: float = 0.0) -> Iterator[object]:
    """A connection to the database `postgres` that holds the lock of operations; what a killed one left blocked is opened before."""
    import psycopg

    with psycopg.connect(**{**dsn, "dbname": "postgres", "autocommit": True}) as admin:
        db_switch.heal(admin, wait_s)
        with db_switch.only_one(admin, wait_s):
            yield admin


def plan(job: Mapping) -> dict:
    """Which database, what would be lost, how long it takes."""
    return db_plan.planned(job["dsn"], job["database"], to=job.get("to") or "", copy=job.get("copy") or "", drill=job.get("drill"))


def secure(job: Mapping) -> dict:
    """A restore point that every repository hands back, or a copy."""
    with operating(job["dsn"]) as admin:
        return db_plan.secured(
            admin, job["dsn"], job["plan"], job["id"], config=job.get("config"), wait_s=job["wait_s"], deadline_s=job["deadline_s"]
        )


def end_sessions(job: Mapping) -> dict:
    """Block, end all sessions, open again."""
    with operating(job["dsn"]) as admin:
        db_plan.refuse(job["dsn"], job["plan"])
        return db_switch.end_sessions(admin, job["database"], job["deadline_s"])


def copy(job: Mapping) -> dict:
    """A copy of before, for a swap back."""
    with operating(job["dsn"]) as admin:
        now = db_plan.refuse(job["dsn"], job["plan"])
        return {"revision": now["revision"], **db_plan.copied(admin, job["dsn"], job["database"], job["name"], job["deadline_s"])}


def make_key(job: Mapping) -> dict:
    """A key for one transfer."""
    return {"recipient": db_carry.key(Path(job["folder"]))}


def clone(job: Mapping) -> dict:
    """The clone, dumped, on the host that restores."""
    keys = ("repo", "recipient", "point_file", "workers", "limit_s")
    given = {key: job[key] for key in keys if job.get(key) is not None}
    return db_clone.cloned(job["plan"], Path(job["folder"]), config=job["config"], **given)


def carry(job: Mapping) -> dict:
    """What came from the clone, loaded beside the live database."""
    with operating(job["dsn"]) as admin:
        kept = f"{job['database']}_before_{job['id']}"
        if db_carry.settled(admin, job["database"], job["name"], kept):
            now = db_plan.identity(job["dsn"], job["database"])
            return {"name": job["database"], "kept": kept, "revision": now["revision"], "already": True}
        db_plan.refuse(job["dsn"], job["plan"])
        options = {key: job[key] for key in ("part", "workers") if job.get(key) is not None}
        bin_dir = job.get("bin_dir") or find_bin_dir(server_major(admin))
        done = db_carry.carried_over(job["dsn"], job["plan"], Path(job["folder"]), job["name"], bin_dir=bin_dir, **options)
        return {**done, "revision": db_plan.identity(job["dsn"], job["name"])["revision"], "already": False}


def server_major(admin: object) -> int:
    """The server's major version."""
    return int(admin.execute("SHOW server_version_num").fetchone()[0]) // 10000


def swap(job: Mapping) -> dict:
    """Another database in by its name; what was live is kept. Done already, by a run that was killed after it: {already: true}."""
    kept = f"{job['database']}_before_{job['id']}"
    with operating(job["dsn"]) as admin:
        if db_carry.settled(admin, job["database"], job["name"], kept):
            return {"kept": kept, "already": True}
        db_plan.check_safety(admin, job.get("safety"))
        db_plan.refuse(job["dsn"], job["plan"])
        until = datetime.datetime.fromtimestamp(time.time() + job["keep_s"], datetime.timezone.utc)  # noqa: UP017
        done = db_switch.swap(admin, job["database"], job["name"], kept, job["deadline_s"], until.isoformat(timespec="seconds"))
        return {**done, "kept_until": until.isoformat(timespec="seconds"), "already": False}


def copy_back(job: Mapping) -> dict:
    """Rows of a database that was carried over, back into the live one."""
    with operating(job["dsn"]) as admin:
        db_plan.check_safety(admin, job.get("safety"))
        db_plan.refuse(job["dsn"], job["plan"])
        bin_dir = job.get("bin_dir") or find_bin_dir(server_major(admin))
        tables = db_carry.copied_back(
            job["dsn"], job["database"], job["name"], job["id"], job["tables"], rows=job["rows"], bin_dir=bin_dir
        )  # fmt: skip
        admin.execute(f"DROP DATABASE {db_switch.quoted(job['name'])} WITH (FORCE)")
        return {"tables": tables}


def forget(job: Mapping) -> dict:
    """Remove kept databases whose time is over."""
    with operating(job["dsn"]) as admin:
        return {"removed": db_switch.forget(admin, datetime.datetime.now(datetime.timezone.utc), job.get("name"))}  # noqa: UP017


ACTS: dict[str, Callable[[Mapping], dict]] = {
    "planned": plan, "secured": secure, "blocked": end_sessions, "copied": copy, "keyed": make_key, "cloned": clone, "carried": carry,
    "swapped": swap, "copied_back": copy_back, "forgotten": forget,
}  # fmt: skip


def malformed(given: Mapping) -> str | None:
    """Why these arguments cannot be meant: names that PostgreSQL would cut, or that systemd would expand."""
    for key, pattern in (("id", r"[a-z0-9_]{1,40}"), ("service", r"[a-z][a-z0-9-]{0,40}"), ("name", r"[A-Za-z0-9_-]{1,55}")):
        if given.get(key) is not None and not re.fullmatch(pattern, given[key]):
            return f"{key} {given[key]!r} is malformed: wanted is {pattern}"
    longest = f"{given['database']}_restored_{given['id']}_schema"
    if len(longest.encode()) > NAME_BYTES:
        return f"{longest} is longer than {NAME_BYTES} bytes, PostgreSQL would cut it: give a shorter id"
    if given.get("to"):
        try:
            db_plan.wanted(given["to"])
        except BackupError as error:
            return str(error)
    return None


def job_of(given: Mapping) -> dict:
    """The job of the module's arguments."""
    left_out = ("state", "service", "socket", "library")
    job = {key: value for key, value in given.items() if key not in left_out}
    return {**job, "act": given["state"], "dsn": superuser(given["socket"], given["port"], given["id"])}


def told(given: Mapping) -> str:
    """What an act would do, for check mode."""
    parts = [f"{key} {given[key]}" for key in ("database", "name", "to") if given.get(key)]
    return ", ".join([*parts, *(one["table"] for one in given["tables"])])


def writable(given: Mapping) -> list[str]:
    """Folders beside its own that an act writes: those of pgBackRest and of the backups."""
    state = f"/var/lib/greenroom/{given['service']}"
    return [f"{state}/backup", f"{state}/rollback", "/var/log/pgbackrest", "/var/spool/pgbackrest"] if given.get("config") else []


def run(job: Mapping) -> dict:
    """Do the job; errors are part of the result, without secrets: no act gets one."""
    import psycopg

    try:
        return {"ok": True, "kind": None, "message": "", "result": ACTS[job["act"]](job)}
    except (*ERRORS, psycopg.Error) as error:
        return {"ok": False, "kind": type(error).__name__, "message": str(error).strip(), "result": getattr(error, "result", {})}


def unit(service: str, act: str, pid: int) -> str:
    """The transient unit's name. What changes something has one name a service, so that a second one is refused by systemd."""
    return f"greenroom-rollback-{service}{f'-plan-{pid}' if act == 'planned' else ''}.service"


def argv(job: Mapping, *, service: str, python: str, library: str, limit_s: float, paths: list[str], pid: int) -> list[str]:
    """The command that starts the job in its unit and waits for it. paths: folders that it may write."""
    main = f"{python} -m greenroom.db_rollback"
    properties = [
        f"Description=Greenroom takes the database of {service} back: {job['act']}", f"Environment=PYTHONPATH={library} LC_ALL=C.UTF-8",
        *(f"ReadWritePaths=-{path}" for path in paths), "TimeoutStopSec=60",
    ]  # fmt: skip
    if job["act"] in ("secured", "blocked", "copied", "swapped") and job.get("dsn"):
        properties.append(f"ExecStopPost={main} heal --socket {job['dsn']['host']} --port {job['dsn']['port']} --id {job['id']}")
    start = transient_unit.command(
        unit(service, job["act"], pid), "postgres", "/", int(limit_s + GRACE_S), properties=properties,
        options=("--collect", "--service-type=exec"),
    )  # fmt: skip
    # setpriv, which ends children with their parent, reads and sets its capabilities first: there are none, but it must be let ask.
    asked = [one for one in start if one != "--property=SystemCallFilter=~@privileged @resources"]
    return [*asked, python, "-m", "greenroom.db_rollback"]


def in_unit(job: Mapping, **how: object) -> dict:
    """Run the job in its unit: its result. Raises SwitchError with what to look at if it gave none, or if it failed."""
    command = argv(job, **how)
    name = unit(how["service"], job["act"], how["pid"])
    try:
        done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise SwitchError(f"{error.filename or 'systemd-run'}: {error.strerror}. The host needs systemd") from error
    # What ExecStopPost prints comes through the same pipe.
    told = next((line for line in done.stdout.splitlines() if line.startswith('{"ok"')), None)
    if told is None:
        said = done.stderr.strip()[-1500:] or "it said nothing"
        raise SwitchError(
            f"the unit {name} ended with status {done.returncode} and no result: {said}. Connections were opened again by its ExecStopPost."
            f" See `journalctl -u {name}`, then run the same again: it finds where it stands"
        )
    answer = json.loads(told)
    if not answer["ok"]:
        raise SwitchError(answer["message"], answer["result"])
    return answer["result"]


def main(arguments: list[str]) -> int:
    """`heal` or `forget`, with --socket, --port, --id (of a killed act), --database (a kept one); or a job on standard input."""
    import psycopg

    if arguments and arguments[0] in ("heal", "forget"):
        options = dict(zip(arguments[1::2], arguments[2::2], strict=False))
        dsn = superuser(options.get("--socket", "/var/run/postgresql"), int(options.get("--port", 5432)))
        dead = superuser("", 0, options["--id"])["application_name"] if "--id" in options else None
        try:
            with psycopg.connect(**dsn, dbname="postgres", autocommit=True) as admin:
                if arguments[0] == "heal":
                    print(json.dumps({"opened": db_switch.heal(admin, dead=dead)}))
                else:
                    now = datetime.datetime.now(datetime.timezone.utc)  # noqa: UP017
                    print(json.dumps({"removed": db_switch.forget(admin, now, options.get("--database"))}))
        except (SwitchError, psycopg.Error) as error:
            print(f"greenroom.db_rollback {arguments[0]}: {error}", file=sys.stderr)
            return 1
        return 0
    answer = run(json.load(sys.stdin))
    print(json.dumps(answer, default=str))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
