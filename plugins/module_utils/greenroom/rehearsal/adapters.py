"""The interface to a migration tool, and its implementations: alembic, and any tool with commands.

An adapter has
    name, version_tables (names of the tool's own tables, which no application owns)
    history() -> [Revision], oldest first        heads() -> [revision]
    current(url) -> [revision]                    plan(url) -> {current, heads, pending, unknown}
    up(url, revision, …) -> Outcome               down(url, revision, …) -> Outcome: undoes `revision`
    render(url, revision, direction) -> str | None: the SQL, where the tool can say it without a database
    check(url) -> str | None: how the project's models differ from the schema; "" if they do not, None where there are none
    close()
`url` is that of the role that migrates; `kill_after` ends the session after so many statements.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pwd
import select
import signal
import subprocess
import time
from pathlib import Path

from .. import migration_alembic
from ..migration import APPLICATION_NAME, source_of
from . import alembic_worker
from .errors import RehearsalError


@dataclasses.dataclass(frozen=True)
class Revision:
    """One revision. parents: what must be there before it; below: where its downgrade leads ([] is base)."""

    revision: str
    parents: tuple[str, ...]
    message: str = ""
    path: str | None = None  # of its source
    below: tuple[str, ...] = ()
    digest: str = ""  # sha256 of its source

    @staticmethod
    def digest_of(path: str | None) -> str:
        """sha256 of a file; empty without one."""
        return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path and os.path.isfile(path) else ""


@dataclasses.dataclass
class Outcome:
    """What came of one way up or down. Times in seconds; statements, locks, scanned as alembic_worker says."""

    error: str | None = None
    seconds: float = 0.0
    current: list = dataclasses.field(default_factory=list)
    statements: list = dataclasses.field(default_factory=list)
    locks: list = dataclasses.field(default_factory=list)
    scanned: dict = dataclasses.field(default_factory=dict)
    output: str = ""
    watched: bool = True  # whether statements and locks are known


def identity(user: str | None) -> dict:
    """Options of subprocess.Popen to become `user`; none when the caller is not root."""
    if not user or os.geteuid() != 0:
        return {}
    try:
        entry = pwd.getpwnam(user)
    except KeyError as error:
        raise RehearsalError(f"the unix user {user} does not exist on this host. Make it, or give another one") from error
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


class AlembicAdapter:
    """Alembic, run from a release's virtual environment with the project's env.py.

    release: the folder with venv and src. config: alembic.ini below src. user: the unix user it runs as. env: the service's environment.
    settings: of every database session; limits as production has them. time_limit_s: of one job.
    """

    name, version_tables = "alembic", ("alembic_version",)

    def __init__(
        self, release: str, *, config: str = "alembic.ini", url_key: str = "DATABASE_URL", user: str | None = None, env: dict | None = None,
        lock_timeout_s: int = 5, statement_timeout_s: int = 60, time_limit_s: float = 600, scheme: str = "postgresql",
    ):  # fmt: skip
        self.release, self.config, self.url_key, self.user, self.scheme = Path(release), config, url_key, user, scheme
        limits = {"lock_timeout": f"{lock_timeout_s}s", "statement_timeout": f"{statement_timeout_s}s"}
        options = " ".join(f"-c {key}={value}" for key, value in limits.items())
        self.settings = {**limits, "application_name": APPLICATION_NAME}
        self.env = {**(env or {}), "PGOPTIONS": options, "PGAPPNAME": APPLICATION_NAME}
        self.time_limit_s, self._process, self._jobs, self._history = time_limit_s, None, 0, None

    def copy(self) -> AlembicAdapter:
        """Another one for the same project, with a process of its own."""
        new = object.__new__(AlembicAdapter)
        new.__dict__.update(self.__dict__, _process=None)
        return new

    def _start(self) -> None:
        source, python = self.release / "src", self.release / "venv" / "bin" / "python"
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
        try:
            self._process = subprocess.Popen(
                [str(python), "-c", source_of(alembic_worker)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                cwd="/", env=environment, start_new_session=True, **identity(self.user),
            )  # fmt: skip
        except OSError as error:
            raise RehearsalError(f"{python}: {error.strerror}. Install the release on this host first") from error
        self._send({"library": source_of(migration_alembic), "env": self.env, "cwd": str(source)})

    def _send(self, line: dict) -> None:
        try:
            self._process.stdin.write(json.dumps(line).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            self.close()
            raise RehearsalError(
                f"the migration tool in {self.release} ended at once. Is {self.release}/src readable for user {self.user or 'of this run'}?"
            ) from error

    def _ask(self, operation: str, url: str = "", **more: object) -> dict:
        if self._process is None:
            self._start()
        self._jobs += 1
        config = str(self.release / "src" / self.config)
        job = {"id": self._jobs, "operation": operation, "config": config, "url": url, "url_key": self.url_key, "settings": self.settings}
        self._send({**job, **more})
        until, text = time.monotonic() + self.time_limit_s, b""
        while not text.endswith(b"\n"):
            ready, _, _ = select.select([self._process.stdout], [], [], max(0, until - time.monotonic()))
            piece = os.read(self._process.stdout.fileno(), 1 << 20) if ready else b""
            if not piece:
                self.close()
                said = f"not done after {self.time_limit_s:g} s, ended" if not ready else "the migration tool ended without an answer"
                return {"error": {"kind": "time_limit" if not ready else "tool", "message": said}, "output": ""}
            text += piece
        return json.loads(text)

    def history(self) -> list[Revision]:
        """Raises RehearsalError if the revisions cannot be read."""
        if self._history is None:
            answer = self._ask("history")
            if answer["error"]:
                raise RehearsalError(f"the revisions of {self.release} cannot be read: {said(answer)}")
            self._heads = answer["heads"]
            self._history = [
                Revision(
                    one["revision"], tuple(one["parents"]), one["message"] or "", one["path"], tuple(one["downgrades_to"]),
                    Revision.digest_of(one["path"]),
                )
                for one in answer["history"]
            ]  # fmt: skip
        return self._history

    def heads(self) -> list[str]:
        """The newest revisions; more than one is a mistake of the project."""
        self.history()
        return self._heads

    def plan(self, url: str) -> dict:
        """{current, heads, pending, unknown} as `migration.planned` gives it. Raises RehearsalError."""
        answer = self._ask("plan", url)
        if answer["error"]:
            raise RehearsalError(f"where the database is cannot be read: {said(answer)}")
        return answer["before"]

    def current(self, url: str) -> list[str]:
        """Where a database is."""
        return self.plan(url)["current"]

    def up(self, url: str, revision: str, kill_after: int | None = None) -> Outcome:
        """Upgrade to `revision`."""
        return self._move("upgrade", url, revision, kill_after)

    def down(self, url: str, revision: str, kill_after: int | None = None) -> Outcome:
        """Undo `revision`, whose descendants are not there."""
        below = next(one.below for one in self.history() if one.revision == revision)
        return self._move("downgrade", url, below[0] if below else "base", kill_after)

    def _move(self, operation: str, url: str, target: str, kill_after: int | None) -> Outcome:
        answer = self._ask(operation, url, target=target, kill_after=kill_after)
        seconds = sum(one.get("seconds", 0) for one in answer.get("started") or [])
        current = (answer.get("after") or {}).get("current") or []
        seen = {key: answer[key] for key in ("statements", "locks", "scanned") if key in answer}
        return Outcome(said(answer) if answer["error"] else None, seconds, current, output=answer["output"], **seen)

    def render(self, url: str, revision: str, direction: str) -> str | None:
        """The revision's SQL; None if its code needs a database."""
        below = next(one.below for one in self.history() if one.revision == revision)
        base = below[0] if below else "base"
        target = f"{base}:{revision}" if direction == "upgrade" else f"{revision}:{base}"
        answer = self._ask("render", url, direction=direction, target=target)
        return None if answer["error"] else answer["sql"]

    def check(self, url: str) -> str | None:
        """Whether the models equal the schema."""
        answer = self._ask("check", url)
        if not answer["error"]:
            return ""
        text = answer["error"]["message"]
        no_models = "does not provide" in text or ("MetaData" in text and "target_metadata" in text)
        return None if no_models else text

    def close(self) -> None:
        """End the worker and what it left."""
        process, self._process = self._process, None
        if process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.stdin.close()
            process.stdout.close()
            process.wait(10)


