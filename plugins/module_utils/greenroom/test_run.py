"""Runs a service's own tests away from everything live, and judges what their reports say.

A suite runs in a transient, hardened systemd unit as the service's user, with a time limit. Its environment goes in over standard
input, so that it stands neither in an argument list nor on a disk. The verdict comes from the reports (JUnit XML; coverage.py's JSON
or Cobertura XML): an exit status alone proves nothing (runbook weaknesses B36; 001 §5.2, §5.3).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import records as rec
from . import transient_unit
from .masking import MASK, masked, secret_parts
from .test_reports import ReportError, parse_coverage, parse_junit, read_report

TAIL_LINES = 40  # of a suite's output, in the result of a suite that did not pass
NAMED = 5  # tests that a reason names; the rest are counted
STOP_SECONDS = 5  # a suite beyond its limit gets this long to end before it is killed

# Reads {"env": …, "argv": …} from standard input and becomes that program, with nothing left to read.
LAUNCHER = """
import json, os, sys
job = json.load(sys.stdin)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
try:
    os.execvpe(job["argv"][0], job["argv"], job["env"])
except OSError as error:
    sys.exit("cannot start %s: %s" % (job["argv"][0], error.strerror))
"""


# --- verdicts --------------------------------------------------------------------------------------------------------


def _named(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def judge_tests(id: str, totals: dict | None, outcome: Mapping, *, allow_skipped: int = 0, missing: str | None = None) -> dict:
    """The evidence record of one suite.

    totals: what `parse_junit` returned, or None with the cause in `missing`. outcome: {status, timed_out, killed, seconds, limit_s} of
    the process. It passes only if tests ran, all of them passed, at most `allow_skipped` were skipped and the process ended with 0.
    """
    expected = "every test passes, at least 1" + (f", at most {allow_skipped} skipped" if allow_skipped else ", none skipped")
    detail = {"exit_status": outcome.get("status"), "seconds": outcome.get("seconds")}
    problems = []
    if outcome.get("timed_out"):
        problems.append(f"it was stopped after its time limit of {outcome.get('limit_s')} s (the contract's tests.time_limit_s)")
    if outcome.get("killed"):
        problems.append(outcome["killed"])
    if totals is None:
        problems.append(f"there is no test report: {missing or 'it was not written'}")
        observed = f"no test report, exit status {outcome.get('status')}"
    else:
        counts = ("tests", "passed", "failures", "errors", "skipped")
        detail |= {key: totals[key] for key in counts} | {"samples": totals["tests"]}
        observed = ", ".join(f"{totals[key]} {key}" for key in counts)
        if not totals["tests"]:
            problems.append("no test ran")
        if totals["failed"]:
            problems.append(f"failed: {_named(totals['failed'])}")
        if totals["skipped"] > allow_skipped:
            problems.append(f"{totals['skipped']} skipped, {allow_skipped} allowed: {_named(totals['skips'])}")
        if totals["skips"]:
            detail["skips"] = totals["skips"][:50]
    if not problems and outcome.get("status") != 0:
        problems.append(f"the tests' process ended with exit status {outcome.get('status')} although its report has no failure")
    return rec.record(
        id, rec.FAIL if problems else rec.PASS, expected, observed, reason="; ".join(problems) or None, detail=detail,
        started=outcome.get("started"), duration_ms=round(1000 * (outcome.get("seconds") or 0), 1),
    )  # fmt: skip


def judge_coverage(id: str, found: dict | None, minimum: float, *, missing: str | None = None, tests_ran: bool = True) -> dict:
    """The evidence record of a coverage report: `found` as `parse_coverage` returned it, or None with the cause in `missing`."""
    if found is None:
        why = f"there is no coverage figure: {missing or 'the report was not written'}; is pytest-cov in the tests' lock file?"
        return rec.record(id, rec.NO_EVIDENCE, minimum, None, unit="%", reason=why)
    problems = []
    if not found["percent"] >= minimum:
        problems.append(f"{found['covered']} of {found['lines']} lines ran, {minimum:g} % are wanted")
    if not tests_ran:
        problems.append("no test ran: importing the package is no coverage")
    detail = {"lines": found["lines"], "covered": found["covered"], "files": found["files"], "samples": found["lines"]}
    status = rec.FAIL if problems else rec.PASS
    return rec.record(id, status, minimum, found["percent"], unit="%", reason="; ".join(problems) or None, detail=detail)


# --- running ---------------------------------------------------------------------------------------------------------


def suite_environment(suite: Mapping, directory: str, reports: str, env: Mapping[str, str], secrets: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of a suite; nothing of the caller's own gets in.

    pytest is told through PYTEST_ADDOPTS where to write its reports; another runner writes them to $GREENROOM_JUNIT and
    $GREENROOM_COVERAGE.
    """
    junit, coverage = f"{reports}/junit.xml", f"{reports}/coverage.json"
    options = ["-p", "no:cacheprovider", f"--junitxml={junit}"]
    if suite.get("package"):
        options += [f"--cov={suite['package']}", f"--cov-report=json:{coverage}"]
    return {
        "LANG": "C.UTF-8", "HOME": "/tmp", "TMPDIR": "/tmp", "COLUMNS": "160",
        **{key: str(value) for key, value in {**env, **secrets}.items()},
        "PATH": f"{directory}/venv/bin:/usr/local/bin:/usr/bin:/bin", "VIRTUAL_ENV": f"{directory}/venv", "PYTHONDONTWRITEBYTECODE": "1",
        "COVERAGE_FILE": f"{reports}/coverage.data", "PYTEST_ADDOPTS": shlex.join(options),
        "GREENROOM_JUNIT": junit, "GREENROOM_COVERAGE": coverage,
    }  # fmt: skip


