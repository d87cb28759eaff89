"""Callback of Greenroom's own playbooks: run id, evidence, report, summary and exit status (docs/evidence.md)."""

from __future__ import annotations

DOCUMENTATION = r"""
name: greenroom
type: notification
short_description: Keeps the evidence of a run and writes its report
description:
  - Works beside the stdout callback, for playbooks in which a play has the variable C(greenroom_phase); it does nothing for others.
  - Makes the run id when the playbook starts and puts it into the environment as E(GREENROOM_RUN_ID), the run's folder as
    E(GREENROOM_RUN_DIR). The folder is made when the first such play starts; if it cannot be written, the run ends there with status 3.
  - Appends every record of a result's C(evidence) to C(evidence.jsonl) in that folder. An unreachable host leaves an C(error) record.
  - Takes what a result has in C(greenroom) (a mapping) as facts of the run, C(lease_held=true) as the moment from which a failure is
    status 2, and C(greenroom_exit) of a failed task (or among the task's C(vars)) as the exit status.
  - When the run ends it writes the reports, prints a summary and sets the exit status. 0 is done, 2 failed, 3 inputs refused, 4 a person
    is needed, 75 somebody else holds the lease. Status 0 is given only with a report that passed.
options:
  reports:
    description: Folder of the reports. The default is C(reports) in the project.
    type: path
    env: [{name: GREENROOM_REPORTS}]
    ini: [{section: callback_greenroom, key: reports}]
  keep:
    description: How many of the newest runs stay in the folder of reports.
    type: int
    default: 30
    env: [{name: GREENROOM_REPORTS_KEEP}]
    ini: [{section: callback_greenroom, key: keep}]
  patience:
    description: Seconds after which a running task is mentioned again, with the hosts it waits for; then at doubled intervals.
    type: float
    default: 15
    env: [{name: GREENROOM_PATIENCE}]
    ini: [{section: callback_greenroom, key: patience}]
author: Greenroom (@greenroom)
"""

import atexit
import datetime
import functools
import getpass
import json
import os
import secrets
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import ansible.module_utils
from ansible import constants as C
from ansible import context
from ansible.plugins.callback import CallbackBase

_LIBRARY = str(Path(__file__).resolve().parents[1] / "module_utils")
if _LIBRARY not in ansible.module_utils.__path__:
    # Ansible adds the project's library to what it ships to hosts; on the control node nobody does it for a callback.
    ansible.module_utils.__path__.append(_LIBRARY)

from ansible.module_utils.greenroom import gate, report
from ansible.module_utils.greenroom import records as rec

UNREACHABLE_ID = "prep.server.reachable"
STATUSES = (report.EXIT_FAILED, report.EXIT_REFUSED, report.EXIT_PERSON, report.EXIT_BUSY)
FRAME = ("entry", "close")  # phases around the work, not counted in `phase 2 of 5`


