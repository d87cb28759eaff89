"""Plan, run and verify the migration of the service's schema, once, as the role that owns it (runbook 001 §3.2).

The work is done by `migration_worker` in a transient systemd unit on an app host: named, hardened, with a time limit, so that
it can be found, awaited or stopped when the control node is gone. The owner's password travels on standard input only: never
on disk, in argv or in a property of the unit. `TOOLS` is the interface to a migration tool; alembic is the first.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

# These are imported so that Ansible ships them with the module; what runs of them is their source, elsewhere.
from . import migration_alembic, migration_worker, transient_unit
from .masking import masked, redact, secret_parts
from .migration_evidence import Clock, applied_record, at, declared_record, head_record, names, plan_record, rolled_back_record
from .records import FAIL, PASS

# A tool is a script that runs in the release's virtual environment and speaks the protocol of migration_alembic.
TOOLS = {"alembic": migration_alembic}
APPLICATION_NAME = "greenroom-migration"
# Advisory locks belong to one database, so one key serves every service.
LOCK_KEY = int.from_bytes(hashlib.sha256(b"greenroom migration").digest()[:8], "big", signed=True)
GRACE_S = 30  # beyond the tool's own limit, before systemd ends the whole unit

# The unit's whole command line: it takes the worker from the job. No dollar sign may be in it, systemd would expand it.
BOOTSTRAP = "import json,sys;job=json.load(sys.stdin);space={'__name__':'worker'};exec(job.pop('worker'),space);space['main'](job)"


class MigrationError(Exception):
    """The migration could not be planned or did not succeed. The text says what is so now and what to do next; no secret is in it."""

    def __init__(self, text: str, result: dict | None = None):
        super().__init__(text)
        self.result = result or {}


@dataclasses.dataclass(frozen=True)
class Database:
    """The database and the role that migrates it."""

    host: str
    port: int
    name: str
    user: str
    password: str = dataclasses.field(repr=False)
    sslmode: str = "verify-full"
    ca_file: str | None = None
    connect_timeout_s: int = 10

    def keywords(self) -> dict:
        """As libpq wants it; holds the password."""
        given = {
            "host": self.host, "port": self.port, "dbname": self.name, "user": self.user, "password": self.password,
            "sslmode": self.sslmode, "sslrootcert": self.ca_file, "connect_timeout": self.connect_timeout_s,
        }  # fmt: skip
        return {key: value for key, value in given.items() if value is not None}

    def url(self, service_url: str | None = None) -> str:
        """The URL the tool gets; holds the password.

        `service_url` is the one the service itself uses: its scheme (the driver) and its query are kept, so that the project's
        env.py finds what it knows; who connects, where to and to which database come from here.
        Raises MigrationError if it is no URL of a PostgreSQL server.
        """
        tls = {"sslmode": self.sslmode, "sslrootcert": self.ca_file}
        scheme, query = "postgresql", urlencode({key: value for key, value in tls.items() if value})
        if service_url:
            parts = urlsplit(service_url)
            if not parts.scheme.startswith("postgres"):
                raise MigrationError(
                    f"the service's database URL has the scheme {parts.scheme!r}, not one of PostgreSQL. Correct it in the vault."
                )
            scheme, query = parts.scheme, parts.query
        host = f"[{self.host}]" if ":" in self.host else self.host
        who = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        return urlunsplit((scheme, f"{who}@{host}:{self.port}", f"/{self.name}", query, ""))


@dataclasses.dataclass(frozen=True)
class Job:
    """What to migrate, with which release, under which limits (times in seconds)."""

    service: str
    user: str
    release: str  # the release's folder
    database: Database
    tool: str = "alembic"
    config: str = "alembic.ini"
    url_key: str = "DATABASE_URL"
    service_url: str | None = dataclasses.field(default=None, repr=False)
    env_files: tuple[str, ...] = ()
    python: str = "/opt/greenroom/venv/bin/python"
    run_id: str = ""
    lock_wait_s: float = 60
    lock_timeout_s: int = 5
    statement_timeout_s: int = 60
    time_limit_s: int = 600
    tables: tuple[str, ...] = ()
    indexes: tuple[str, ...] = ()
    target: str = "head"  # of a downgrade: the revision to go back to, or base
    copies: Mapping[str, list[str]] = dataclasses.field(default_factory=dict)  # side copies before an upgrade, SQL by revision

    def unit(self, operation: str) -> str:
        """The transient unit's name. A migration has one name a service, so that a second one on the same host is refused by systemd."""
        if operation == "plan":
            return f"greenroom-migration-plan-{self.service}-{os.getpid()}.service"
        return f"greenroom-migration-{self.service}.service"

    def request(self, operation: str) -> dict:
        """The worker's job; it holds the password, so it goes over standard input only."""
        settings = {"lock_timeout": f"{self.lock_timeout_s}s", "statement_timeout": f"{self.statement_timeout_s}s"}
        options = " ".join(f"-c {key}={value}" for key, value in settings.items())
        tool = {
            "python": f"{self.release}/venv/bin/python", "source": source_of(TOOLS[self.tool]), "cwd": f"{self.release}/src",
            "config": f"{self.release}/src/{self.config}", "env": {"PGOPTIONS": options, "PGAPPNAME": APPLICATION_NAME},
        }  # fmt: skip
        return {
            "worker": source_of(migration_worker), "operation": operation, "tool": tool,
            "url": self.database.url(self.service_url), "url_key": self.url_key, "database": self.database.keywords(),
            "lock_key": LOCK_KEY, "lock_wait_s": self.lock_wait_s, "lock_name": f"{APPLICATION_NAME}-lock {self.run_id}".strip(),
            "application_name": APPLICATION_NAME, "settings": settings, "time_limit_s": self.time_limit_s,
            "tables": list(self.tables), "indexes": list(self.indexes), "target": self.target,
            "copies": dict(self.copies),
        }  # fmt: skip

    def argv(self, operation: str) -> list[str]:
        """The command that starts the worker in its unit and waits for it. Nothing in it is secret."""
        limit_s = int(self.lock_wait_s + self.time_limit_s + GRACE_S)
        about = f"Description=Greenroom migrates the schema of {self.service}"
        properties = [about, *(f"EnvironmentFile={path}" for path in self.env_files)]
        options = ("--collect", "--service-type=exec")
        unit = self.unit(operation)
        start = transient_unit.command(unit, self.user, f"{self.release}/src", limit_s, properties=properties, options=options)
        return [*start, self.python, "-c", BOOTSTRAP]