def said(answer: dict) -> str:
    """An error of the worker for a person."""
    return f"{answer['error']['message'].strip()} [{answer['error']['kind']}]"


class CommandAdapter:
    """Any tool with commands, for a history that is one line.

    commands   {list, current, up, down, sql}: argument lists. `list` prints every revision, oldest first, one a line (what follows
               the first word is its message); `current` prints the newest applied one, or nothing. {revision} and {parent} are
               replaced, and the URL is in the environment as `url_key`. sql is optional. A status other than 0 is a failure.
    """

    name = "command"

    def __init__(
        self, commands: dict, *, cwd: str, url_key: str = "DATABASE_URL", user: str | None = None, env: dict | None = None,
        version_tables: tuple[str, ...] = (), time_limit_s: float = 600, scheme: str = "postgresql", source: str | None = None,
    ):  # fmt: skip
        missing = {"list", "current", "up", "down"} - set(commands)
        if missing:
            raise RehearsalError(f"the migration tool's commands lack {', '.join(sorted(missing))}. State them in the contract")
        self.commands, self.cwd, self.url_key, self.user, self.env = commands, cwd, url_key, user, dict(env or {})
        self.version_tables, self.time_limit_s, self.scheme, self.source = tuple(version_tables), time_limit_s, scheme, source
        self._history = None

    def copy(self) -> CommandAdapter:
        """It has no state of its own."""
        return self

    def _run(self, command: str, url: str = "", **words: str) -> tuple[int, str, str]:
        argv = [part.format(**words) for part in self.commands[command]]
        environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C.UTF-8", **self.env, self.url_key: url}
        try:
            done = subprocess.run(
                argv, cwd=self.cwd, env=environment, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL,
                timeout=self.time_limit_s, check=False, **identity(self.user),
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return 124, "", f"not done after {self.time_limit_s:g} s, ended"
        except OSError as error:
            raise RehearsalError(f"{argv[0]}: {error.strerror}. Is the migration tool installed on this host?") from error
        return done.returncode, done.stdout, done.stderr

    def history(self) -> list[Revision]:
        """Raises RehearsalError if the list cannot be had."""
        if self._history is None:
            status, out, err = self._run("list")
            if status:
                raise RehearsalError(f"the list of revisions failed with status {status}: {err.strip()[-1500:]}")
            below, found = (), []
            for line in filter(None, map(str.strip, out.splitlines())):
                name, _, message = line.partition(" ")
                path = self.source.format(revision=name) if self.source else None
                found.append(Revision(name, below, message.strip(), path, below, Revision.digest_of(path)))
                below = (name,)
            self._history = found
        return self._history

    def heads(self) -> list[str]:
        """The newest one."""
        return [one.revision for one in self.history()[-1:]]

    def current(self, url: str) -> list[str]:
        """Raises RehearsalError if the tool cannot say."""
        status, out, err = self._run("current", url)
        if status:
            raise RehearsalError(f"where the database is cannot be read: {err.strip()[-1500:]}")
        return out.split()[:1]

    def plan(self, url: str) -> dict:
        """{current, heads, pending, unknown}."""
        current, names = self.current(url), [one.revision for one in self.history()]
        unknown = [name for name in current if name not in names]
        after = names.index(current[0]) + 1 if current and not unknown else 0
        pending = [{"revision": one.revision, "message": one.message} for one in self.history()[after:]]
        return {"current": current, "heads": self.heads(), "pending": [] if unknown else pending, "unknown": unknown}

    def up(self, url: str, revision: str, kill_after: int | None = None) -> Outcome:
        """Upgrade to `revision`."""
        return self._move("up", url, revision)

    def down(self, url: str, revision: str, kill_after: int | None = None) -> Outcome:
        """Undo `revision`."""
        return self._move("down", url, revision)

    def _move(self, command: str, url: str, revision: str) -> Outcome:
        one = next(one for one in self.history() if one.revision == revision)
        began = time.monotonic()
        status, out, err = self._run(command, url, revision=revision, parent=one.below[0] if one.below else "")
        error = f"{(err or out).strip()[-1500:]} [status {status}]" if status else None
        return Outcome(error, time.monotonic() - began, self.current(url), output=(out + err)[-4000:], watched=False)

    def render(self, url: str, revision: str, direction: str) -> str | None:
        """What the tool's own command prints, where it has one."""
        if "sql" not in self.commands:
            return None
        status, out, _err = self._run("sql", url, revision=revision, direction=direction)
        return None if status else out

    def check(self, url: str) -> str | None:
        """Nothing is known about models."""
        return None

    def close(self) -> None:
        """Nothing to end."""