def unit_command(
    unit: str, user: str, directory: str, reports: str, limit_s: int, *, memory_mb: int, hidden: Iterable[str] = ()
) -> list[str]:
    """The argument list of systemd-run for one suite; what it runs and with which environment comes over standard input."""
    properties = [
        f"TimeoutStopSec={STOP_SECONDS}", "KillMode=control-group", "SendSIGKILL=yes", f"MemoryMax={memory_mb}M", "TasksMax=512",
        f"ReadWritePaths={reports}", *(f"InaccessiblePaths=-{path}" for path in hidden),
    ]  # fmt: skip
    start = transient_unit.command(unit, user, f"{directory}/src", limit_s, properties=properties)
    return [*start, "/usr/bin/python3", "-I", "-c", LAUNCHER]


def run_process(argv: list[str], job: Mapping, limit_s: float) -> dict:
    """Run `argv` with `job` as JSON on its standard input. Returns {status, output, seconds, started, timed_out}; never raises for
    what the program does. The program's own limit should end it; this one is the last resort."""
    started, clock = rec.utc_now(), time.monotonic()
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    timed_out = False
    try:
        output, _ = process.communicate(json.dumps(job).encode(), timeout=limit_s)
    except subprocess.TimeoutExpired:
        timed_out = True
        process.kill()
        output, _ = process.communicate()
    return {
        "status": process.returncode, "output": output.decode("utf-8", "replace"), "seconds": round(time.monotonic() - clock, 2),
        "started": started, "timed_out": timed_out,
    }  # fmt: skip


def unit_result(unit: str) -> str:
    """systemd's own word for how a unit ended: success, timeout, oom-kill, exit-code, … It is forgotten afterwards."""
    shown = subprocess.run(["systemctl", "show", "-p", "Result", "--value", unit], capture_output=True, text=True, check=False)
    subprocess.run(["systemctl", "stop", unit], capture_output=True, check=False)
    subprocess.run(["systemctl", "reset-failed", unit], capture_output=True, check=False)
    return shown.stdout.strip()


def run_suite(suite: Mapping, job: Mapping) -> dict:
    """Run one suite in its unit and read its reports.

    suite: {name, command, id, limit_s, allow_skipped, package, coverage_id, coverage_min}; the last three belong together;
    `with_secrets: false` keeps the job's secrets (the scratch database's address among them) from it.
    job: {run_id, user, directory, reports, env, secrets, memory_mb, hidden}; `directory` holds venv/ and src/, `reports` is root's folder.
    Returns {name, status, seconds, evidence: [record…], files: [path…], output: last lines}.
    """
    name, limit_s, command = suite["name"], int(suite["limit_s"]), shlex.split(suite["command"])
    reports = Path(job["reports"]) / name
    reports.mkdir(mode=0o700)
    _give(reports, job["user"])
    env = suite_environment(suite, job["directory"], str(reports), job["env"], job["secrets"] if suite.get("with_secrets", True) else {})
    unit = f"greenroom-tests-{re.sub(r'[^A-Za-z0-9]+', '-', job['run_id'])}-{name}"
    argv = unit_command(unit, job["user"], job["directory"], str(reports), limit_s, memory_mb=job["memory_mb"], hidden=job["hidden"])
    try:
        outcome = run_process(argv, {"env": env, "argv": command}, limit_s + STOP_SECONDS + 20)
    finally:
        result = unit_result(unit)
    outcome |= {"timed_out": outcome["timed_out"] or result == "timeout", "limit_s": limit_s}
    # The kernels before cgroup v2 do not tell systemd that the memory limit was the reason.
    outcome["killed"] = f"its process was killed; its memory limit is {job['memory_mb']} MiB" if result in ("oom-kill", "signal") else None
    hide = secret_parts(job["secrets"].values())
    return {**judged(suite, outcome, reports, hide), "name": name, "status": outcome["status"], "seconds": outcome["seconds"]}


