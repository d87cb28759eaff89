"""A site's own commands before and after a phase, on the control node (service contract, `hooks`)."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence

from .masking import masked, secret_parts

LIMIT_S = 600
SHOWN = 2000  # characters of its output that a failed hook shows, from the end


class HookError(Exception):
    """A hook failed: which one, how, and the end of what it said, without secrets. `.done` are the results up to it."""

    def __init__(self, text: str, done: list[dict]):
        super().__init__(text)
        self.done = done


def run_hooks(
    hook: str,
    commands: Sequence[str],
    directory: str | os.PathLike,
    environment: Mapping[str, str],
    secrets: Iterable[str] = (),
    *,
    limit_s: float = LIMIT_S,
) -> list[dict]:
    """Run the commands one after the other, in `directory` and without a shell; the first that fails is the last.

    hook: its name in the contract, such as `before_release`; environment: added to that of the control process. secrets: values that are
    masked in everything handed back. Each command has `limit_s` seconds, then it and what it started are ended.
    Returns [{command, seconds, output}], output being the end of what it wrote to both streams. Raises HookError.
    """
    hide, done = secret_parts(secrets), []
    for number, command in enumerate(commands, 1):
        begun = time.monotonic()
        status, said = _run(command, directory, {**os.environ, **environment}, limit_s)
        result = {
            "command": masked(command, hide), "seconds": round(time.monotonic() - begun, 2), "output": masked(said, hide).strip()[-SHOWN:],
        }  # fmt: skip
        done.append(result)
        if status:
            said = f"It said:\n{result['output']}" if result["output"] else "It said nothing."
            which = f"{hook}, command {number} of {len(commands)} ({result['command']})"
            raise HookError(f"hook {which} {status}. The phase stops here. {said}", done)
    return done


def _run(command: str, directory: str | os.PathLike, environment: Mapping[str, str], limit_s: float) -> tuple[str, str]:
    """(what went wrong, or nothing; what it said)."""
    try:
        argv = shlex.split(command)
    except ValueError as error:
        return f"cannot be split into words ({error})", ""
    if not argv:
        return "is empty", ""
    # A file, not a pipe: what a hook leaves running in the background may keep its output open, and must not keep the run waiting.
    with tempfile.TemporaryFile() as out:
        try:
            process = subprocess.Popen(
                argv, cwd=directory, env=dict(environment), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return f"could not be started: {error.strerror}: {error.filename}", ""
        try:
            status = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = None
        out.seek(0)
        said = out.read().decode("utf-8", "replace")
    if status is None:
        return f"did not end within {limit_s:g} s and was stopped", said
    if status < 0:
        return f"was ended by signal {-status}", said
    return (f"ended with status {status}" if status else ""), said
