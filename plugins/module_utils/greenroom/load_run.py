"""Runs a service's locust file without a screen, in a transient unit with a limit, and a sampler on every host beside it.

The generator's environment is installed like the service's own tests: offline, by digest, in `directory` (venv/ and src/). Its variables
reach it through an environment file below /run that is gone again when locust has started. Sources: 000 phase 6, 001 §6.1; runbook
weaknesses C1, C2 (locust without --headless waits for a person; one profile, in one place).
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from . import env_file, load_profile, load_samples, transient_unit
from .durable import write_atomic

RUN_FOLDER = Path("/run/greenroom")
PAGE, LOG = "locust.html", "locust.log"
WAIT_STEP_S = 1.0


class LoadError(Exception):
    """The load cannot be started or its result not be read; the text says where and what to do."""


def unit_name(run_id: str, what: str) -> str:
    """Name of the unit of a run: `what` is `generator` or `sampler`."""
    return f"greenroom-load-{re.sub(r'[^A-Za-z0-9]+', '-', run_id)}-{what}.service"


def settings(job: Mapping) -> dict:
    """What the recorder beside the locust file is told, as $GREENROOM_LOAD."""
    profile = job["profile"]
    return {"folder": f"{job['folder']}/out", **{key: profile[key] for key in ("users", "pace_rps", "request_timeout_s")}}


def environment(job: Mapping) -> dict[str, str]:
    """The whole environment of locust; nothing of the caller's own gets in."""
    directory = job["directory"]
    return {
        "LANG": "C.UTF-8", "HOME": "/tmp", "TMPDIR": "/tmp",
        **{key: str(value) for key, value in {**job["env"], **job["secrets"]}.items()},
        **(dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"), job["ca_file"]) if job.get("ca_file") else {}),
        "PATH": f"{directory}/venv/bin:/usr/local/bin:/usr/bin:/bin", "VIRTUAL_ENV": f"{directory}/venv", "PYTHONDONTWRITEBYTECODE": "1",
        "GREENROOM_LOAD": json.dumps(settings(job)),
    }  # fmt: skip


def locust_command(job: Mapping, port: int) -> list[str]:
    """The argument list of locust; `port` is where its processes find each other, on loopback."""
    profile, folder = job["profile"], job["folder"]
    distributed = [
        "--processes", str(profile["processes"]), "--expect-workers", str(profile["processes"]), "--expect-workers-max-wait", "30",
        "--master-bind-host", "127.0.0.1", "--master-bind-port", str(port), "--master-port", str(port),
    ]  # fmt: skip
    return [
        f"{job['directory']}/venv/bin/locust", "--headless", "--only-summary", "--exit-code-on-error", "0",
        "-f", f"{job['directory']}/src/{job['profile']['file']},{job['recorder']}", "--host", job["url"],
        "--users", str(profile["users"]), "--spawn-rate", str(profile["spawn_rate"]), "--run-time", f"{load_profile.run_time_s(profile)}s",
        "--stop-timeout", str(profile["request_timeout_s"] + 5), "--html", f"{folder}/out/{PAGE}",
        *(distributed if profile["processes"] > 1 else []),
    ]  # fmt: skip


def free_port() -> int:
    """A TCP port of loopback that nobody uses just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def hosts_file(job: Mapping, system: str = "/etc/hosts") -> str:
    """The system's hosts file, with the service's name at the address that is to be loaded."""
    lines = Path(system).read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join([f"{job['connect']} {urlsplit(job['url']).hostname}", *lines]) + "\n"


def prepare(job: Mapping) -> None:
    """Make the run's folder; what an earlier run has left in it is removed first. Raises LoadError or OSError."""
    folder, source = Path(job["folder"]), Path(job["directory"]) / "src" / job["profile"]["file"]
    if not source.is_file():
        raise LoadError(f"{source}: there is no locust file. Correct load.file in the contract, or commit the file")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o755, parents=True)
    (folder / "out").mkdir(mode=0o700)
    shutil.chown(folder / "out", job["user"], job["user"])
    if job.get("connect"):
        (folder / "hosts").write_text(hosts_file(job), encoding="utf-8")