def source_of(module: object) -> str:
    """The source of a module of this library; Ansible ships it inside an archive, so it is asked of the loader, not of the file system."""
    return importlib.util.find_spec(module.__name__).loader.get_source(module.__name__)


def run_in_unit(argv: list[str], request: str, limit_s: float) -> tuple[int, str, str]:
    """Run the worker; (status, standard output, standard error)."""
    done = subprocess.run(
        argv, input=request, capture_output=True, text=True, errors="replace", timeout=limit_s, check=False
    )
    return done.returncode, done.stdout, done.stderr


def work(job: Job, operation: str, run: Callable[[list[str], str, float], tuple[int, str, str]] = run_in_unit) -> dict:
    """Let the worker do `operation` (plan or migrate); its result, masked. Raises MigrationError if it gave none."""
    request = job.request(operation)
    secrets = secret_parts([job.database.password, job.service_url or ""])

    def hidden(text: str) -> str:
        return masked(redact(text), secrets)

    try:
        status, out, err = run(
            job.argv(operation), json.dumps(request), job.lock_wait_s + job.time_limit_s + 2 * GRACE_S
        )
    except subprocess.TimeoutExpired as error:
        raise MigrationError(
            f"the unit {job.unit(operation)} has not ended. See `systemctl status {job.unit(operation)}`; stop it before the next try."
        ) from error
    except OSError as error:
        raise MigrationError(
            f"{error.filename or 'systemd-run'}: {error.strerror}. The app host needs systemd."
        ) from error
    try:
        result = json.loads(out)
    except ValueError as error:
        raise MigrationError(
            f"the unit {job.unit(operation)} ended with status {status} and no result: "
            f"{hidden(err).strip()[-2000:] or 'it said nothing'}. "
            f"See `journalctl -u {job.unit(operation)}`; ask for a plan to see where the database is."
        ) from error
    # Only what was written by others can hold a secret; a short one must not change names of revisions and tables.
    result["output"] = hidden(result["output"])
    if result["error"]:
        result["error"]["message"] = hidden(result["error"]["message"])
    return result


def refusal(plan: dict) -> str | None:
    """Why this plan cannot be carried out; None if it can."""
    if plan["unknown"]:
        return (
            f"the database is at revision {', '.join(plan['unknown'])}, which this release does not contain (its newest is "
            f"{at(plan['heads'])}): a newer or another release migrated it. Deploy a release that contains that revision, or restore "
            f"the database that fits this one"
        )
    if len(plan["heads"]) > 1:
        heads = ", ".join(plan["heads"])
        return f"the release has several newest revisions ({heads}), so head is ambiguous. Merge them in a new version (alembic merge)"
    return None


