"""The service's own configuration, made through its command line: only where it is missing, and proved afterwards (000 phase 4; 001 §4.1).

Secrets go to a command over standard input, never on a command line (runbook weaknesses E4).
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence

from . import records as rec
from .masking import masked, secret_parts

# What a shell, env or systemd-run answers when a command could not be started at all: that is no "there is nothing yet".
NOT_STARTED = (126, 127, 203)


class StepError(Exception):
    """A step cannot be carried out: its command is not there, hangs, or its secret is not given. Says which step."""


def run(argv: Sequence[str], stdin: str | None, limit_s: float) -> tuple[int, str]:
    """(exit status, last line it said). Raises StepError if the program is not there or does not end in time."""
    try:
        done = subprocess.run(
            list(argv), input=stdin or "", capture_output=True, text=True, errors="replace", timeout=limit_s, check=False
        )
    except FileNotFoundError as error:
        raise StepError(f"there is no {argv[0]} on this host") from error
    except subprocess.TimeoutExpired as error:
        raise StepError(f"{' '.join(argv)} did not end within {limit_s:g} s") from error
    said = [line.strip() for line in (done.stderr + "\n" + done.stdout).splitlines() if line.strip()]
    status = 128 - done.returncode if done.returncode < 0 else done.returncode
    return status, said[-1] if said else ""


def _present(argv: Sequence[str], limit_s: float) -> tuple[bool, str]:
    status, said = run(argv, None, limit_s)
    if status in NOT_STARTED:
        raise StepError(f"{' '.join(argv)} could not be started (exit status {status}: {said})")
    return status == 0, said


def apply_step(step: Mapping, runner: Sequence[str], secrets: Mapping[str, str], *, limit_s: float = 60.0, dry: bool = False) -> dict:
    """Carry out one step: {changed: bool, evidence: record}.

    step: {id, name, command, unless, stdin_key} (see check_plan.configure_steps). runner: the beginning of the command line, such as
    `["/usr/local/bin/example-service-run", "blue"]`. With `unless`, the command runs only if that fails, and `unless` must succeed
    afterwards; without, its exit status is all there is to judge. With `dry` nothing is changed, and a step that would change has no
    evidence (None).
    """
    hide = secret_parts(secrets.values())
    expected, changed = f"{step['name']}: in place", False
    check = [*runner, *shlex.split(step["unless"])] if step.get("unless") else None
    with rec.measured(step["id"], expected=expected) as measurement:
        measurement.detail = {"target": step["name"]}
        key = step.get("stdin_key")
        if key and key not in secrets:
            raise StepError(f"there is no secret {key}; put it into vault_service_env")
        present, said = _present(check, limit_s) if check else (False, "")
        if present:
            measurement.judge(True, "in place already")
        elif dry:
            changed = True
        else:
            changed = True
            status, said = run([*runner, *shlex.split(step["command"])], secrets[key] if key else None, limit_s)
            measurement.detail["exit_status"] = status
            if status != 0:
                measurement.judge(False, f"exit status {status}", masked(f"{step['command']}: exit status {status} ({said})", hide))
            elif check:
                there, said = _present(check, limit_s)
                why = masked(f"{step['command']} ended with 0, but afterwards {step['unless']} still fails ({said})", hide)
                measurement.judge(there, "made now, in place" if there else "made now, not in place", why)
            else:
                measurement.judge(True, "made now, exit status 0")
    record = measurement.record
    if record.get("reason"):
        record["reason"] = masked(record["reason"], hide)
    pending = dry and changed and record["status"] == rec.NO_EVIDENCE
    return {"changed": changed, "evidence": None if pending else record}


def apply_steps(
    steps: Sequence[Mapping], runner: Sequence[str], secrets: Mapping[str, str], *, limit_s: float = 60.0, dry: bool = False
) -> dict:
    """Carry out the steps in their order, up to the first that fails: {changed, evidence: [record…], made: [names]}.

    What comes after a failed step is `not_run`: it may need it.
    """
    changed, evidence, made, failed = False, [], [], None
    for step in steps:
        if failed:
            evidence.append(rec.record(step["id"], rec.NOT_RUN, f"{step['name']}: in place", reason=f"the step before it failed: {failed}",
                                       detail={"target": step["name"]}))  # fmt: skip
            continue
        done = apply_step(step, runner, secrets, limit_s=limit_s, dry=dry)
        changed = changed or done["changed"]
        made += [step["name"]] if done["changed"] else []
        if done["evidence"]:
            evidence.append(done["evidence"])
            if done["evidence"]["status"] != rec.PASS:
                failed = step["name"]
    return {"changed": changed, "evidence": evidence, "made": made}