def start(job: Mapping) -> None:
    """Start the generator in its unit.

    job: {run_id, user, directory, folder, recorder, url, connect, ca_file, profile, env, secrets, memory_mb, hidden}, the arguments of
    the module load_test. Raises LoadError.
    """
    prepare(job)
    unit, folder, profile = unit_name(job["run_id"], "generator"), job["folder"], job["profile"]
    transient_unit.stop(unit)
    RUN_FOLDER.mkdir(mode=0o700, exist_ok=True)
    variables = RUN_FOLDER / f"{unit}.env"
    properties = [
        "TimeoutStopSec=5", "KillMode=control-group", f"MemoryMax={job['memory_mb']}M", "LimitNOFILE=65536", f"ReadWritePaths={folder}/out",
        # ZeroMQ, by which locust's processes talk, aborts if it may not set its threads' scheduling and list interfaces (seen with 27.3).
        "SystemCallFilter=sched_setscheduler", "RestrictAddressFamilies=AF_NETLINK",
        f"StandardOutput=append:{folder}/{LOG}", "StandardError=inherit", f"EnvironmentFile={variables}",
        *(f"InaccessiblePaths=-{path}" for path in job["hidden"]),
        *([f"BindReadOnlyPaths={folder}/hosts:/etc/hosts"] if job.get("connect") else []),
    ]  # fmt: skip
    argv = transient_unit.command(
        unit, job["user"], f"{job['directory']}/src", load_profile.limit_s(profile), properties=properties, wait=False
    )
    try:
        write_atomic(variables, env_file.render(environment(job)).encode(), mode=0o600)
        done = subprocess.run([*argv, *locust_command(job, free_port())], capture_output=True, text=True, timeout=30, check=False)
    finally:
        variables.unlink(missing_ok=True)
    if done.returncode:
        raise LoadError(f"the load generator was not started: {done.stderr.strip()[-500:]}. Journal: journalctl -u {unit}")


def wait(job: Mapping, patience_s: float) -> dict:
    """Wait for the generator's end, at most `patience_s` seconds. {finished, progress}, see load_samples.progress."""
    unit, until = unit_name(job["run_id"], "generator"), time.monotonic() + patience_s
    while (found := transient_unit.state(unit))["running"] and time.monotonic() < until:
        time.sleep(min(WAIT_STEP_S, max(0.0, until - time.monotonic())))
    return {"finished": not found["running"], "progress": load_samples.progress(Path(job["folder"]) / "out", job["profile"])}


def samples_file(folder: str) -> Path:
    """Where the sampler of a run writes: beside the run's folder, which the generator's start empties."""
    return Path(f"{folder}-samples", "samples.jsonl")


def remove(run_id: str, folder: str) -> None:
    """End both units of a run and remove what it left on this host. Raises OSError."""
    for what in ("generator", "sampler"):
        transient_unit.stop(unit_name(run_id, what))
    for path in (Path(folder), samples_file(folder).parent):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)


def start_sampler(run_id: str, folder: str, seconds: int, *, library: str, python: str = "/usr/bin/python3") -> None:
    """Start sampling this host for `seconds`, in a unit that ends by itself. Raises LoadError."""
    unit = unit_name(run_id, "sampler")
    transient_unit.stop(unit)
    out = samples_file(folder)
    out.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    # Not hardened like foreign code: it is this library, and it reads the host's own figures.
    argv = [
        "systemd-run", "--quiet", f"--unit={unit}", f"--property=RuntimeMaxSec={seconds + 10}", "--property=Nice=-5",
        f"--setenv=PYTHONPATH={library}", "--setenv=PYTHONDONTWRITEBYTECODE=1", "--",
        python, "-m", "greenroom.load_sampler", "--out", str(out), "--seconds", str(seconds),
    ]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise LoadError(f"sampling was not started: {done.stderr.strip()[-500:]}")


def output_tail(folder: str, lines: int = 30) -> list[str]:
    """The last lines of locust's own output."""
    try:
        return Path(folder, LOG).read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    except OSError:
        return []