def _give(path: Path, user: str) -> None:
    """Make `path` the property of `user`; of nobody else if this process is not root (then it is the user's already)."""
    if os.geteuid() == 0:
        import pwd

        entry = pwd.getpwnam(user)
        os.chown(path, entry.pw_uid, entry.pw_gid)


def judged(suite: Mapping, outcome: Mapping, reports: Path, hide: list[str]) -> dict:
    """Read what a suite left in `reports`, copy it beside that folder, and judge it: {evidence, files, output}."""
    files, totals, missing = [], None, None
    try:
        data = read_report(reports / "junit.xml")
        files.append(_keep(reports.parent / f"{suite['name']}.junit.xml", data, hide))
        totals = parse_junit(data)
    except ReportError as error:
        missing = str(error)
    evidence = [judge_tests(suite["id"], totals, outcome, allow_skipped=int(suite.get("allow_skipped") or 0), missing=missing)]
    if suite.get("coverage_id"):
        found, missing = None, None
        try:
            data = read_report(reports / "coverage.json")
            files.append(_keep(reports.parent / f"{suite['name']}.coverage.json", data, hide))
            found = parse_coverage(data, suite["package"])
        except ReportError as error:
            missing = str(error)
        tests_ran = bool(totals and totals["tests"] > totals["skipped"])
        evidence.append(judge_coverage(suite["coverage_id"], found, float(suite["coverage_min"]), missing=missing, tests_ran=tests_ran))
    output = masked(outcome["output"], hide)
    for item in evidence:
        if item.get("reason"):
            item["reason"] = masked(item["reason"], hide)
        if "skips" in item.get("detail", {}):
            item["detail"]["skips"] = [masked(text, hide) for text in item["detail"]["skips"]]
    passed = all(item["status"] == rec.PASS for item in evidence)
    if not passed:  # of a suite that passed it says nothing that the reports do not
        files.append(_keep(reports.parent / f"{suite['name']}.log", output.encode(), []))
    return {"evidence": evidence, "files": files, "output": [] if passed else output.splitlines()[-TAIL_LINES:]}


def _keep(path: Path, data: bytes, hide: Iterable[str]) -> str:
    """Write a report for fetching, without secrets; the folder is root's, so nobody else can put a link there first."""
    for secret in hide:
        data = data.replace(secret.encode(), MASK.encode())
    path.write_bytes(data)
    path.chmod(0o600)
    return str(path)


def run_suites(suites: list[Mapping], job: Mapping) -> list[dict]:
    """Run the suites side by side; the results in the order of `suites`. A suite that cannot be run leaves `error` records.

    The reports of an earlier run are removed first, so that none of them can be taken for this run's. Raises OSError.
    """
    reports = Path(job["reports"])
    if reports.exists():
        shutil.rmtree(reports)
    reports.mkdir(mode=0o755, parents=True)

    def one(suite: Mapping) -> dict:
        try:
            return run_suite(suite, job)
        except Exception as error:
            reason = masked(f"the tests could not be run: {type(error).__name__}: {error}", secret_parts(job["secrets"].values()))
            ids = [suite["id"], *([suite["coverage_id"]] if suite.get("coverage_id") else [])]
            evidence = [rec.record(id, rec.ERROR, reason=reason) for id in ids]
            return {"name": suite["name"], "status": None, "seconds": 0.0, "evidence": evidence, "files": [], "output": []}

    with ThreadPoolExecutor(max_workers=max(1, len(suites))) as pool:
        return list(pool.map(one, suites))
