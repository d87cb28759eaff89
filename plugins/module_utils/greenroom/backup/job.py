"""What the timers of a database host run: one job, its result kept as JSON, and metrics of it for node exporter, also when it failed.

    python -m greenroom.backup.job run full|incremental|logical|archive --config /etc/greenroom/<service>/backup.json     (as postgres)
    python -m greenroom.backup.job record … the same                                                              (as root, after it)

`run` leaves `work_dir/jobs/<job>.json`: first as unfinished, at the end with the result of each place. `record` writes the metrics from it;
systemd calls it however the job ended (ExecStopPost): a job that its time limit killed is seen too. Source: 004 L131 (backup job).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from ..durable import DurableError, locked, write_atomic
from . import archiver
from .errors import BackupError
from .repositories import Repositories

JOBS = ("full", "incremental", "logical", "archive")
KEYS = ("schema", "service", "side", "database", "places", "work_dir", "physical", "retention", "limits", "metrics_dir", "time_limit_s")


def read_config(path: str | os.PathLike) -> dict:
    """`backup.json` as docs/backups_configuration.md describes it. Raises BackupError naming the file and the keys that are missing."""
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BackupError(f"{path}: cannot be read ({error.strerror}). Run the role db_backup") from error
    except ValueError as error:
        raise BackupError(f"{path}: is no JSON ({error}). Run the role db_backup") from error
    missing = [key for key in KEYS if key not in config] if isinstance(config, dict) else list(KEYS)
    if missing:
        raise BackupError(f"{path}: lacks {', '.join(missing)}. Run the role db_backup")
    if config["schema"] != 1:
        raise BackupError(f"{path}: has schema {config['schema']!r}, this version reads 1. Run the role db_backup")
    return config


def result_file(config: Mapping, job: str) -> Path:
    """Where the result of a job lies."""
    return Path(config["work_dir"]) / "jobs" / f"{job}.json"


def read_result(config: Mapping, job: str) -> dict:
    """The newest result of a job, {} if it never ran.

    {job, started, ended (null: it runs, or was killed), places: {name: {ok, reason, bytes, id}}, success: {name: time}, figures}; in s.
    """
    try:
        return json.loads(result_file(config, job).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def run(config: Mapping, job: str, now=time.time) -> dict:
    """Do one job and keep its result; each place is tried, whatever happened to the other. Never raises for a failed backup."""
    success = read_result(config, job).get("success", {})
    result = {"job": job, "started": now(), "ended": None, "places": {}, "success": success, "figures": {}}
    file = result_file(config, job)
    write_atomic(file, json.dumps(result).encode())
    try:
        if job == "archive":
            _archive(config, result)
        elif job == "logical":
            _logical(config, result)
        else:
            _physical(config, job, result)
    except (BackupError, DurableError, OSError) as error:
        for place in _names(config, job):
            result["places"].setdefault(place, {"ok": False, "reason": str(error), "bytes": None})
    result["ended"] = now()
    for place, told in result["places"].items():
        if told["ok"]:
            success[place] = result["ended"]
    write_atomic(file, json.dumps(result).encode())
    return result


def _names(config: Mapping, job: str) -> list[str]:
    if job == "logical":
        return [one["name"] for one in config["places"]]
    return [one["place"] for one in config["physical"]["repositories"]]


def _physical(config: Mapping, job: str, result: dict) -> None:
    """A physical backup into each repository, one after the other; what is old goes only from a repository that has a new full one."""
    repositories, keep = Repositories(config, config["time_limit_s"]), config["retention"]
    with locked(Path(config["work_dir"]) / "physical.lock", config["time_limit_s"]):
        for place in repositories.places:
            try:
                made = repositories.backup(place, job)
            except (BackupError, KeyError, ValueError) as error:
                result["places"][place] = {"ok": False, "reason": str(error), "bytes": None}
                continue
            told = {"ok": True, "reason": None, "bytes": made["repo_size"]} | {key: made[key] for key in ("label", "type", "size")}
            result["places"][place] = {**told, "id": made["label"]}
            if made["type"] == "full":
                try:
                    result["places"][place]["retention"] = repositories.expire(place, keep["full"], keep["days"])
                except (BackupError, KeyError, ValueError) as error:  # the backup is good all the same
                    result["places"][place]["retention"] = {"error": str(error)}


def _logical(config: Mapping, result: dict) -> None:
    """The logical backup, made by a process of its own: it prints what became of it in each place."""
    argv = [sys.executable, "-m", "greenroom.backup", "dump", "--config", config["file"]]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL, timeout=config["time_limit_s"]
        )
    except subprocess.TimeoutExpired as error:
        raise BackupError(f"the logical backup took more than {config['time_limit_s']:g} s and was ended") from error
    try:
        told = json.loads(done.stdout)
        places = dict(told["places"])
    except (ValueError, TypeError, KeyError):
        told, places = {}, {}
    said = " ".join(done.stderr.split())[-1500:] or f"the logical backup ended with status {done.returncode} and said nothing"
    failed = [name for name, one in places.items() if one.get("ok") is False]
    believed = done.returncode == 0 or (done.returncode == 1 and bool(failed))
    for name in _names(config, "logical"):
        one = places.get(name) or {"ok": False, "reason": said}
        # Neither the status nor the place's own word alone is believed: a status of 1 must be borne out by a place that failed.
        good = believed and one.get("ok") is True
        size = one.get("bytes", told.get("bytes"))
        result["places"][name] = {"ok": good, "reason": None if good else one.get("reason") or said, "bytes": size, "id": told.get("id")}


def _archive(config: Mapping, result: dict) -> None:
    """The state of the WAL archive: what the server says, and whether each repository answers with a sound stanza."""
    repositories = Repositories(config)
    for place in repositories.places:
        try:
            repositories.look(place)
            sound, reason = True, None
        except BackupError as error:
            sound, reason = False, str(error)
        result["places"][place] = {"ok": sound, "reason": reason, "bytes": None}
    figures = archiver.look(config)
    result["figures"] = {**figures, "failing": archiver.failing(figures)}


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status. 0: done; 1: a place has no backup, or the archive fails; 2: it could not begin."""
    from . import job_metrics

    parser = argparse.ArgumentParser(prog="python -m greenroom.backup.job", description="One job of the backups, and its metrics.")
    parser.add_argument("command", choices=("run", "record"))
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("--config", required=True)
    given = parser.parse_args(arguments)
    try:
        config = {**read_config(given.config), "file": given.config}
        if given.command == "record":
            job_metrics.write(config, given.job, os.environ.get("SERVICE_RESULT", "success"))
            return 0
        result = run(config, given.job)
    except (BackupError, OSError) as error:
        print(f"backup {given.job}: {error}", file=sys.stderr)
        return 2
    faults = [f"{place}: {told['reason']}" for place, told in result["places"].items() if not told["ok"]]
    for place, told in result["places"].items():
        if why := told.get("retention", {}).get("error"):
            faults.append(f"{place}: what is old stays: {why}")
    if failing := result["figures"].get("failing"):
        faults.append(f"WAL archive: {failing}")
    for fault in faults:
        print(f"backup {given.job}: {fault}", file=sys.stderr)
    if not faults:
        with contextlib.suppress(BrokenPipeError):
            print(f"backup {given.job}: " + "; ".join(f"{place} {told.get('id') or 'sound'}" for place, told in result["places"].items()))
    return 1 if faults or not result["places"] else 0


if __name__ == "__main__":
    sys.exit(main())