def guarded(method):
    """Ansible only warns when a callback raises. Here an exception is kept, shown at the end, and makes the run fail."""

    @functools.wraps(method)
    def wrapper(self, *args, **kwargs):
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            self.note_error(f"{method.__name__}: {type(error).__name__}: {error}")

    return wrapper


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "greenroom"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.active = False
        self._reset()

    def _reset(self) -> None:
        self.run_id: str | None = None
        self.run_dir: Path | None = None
        self.playbook = ""
        self.started = ""
        self.clock = 0.0
        self.planned: list[str] = []
        self.selected: list[str] = []
        self.phases: list[dict] = []
        self.phase: str | None = None
        self.phase_clock = 0.0
        self.facts: dict = {}
        self.catalogue, self.catalogues = None, []
        self.gated: list[list[str]] = []
        self.failures: list[dict] = []
        self.lines = 0
        self.lease_held = False
        self.touched = False
        self.tasks_run = 0
        self.exit_wanted: int | None = None
        self.errors: list[str] = []
        self.task: tuple[str, float, set] | None = None
        self.ticker: Ticker | None = None
        self.active = False

    def note_error(self, message: str) -> None:
        """Remember what went wrong in here and say it at once on stderr."""
        if message not in self.errors:
            self.errors.append(message)
            print(f"greenroom: the record of this run is damaged: {message}", file=sys.stderr, flush=True)

    # Beginning of a run

    @guarded
    def v2_playbook_on_start(self, playbook):
        self._reset()
        for play in playbook.get_plays():
            phase = play.get_vars().get("greenroom_phase")
            if phase and phase not in self.planned:
                self.planned.append(phase)
            if phase and phase not in self.selected and selected_by_tags(play.tags):
                self.selected.append(phase)
        if not self.planned:
            return
        now = datetime.datetime.now(datetime.UTC)
        self.started, self.clock = rec.utc_now(), time.monotonic()
        self.run_id = f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        folder = Path(self.get_option("reports") or report.PROJECT / "reports")
        self.run_dir = folder.absolute() / self.run_id
        name = Path(playbook._file_name).absolute()
        self.playbook = str(name.relative_to(report.PROJECT)) if name.is_relative_to(report.PROJECT) else name.name
        os.environ.update(GREENROOM_RUN_ID=self.run_id, GREENROOM_RUN_DIR=str(self.run_dir), GREENROOM_EVIDENCE_LINES="0")

    @guarded
    def v2_playbook_on_play_start(self, play):
        phase = play.get_vars().get("greenroom_phase")
        if self.run_id and phase and not self.active:
            self._open()
        if self.active and phase:
            self._enter(phase)

    def _open(self) -> None:
        """Make the run's folder and prove that it can be written, before anything else happens."""
        try:
            self.run_dir.mkdir(parents=True)
            (self.run_dir / "evidence.jsonl").touch(exist_ok=False)
            self.active = True
            self._save_run()
        except OSError as error:
            self.active = False
            print(
                f"greenroom: {self.run_dir} cannot be written: {error.strerror or error}. Nothing was touched. Free space there, or set"
                " GREENROOM_REPORTS to another folder.",
                file=sys.stderr,
            )
            raise SystemExit(report.EXIT_REFUSED) from error
        self._read_catalogue()
        atexit.register(self._at_exit, os.getpid())
        self.ticker = Ticker(self)
        self.ticker.start()

    def _enter(self, phase: str) -> None:
        if phase == self.phase:
            return
        self._leave()
        self.phase, self.phase_clock = phase, time.monotonic()
        if phase in self.selected:
            self._begin()

    def _begin(self) -> None:
        """The phase is really run: it gets its place in the timeline and a line on the terminal."""
        if not any(item["name"] == self.phase for item in self.phases):
            self.phases.append({"name": self.phase, "start_s": round(time.monotonic() - self.clock, 2), "seconds": 0.0})
        self._save_run()
        self._display.display(f"── {self.position()}", color=C.COLOR_HIGHLIGHT)

    def _leave(self) -> None:
        for item in self.phases:
            if item["name"] == self.phase:
                item["seconds"] = round(item["seconds"] + time.monotonic() - self.phase_clock, 2)
        self.phase = None

    def position(self) -> str:
        """`phase 2 of 5: release, 1 min 04 s since the start`."""
        counted = [name for name in self.planned if name in self.selected and name not in FRAME]
        since = f", {report.duration(elapsed)} since the start" if (elapsed := time.monotonic() - self.clock) > 1 else ""
        number = f"phase {counted.index(self.phase) + 1} of {len(counted)}: " if self.phase in counted else ""
        return f"{number}{self.phase}{since}"

    # Tasks and their results

    @guarded
    def v2_playbook_on_task_start(self, task, is_conditional):
        if self.active:
            self.task = (task.get_name(), time.monotonic(), set())

    v2_playbook_on_handler_task_start = guarded(lambda self, task: self.v2_playbook_on_task_start(task, False))
    v2_playbook_on_cleanup_task_start = v2_playbook_on_handler_task_start

    @guarded
    def v2_runner_on_start(self, host, task):
        if self.active and self.task:
            self.task[2].add(host.get_name())
            self.tasks_run += 1
            if self.phase and self.phase not in self.selected:
                self.selected.append(self.phase)  # the play was not asked for by its tags, but a task in it was
                self._begin()

    @guarded
    def v2_runner_on_ok(self, result):
        self._done(result)
        self._collect(result)
        self.touched |= result.is_changed() and self.phase != "entry" and not context.CLIARGS.get("check")

    @guarded
    def v2_runner_on_skipped(self, result):
        self._done(result)
        self._collect(result)  # a loop with skipped and finished items is reported as skipped only if all were

    @guarded
    def v2_runner_on_failed(self, result, ignore_errors=False):
        self._done(result)
        collected = self._collect(result)
        if not self.active or ignore_errors:
            return
        wanted = next((found["greenroom_exit"] for found in parts(result.result) if "greenroom_exit" in found), None)
        wanted = result.task.get_vars().get("greenroom_exit") if wanted is None else wanted
        if wanted is not None:
            if wanted in STATUSES:
                self.exit_wanted = wanted
            else:
                self.note_error(f"task {result.task_name!r}: greenroom_exit must be one of {STATUSES}, not {wanted!r}")
        covered = any(isinstance(item, dict) and item.get("status") in gate.BLOCKING for item in collected)
        # A gate's message lists the blockers that the report lists as well.
        covered = covered or any(found.get("blockers") and "verdict" in found for found in parts(result.result))
        self._fail(result, message_of(result.result), covered)

    @guarded
    def v2_runner_on_unreachable(self, result):
        self._done(result)
        self._collect(result)
        if not self.active:
            return
        host = delegate(result) or result.host.get_name()
        message = message_of(result.result) or "unreachable"
        reason = f"unreachable: {message}"
        self._append([rec.record(UNREACHABLE_ID, rec.ERROR, "reachable", "unreachable", reason=reason, host=host)])
        if not result.task.ignore_unreachable:
            self._fail(result, reason, True)

    def _done(self, result) -> None:
        if self.task:
            self.task[2].discard(result.host.get_name())

    def _fail(self, result, message: str, in_evidence: bool) -> None:
        where = str(result.task.get_path() or "")
        prefix = f"{report.PROJECT}{os.sep}"
        self.failures.append({
            "phase": self.phase, "host": delegate(result) or result.host.get_name(), "task": result.task.get_name(),
            "reason": message or "failed without a message", "where": where.removeprefix(prefix), "in_evidence": in_evidence,
        })  # fmt: skip

    def _collect(self, result) -> list:
        """Take evidence, facts and the lease out of a result and of its loop items; returns the evidence."""
        if not self.active:
            return []
        taken: list = []
        for found in parts(result.result):
            if found.get("lease_held") is True:
                self.lease_held = True
            if isinstance(found.get("greenroom"), dict):
                self._note_facts(found["greenroom"])
            evidence = found.get("evidence")
            if isinstance(evidence, list):
                taken += evidence
            elif evidence is not None:
                self.note_error(f"task {result.task_name!r} on {result.host.get_name()}: evidence is no list")
        host = result.host.get_name()
        if result.task.run_once and delegate(result):
            host = delegate(result)  # the inventory host is an arbitrary one then
        self._append(taken, host)
        return taken

    def _note_facts(self, facts: dict) -> None:
        """Merge facts of the run. `catalogues` are read at once; `gated` (phases that a gate judged) are kept one by one."""
        facts = rec.plain(facts)
        catalogues = facts.pop("catalogues", None)
        gated = facts.pop("gated", None)
        if gated:
            self.gated.append(list(gated))
        self.facts.update(facts)
        if catalogues and catalogues != self.catalogues:
            self.catalogues = list(catalogues)
            self._read_catalogue()
        self._save_run()

    def _read_catalogue(self) -> None:
        self.catalogue, faults = report.load_catalogue(self.catalogues)
        for fault in faults:
            self.note_error(fault)

    def _append(self, items: list, host: str | None = None) -> None:
        """Append records to evidence.jsonl in one write, synced. What is no valid record is written as it is: the gate names it."""
        if not items:
            return
        lines = []
        for item in items:
            if isinstance(item, dict):
                item = {"host": host, "started": rec.utc_now(), **{key: value for key, value in item.items() if value is not None}}
                entry = self.catalogue.get(item.get("id"))
                if entry:
                    item |= {"kind": entry.kind, "phase": entry.phase, "title": entry.title, "source": list(entry.source)}
                item.setdefault("expected", None)
                item.setdefault("observed", None)
                item = {key: item[key] for key in (*rec.KEYS, *item) if key in item}
            lines.append(json.dumps(rec.plain(item), ensure_ascii=False, allow_nan=False) + "\n")
        self.lines += len(lines)
        os.environ["GREENROOM_EVIDENCE_LINES"] = str(self.lines)
        data = "".join(lines).encode("utf-8", "backslashreplace")
        try:
            handle = os.open(self.run_dir / "evidence.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            try:
                written = os.write(handle, data)
                os.fsync(handle)
            finally:
                os.close(handle)
            if written != len(data):
                raise OSError(f"only {written} of {len(data)} bytes were written")
        except OSError as error:
            self.note_error(f"{self.run_dir}/evidence.jsonl: {error.strerror or error}")

    # End of a run

    def _run(self, exit_status: int | None, interrupted: bool) -> dict:
        """The content of run.json: everything a report needs beside the evidence."""
        return {
            "run_id": self.run_id, "playbook": self.playbook, "started": self.started, "finished": rec.utc_now(),
            "duration_s": round(time.monotonic() - self.clock, 1), "check": bool(context.CLIARGS.get("check")), "user": user(),
            "control_node": socket.gethostname(), "tags": list(context.CLIARGS.get("tags") or []), "facts": self.facts,
            "catalogues": self.catalogues, "planned": self.planned,
            "selected": [name for name in self.planned if name in self.selected], "phases": self.phases, "gated": self.gated,
            "failures": self.failures, "exit_status": exit_status, "interrupted": interrupted, "evidence_lines": self.lines,
            "errors": self.errors,
        }  # fmt: skip

    def _save_run(self) -> None:
        """Keep run.json current, so that a run that is killed still gets a report (`scripts/report`)."""
        report.write_atomically(self.run_dir / "run.json", json.dumps(rec.plain(self._run(report.EXIT_FAILED, True)), ensure_ascii=False))

    def _exit_status(self, failed: bool) -> int:
        if not failed:
            return report.EXIT_DONE
        if self.exit_wanted is not None:
            return self.exit_wanted
        if self.lease_held or self.touched:
            return report.EXIT_FAILED
        first = self.failures[0]["phase"] if self.failures else self.phase
        takes_lease = "entry" in self.planned and not context.CLIARGS.get("check")
        return report.EXIT_REFUSED if takes_lease or first == "entry" else report.EXIT_FAILED

    def _finish(self, failed: bool, interrupted: bool = False) -> int:
        """Write the reports, print the summary; returns the exit status."""
        if self.ticker:
            self.ticker.stop()
        self._leave()
        self.active = False
        if not self.tasks_run and not failed:
            # Tags or a limit that match nothing end green in Ansible. Here a run that did nothing has proven nothing.
            reason = "no task was run: the tags or the limit match nothing"
            self.failures.append({"phase": None, "host": "all", "task": "any", "reason": reason, "where": "", "in_evidence": False})
            failed, self.exit_wanted, self.phases = True, report.EXIT_REFUSED, []
        status = self._exit_status(failed)
        made = None
        try:
            run = self._run(status, interrupted)
            made = report.make(run, self.run_dir)
            report.write_atomically(self.run_dir / "run.json", json.dumps(rec.plain(run), ensure_ascii=False))
            report.save(made, self.run_dir)
            self._point_latest()
            self._prune()
        except Exception as error:  # whatever it is, the run must not end green without its report
            self.note_error(f"the report in {self.run_dir}: {getattr(error, 'strerror', None) or error}")
        status = made["exit_status"] if made else status
        if self.errors and status == report.EXIT_DONE:
            status = report.EXIT_FAILED
        self._summary(made, status)
        return status

    def v2_playbook_on_stats(self, stats):
        # Errors without an open run: it could not even be started properly, so nothing of it is proven.
        status = self._finish(bool(stats.failures or stats.dark)) if self.active else report.EXIT_FAILED if self.errors else 0
        if status:
            sys.stdout.flush()
            raise SystemExit(status)

    def _at_exit(self, pid: int) -> None:
        """An interrupt or an error of Ansible itself ends a run without statistics; its report is written all the same."""
        if self.active and os.getpid() == pid:
            self._finish(True, interrupted=True)

    def _point_latest(self) -> None:
        beside = self.run_dir.parent / f".latest.{self.run_id}"
        beside.symlink_to(self.run_id)
        beside.replace(self.run_dir.parent / "latest")

    def _prune(self) -> None:
        runs = sorted(path for path in self.run_dir.parent.iterdir() if report.RUN_ID.fullmatch(path.name) and path.is_dir())
        for path in runs[: -max(self.get_option("keep"), 1)]:
            if path != self.run_dir:
                shutil.rmtree(path)

    def _summary(self, made: dict | None, status: int) -> None:
        show = self._display.display
        colors = {"pass": C.COLOR_OK, "fail": C.COLOR_ERROR, "incomplete": C.COLOR_WARN, "not_run": C.COLOR_SKIP}
        show("")
        if made:
            width = max(len(phase["name"]) for phase in made["phases"])
            for phase in made["phases"]:
                seconds = report.duration(phase["seconds"]) if phase["seconds"] is not None else ""
                checks = phase["reason"] or (f"{phase['passed']} of {phase['required']} checks" if phase["required"] else "")
                line = f"  {phase['name']:{width}}  {seconds:>12}  {report.phase_word(phase):12}  {checks}"
                show(line.rstrip(), color=colors[phase["verdict"]])
            show("")
            loose = made["failures"] if made["exit_status"] else []
            for line in [*gate.describe_all(made["blockers"]), *map(report.failure_line, loose)]:
                show(f"  - {line}", color=C.COLOR_ERROR)
        for error in self.errors:
            show(f"  - the record of this run is damaged: {error}", color=C.COLOR_ERROR)
        good = status == report.EXIT_DONE and not self.errors
        told = made["sentence"] if made and status == made["exit_status"] else report.WORDS[report.VERDICTS[status]]
        show(told, color=C.COLOR_OK if good else C.COLOR_ERROR)
        page = self.run_dir / "report.html"
        if page.exists():
            place = os.path.relpath(page) if page.is_relative_to(Path.cwd()) else page
            show(f"Report: {place}" + (f"  (exit status {status})" if status else ""))


class Ticker(threading.Thread):
    """Says what a long task waits for, at growing intervals, so that a person never looks at a silent terminal."""

    def __init__(self, callback: CallbackModule):
        super().__init__(daemon=True)
        self.callback = callback
        self.patience = max(callback.get_option("patience"), 0.1)
        self.ended = threading.Event()

    def run(self) -> None:
        told: tuple | None = None
        due = self.patience
        while not self.ended.wait(min(self.patience / 3, 1)):
            task = self.callback.task
            if task is None or not task[2]:
                continue
            if told is not task:
                told, due = task, self.patience
            name, since, hosts = task
            waited = time.monotonic() - since
            if waited >= due:
                due = min(due * 2, due + 60)
                names = sorted(set(hosts))
                more = f" and {len(names) - 6} more" if len(names) > 6 else ""
                text = f"   … {report.duration(waited)} in \"{name}\", waiting for {', '.join(names[:6])}{more}"
                self.callback._display.display(f"{text} ({self.callback.position()})", color=C.COLOR_VERBOSE)
                sys.stdout.flush()

    def stop(self) -> None:
        self.ended.set()
        self.join(timeout=2)


def selected_by_tags(tags: list) -> bool:
    """Whether a play with these tags is asked for on the command line, by Ansible's own rules."""
    tags = set(tags) or {"untagged"}
    only, skip = set(context.CLIARGS.get("tags") or ["all"]), set(context.CLIARGS.get("skip_tags") or [])
    named = "tagged" in only and "untagged" not in tags and "never" not in tags
    wanted = "always" in tags or ("all" in only and "never" not in tags) or bool(tags & only) or named
    if "all" in skip:
        return wanted and "always" in tags and "always" not in skip
    return wanted and not tags & skip and not ("tagged" in skip and "untagged" not in tags)


def parts(result: dict) -> Iterator[dict]:
    """The result itself and, for a loop, the results of its items."""
    yield result
    items = result.get("results")
    if isinstance(items, list):
        yield from (item for item in items if isinstance(item, dict))


def delegate(result) -> str | None:
    """The host a task was delegated to, by its inventory name; None if it was not."""
    found = result.task_fields.get("delegate_to")
    return found if isinstance(found, str) and found and "{{" not in found else None


def message_of(result: dict) -> str:
    """Why a task failed, in Ansible's words after its own censoring; of a loop, what its failed items say. Never its arguments."""
    failed = [item for item in parts(result) if item is not result and (item.get("failed") or item.get("unreachable"))]
    found = list(dict.fromkeys(gate.shorten(item["msg"], 600) for item in failed if item.get("msg")))
    if found:
        return "; ".join(found[:5]) + (f"; and {len(found) - 5} more" if len(found) > 5 else "")
    text = result.get("msg") or result.get("censored") or ""
    return gate.shorten(text, 1500) if not isinstance(text, str) or "\n" not in text else text.strip()[:3000]


def user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None
