"""Running programs so that no failure is lost: list arguments, no shell, every return code looked at, standard error kept.

Each child ends with its parent (`setpriv --pdeathsig`), so that a killed backup leaves no dump running behind.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping

from .errors import BackupError, NoSpaceError, no_space

STDERR_KEPT = 4000  # characters of a program's standard error that stand in an error


def libpq(dsn: Mapping) -> tuple[str, dict[str, str]]:
    """(connection string without the password, environment with it) for libpq's programs.

    The environment has none of the caller's own PG… variables: what is connected to is what `dsn` says.
    """
    import psycopg.conninfo

    keywords = {key: str(value) for key, value in dsn.items() if value is not None and key != "autocommit"}
    secret = keywords.pop("password", None)
    env = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    env |= {"PGCLIENTENCODING": "UTF8", "LC_ALL": "C.UTF-8", "PGAPPNAME": "greenroom-backup"}
    if secret is not None:
        env["PGPASSWORD"] = secret
    return psycopg.conninfo.make_conninfo(**keywords), env


def argv_of(program: str, *arguments: str) -> list[str]:
    """The argument list of a child that is ended when the thread that started it ends. Raises BackupError if it is not installed."""
    found = shutil.which(program)
    if not found:
        raise BackupError(f"{program} is not installed. Install the package that has it (age: apt-get install age), then try again")
    ender = shutil.which("setpriv")
    return ([ender, "--pdeathsig", "TERM", "--"] if ender else []) + [found, *arguments]


def explain(name: str, code: int, stderr: str) -> str:
    """One line for people: how program `name` ended."""
    how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
    return f"{name} {how}: {stderr.strip()[-STDERR_KEPT:] or 'it said nothing'}"


def check(name: str, code: int, stderr: str, advice: str = "") -> None:
    """Raise BackupError (NoSpaceError for a full disk) unless `code` is 0."""
    if code == 0:
        return
    text = explain(name, code, stderr) + (f". {advice}" if advice else "")
    raise (NoSpaceError if no_space(stderr) else BackupError)(text)


def run(
    program: str,
    *arguments: str,
    env: Mapping | None = None,
    input: bytes | None = None,
    timeout_s: float | None = None,
    advice: str = "",
    cwd: str | None = None,
) -> subprocess.CompletedProcess:
    """Run one program to its end. The result has stdout and stderr as bytes.

    Raises BackupError with what it said if its status is not 0, or after `timeout_s`.
    """
    argv = argv_of(program, *arguments)
    given = {"input": input} if input is not None else {"stdin": subprocess.DEVNULL}
    try:
        done = subprocess.run(argv, capture_output=True, check=False, env=env, timeout=timeout_s, cwd=cwd, **given)
    except subprocess.TimeoutExpired as error:
        raise BackupError(f"{os.path.basename(program)} took more than {timeout_s:g} s and was ended") from error
    check(os.path.basename(program), done.returncode, done.stderr.decode(errors="replace"), advice)
    return done


def version(program: str) -> tuple[int, ...]:
    """The version that `program --version` states, e.g. (15, 18) or (1, 1, 1)."""
    text = run(program, "--version").stdout.decode(errors="replace")
    found = re.search(r"(\d+(?:\.\d+)+)", text)
    if not found:
        raise BackupError(f"{program} --version says {text.strip()[:100]!r}, which holds no version")
    return tuple(int(part) for part in found.group(1).split("."))


class Children:
    """Processes of one pipeline: started in order, ended together, each return code checked.

    `with Children() as children:` kills what still runs if the body raises.
    """

    def __init__(self) -> None:
        self._all: list[tuple[str, subprocess.Popen, object]] = []

    def __enter__(self) -> Children:
        return self

    def __exit__(self, kind, *_rest) -> None:
        for _name, process, stderr in self._all:
            if process.poll() is None:
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream:
                    # A pipe whose reader is gone; its process was judged, or the body raised.
                    with contextlib.suppress(OSError):
                        stream.close()
            stderr.close()

    def start(self, program: str, *arguments: str, env: Mapping | None = None, **popen) -> subprocess.Popen:
        """Start one more process; its standard error is kept aside."""
        stderr = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process; __exit__ closes it
        popen.setdefault("stdin", subprocess.DEVNULL)
        process = subprocess.Popen(argv_of(program, *arguments), stderr=stderr, env=env, **popen)
        self._all.append((os.path.basename(program), process, stderr))
        return process

    def finish(self, timeout_s: float | None = None) -> None:
        """Wait for all. Raises BackupError naming every process that failed; a full disk is a NoSpaceError."""
        until, failed = None if timeout_s is None else time.monotonic() + timeout_s, []
        for name, process, stderr in self._all:
            try:
                code = process.wait(None if until is None else max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise BackupError(f"{name} took more than {timeout_s:g} s and was ended") from None
            if code:
                stderr.seek(0)
                failed.append((name, code, stderr.read().decode(errors="replace")))
        if failed:
            # A reader that fails ends its writers by SIGPIPE: the cause stands first.
            failed.sort(key=lambda one: one[1] == -13)
            text = "; ".join(explain(*one) for one in failed)
            raise (NoSpaceError if any(no_space(one[2]) for one in failed) else BackupError)(text)

    def stderr_of(self, process: subprocess.Popen) -> str:
        """What one of them wrote to its standard error."""
        for _name, each, stderr in self._all:
            if each is process:
                stderr.seek(0)
                return stderr.read().decode(errors="replace")
        raise KeyError(process)