def failure(result: dict) -> str | None:
    """Why a migration failed, which revision it was and what the database's state is now; None if it did not fail."""
    error, before, after = result["error"], result["before"], result["after"]
    if not error:
        why = refusal(before)
        return f"{why}. Nothing was migrated" if why else None
    if error["kind"] == "lock":
        holder = result["lock"].get("holder")
        who = "{pid}, {application_name}, role {user}, since {since}".format(**holder) if holder else "unknown"
        return f"{error['message']}: held by pid {who}. Nothing was migrated. Wait for that migration, then run again"
    if error["kind"] == "connect":
        return f"cannot connect as the owner role: {error['message']}. Nothing was migrated"
    failed = next((one for one in result["started"] if not one["done"]), None)
    where = f"revision {names([failed])} failed" if failed else "the migration failed"
    if not (before and after):
        state = (
            "Nothing was migrated"
            if before and not result["started"]
            else "Where the database is now could not be found out: ask for a plan"
        )
    elif after["current"] == before["current"]:
        state = f"The database is unchanged, at {at(before['current'])}: what had begun was rolled back"
    else:
        state = f"The database is now at {at(after['current'])}, it was at {at(before['current'])}: revisions before the failed one stay"
    return f"{where}: {error['message'].strip()} [{error['kind']}]. {state}"


def judged(job: Job, operation: str, clock: Clock, **how: object) -> dict:
    """`work`, whose failure leaves evidence too."""
    try:
        return work(job, operation, **how)
    except MigrationError as error:
        error.result["evidence"] = [plan_record(job.database.name, None, str(error), clock)]
        raise


def planned(job: Job, **how: object) -> tuple[dict, list[dict]]:
    """(plan, evidence). Changes nothing. Raises MigrationError, with the evidence in its `result`."""
    clock = Clock()
    result = judged(job, "plan", clock, **how)
    plan, error = result["before"], result["error"]
    why = f"{error['message'].strip()} [{error['kind']}]" if error else refusal(plan)
    evidence = [plan_record(job.database.name, plan, why, clock)]
    if why:
        raise MigrationError(
            f"{job.database.name} at {job.database.host}: {why}.", {"plan": plan, "evidence": evidence}
        )
    return plan, evidence


def migrated(job: Job, **how: object) -> tuple[dict, list[dict]]:
    """Migrate to head under the advisory lock and verify; (result, evidence).

    result    {plan, applied: [{revision, message, seconds}], after, lock: {waited_s}, changed, output}
    Raises MigrationError with the same in its `result`; `changed` is true if the database is not where it was.
    """
    clock = Clock()
    raw = judged(job, "migrate", clock, **how)
    before, after = raw["before"], raw["after"] or raw["before"]
    why = failure(raw)
    applied = [one for one in raw["started"] if one["done"]]
    evidence = [
        plan_record(job.database.name, before, refusal(before) if before else why, clock),
        applied_record(job.unit("migrate"), raw, why, clock),
        head_record(after, why, clock),
    ]
    problems = [why] if why else []
    if not why and evidence[-1]["status"] != PASS:
        problems.append(evidence[-1]["reason"])
    for id, what, declared in (("db.tables", "tables", job.tables), ("db.indexes", "indexes", job.indexes)):
        evidence.append(declared_record(id, what, list(declared), raw[what], why, clock))
        if evidence[-1]["status"] == FAIL:
            problems.append(evidence[-1]["reason"])
    moved = bool(before and after and before["current"] != after["current"])
    result = {
        "plan": before,
        "applied": applied,
        "after": after,
        "lock": raw["lock"],
        "changed": moved,
        "output": raw["output"],
    }
    if problems:
        tail = f" Its last output: {raw['output'].strip()[-1500:]}" if why and raw["output"].strip() else ""
        raise MigrationError(
            f"{job.database.name} at {job.database.host}: {'; '.join(problems)}.{tail}",
            {**result, "evidence": evidence},
        )
    return result, evidence


def downgraded(job: Job, **how: object) -> tuple[dict, list[dict]]:
    """Undo revisions down to `job.target` ("base" for all), under the same lock and limits; (result, evidence).

    Whether that is allowed is for the rehearsal's manifest to say (`db_routes`), what has to be copied aside too.
    result    {plan, undone: [{revision, message, seconds}], after, lock, changed, output}
    Raises MigrationError with the same in its `result`; `changed` is true if the database is not where it was.
    """
    clock = Clock()
    if job.target == "head":
        raise MigrationError("the revision to go back to is missing. Give it as `target`; `base` undoes everything")
    raw = judged(job, "downgrade", clock, **how)
    before, after, error = raw["before"], raw["after"] or raw["before"], raw["error"]
    why = failure(raw) if error else None
    wanted = [] if job.target == "base" else [job.target]
    if before and before["unknown"]:
        why = why or refusal(before)
    if not why and after["current"] != wanted:
        why = f"the database is at {at(after['current'])}, not at {job.target}"
    evidence = [rolled_back_record(job.target, raw, why, clock)]
    moved = bool(before and after and before["current"] != after["current"])
    undone = [one for one in raw["started"] if one["done"]]
    result = {"plan": before, "undone": undone, "after": after, "lock": raw["lock"], "changed": moved, "output": raw["output"]}
    if why:
        raise MigrationError(f"{job.database.name} at {job.database.host}: {why}.", {**result, "evidence": evidence})
    return result, evidence
