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
import os
import secrets
import sys
import threading
import time
from pathlib import Path

import ansible.module_utils
from ansible import constants as C
from ansible import context
from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import filter_loader, lookup_loader, test_loader

_LIBRARY = str(Path(__file__).resolve().parents[1] / "module_utils")
if _LIBRARY not in ansible.module_utils.__path__:
    # Ansible adds the project's library to what it ships to hosts; on the control node nobody does it for a callback.
    ansible.module_utils.__path__.append(_LIBRARY)

from ansible.module_utils.greenroom import render, report
from ansible.module_utils.greenroom.run_log import RunLog

COLORS = {"pass": C.COLOR_OK, "fail": C.COLOR_ERROR, "incomplete": C.COLOR_WARN, "not_run": C.COLOR_SKIP}


def guarded(method):
    """Ansible only warns when a callback raises. Here an exception is kept, shown at the end, and makes the run fail."""

    @functools.wraps(method)
    def wrapper(self, *args, **kwargs):
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            self.broken(f"{method.__name__}: {type(error).__name__}: {error}")

    return wrapper


def warm_up() -> None:
    """Load the filters, tests and lookups now, in the process that every task is a fork of.

    Ansible lets Python write no bytecode, so each fork would compile them and the library anew, for every task and host: more than half
    of a run's processor time (seen with ansible-core 2.19).
    """
    for loader, some in ((filter_loader, "addresses_of"), (test_loader, "defined")):
        loader.get(some)
    for some in ("env", "template", "vars", "varnames"):
        lookup_loader.get(f"ansible.builtin.{some}")


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "greenroom"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._reset()

    def _reset(self) -> None:
        self.log: RunLog | None = None  # of a playbook of Greenroom's own
        self.active = False  # its folder is there, and it has not ended
        self.early_error = False
        self.task: tuple[str, float, set] | None = None  # name, since when, hosts it waits for
        self.ticker: Ticker | None = None

    def broken(self, message: str) -> None:
        """Something in here failed, so the record of the run is not whole."""
        if self.log:
            self.log.error(message)
        else:
            self.early_error = True
            self._tell(message)

    def _tell(self, message: str) -> None:
        print(f"greenroom: the record of this run is damaged: {message}", file=sys.stderr, flush=True)

    # Beginning

    @guarded
    def v2_playbook_on_start(self, playbook):
        self._reset()
        plays = [play for play in playbook.get_plays() if "never" not in play.tags or selected_by_tags(play.tags)]
        asked = [(play.get_vars().get("greenroom_phase"), selected_by_tags(play.tags)) for play in plays]
        planned = list(dict.fromkeys(phase for phase, _chosen in asked if phase))
        if not planned:
            return
        run_id = f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        folder = Path(self.get_option("reports") or report.PROJECT / "reports").absolute()
        path = Path(playbook._file_name).absolute()
        name = str(path.relative_to(report.PROJECT)) if path.is_relative_to(report.PROJECT) else path.name
        self.log = RunLog(run_id, folder, name, list(context.CLIARGS.get("tags") or []), bool(context.CLIARGS.get("check")), self._tell)
        self.log.planned = planned
        self.log.selected = list(dict.fromkeys(phase for phase, chosen in asked if phase and chosen))
        warm_up()
        os.environ.update(GREENROOM_RUN_ID=run_id, GREENROOM_RUN_DIR=str(self.log.dir), GREENROOM_EVIDENCE_LINES="0")

    @guarded
    def v2_playbook_on_play_start(self, play):
        phase = play.get_vars().get("greenroom_phase")
        if not self.log or not phase:
            return
        if not self.active:
            self._open()
        if self.log.enter(phase):
            self._display.display(f"── {self.log.position()}", color=C.COLOR_HIGHLIGHT)

    def _open(self) -> None:
        """A run whose record cannot be written does not begin."""
        try:
            self.log.open()
        except OSError as error:
            print(
                f"greenroom: {self.log.dir} cannot be written: {error.strerror or error}. Nothing was touched. Free space there, or set"
                " GREENROOM_REPORTS to another folder.",
                file=sys.stderr,
            )
            raise SystemExit(report.EXIT_REFUSED) from error
        self.active = True
        atexit.register(self._at_exit, os.getpid())
        self.ticker = Ticker(self)
        self.ticker.start()

    # Tasks and their results

    @guarded
    def v2_playbook_on_task_start(self, task, is_conditional):
        self._task_begins(task)

    @guarded
    def v2_playbook_on_handler_task_start(self, task):
        self._task_begins(task)

    def _task_begins(self, task) -> None:
        self.task = (task.get_name(), time.monotonic(), set())

    @guarded
    def v2_runner_on_start(self, host, task):
        if self.active and self.task:
            self.task[2].add(host.get_name())
            self.log.task_started()

    @guarded
    def v2_runner_on_ok(self, result):
        self._take(result)
        if self.active and result.is_changed() and self.log.phase != "entry" and not self.log.check:
            self.log.touched = True

    @guarded
    def v2_runner_on_skipped(self, result):
        self._take(result)

    @guarded
    def v2_runner_on_failed(self, result, ignore_errors=False):
        taken = self._take(result)
        if self.active and not ignore_errors:
            wanted = result.task.get_vars().get("greenroom_exit")
            self.log.fail(result.result, taken, result.task.get_name(), measured_host(result), str(result.task.get_path() or ""), wanted)

    @guarded
    def v2_runner_on_unreachable(self, result):
        self._take(result)
        if self.active:
            where = str(result.task.get_path() or "")
            self.log.unreachable(result.result, result.task.get_name(), measured_host(result), where, bool(result.task.ignore_unreachable))
            self._count_lines()

    def _take(self, result) -> list:
        """Hand a result to the log; returns its evidence. With run_once the inventory host is an arbitrary one, the delegate is not."""
        if self.task:
            self.task[2].discard(result.host.get_name())
        if not self.active:
            return []
        host = measured_host(result) if result.task.run_once else result.host.get_name()
        taken = self.log.take(result.result, host, result.task.get_name())
        self._count_lines()
        return taken

    def _count_lines(self) -> None:
        os.environ["GREENROOM_EVIDENCE_LINES"] = str(self.log.lines)

    # End

    def v2_playbook_on_stats(self, stats):
        # An error without an open run: it could not even be started properly, so nothing of it is proven.
        status = report.EXIT_FAILED if self.early_error else report.EXIT_DONE
        if self.active:
            try:
                status = self._finish(bool(stats.failures or stats.dark))
            except Exception as error:  # Ansible would only warn, and end with 0
                self._tell(f"{type(error).__name__}: {error}")
                status = report.EXIT_FAILED
        if status:
            sys.stdout.flush()
            raise SystemExit(status)

    def _at_exit(self, pid: int) -> None:
        """An interrupt or an error of Ansible itself ends a run without statistics; its report is written all the same."""
        if self.active and os.getpid() == pid:
            self._finish(True, interrupted=True)

    def _finish(self, failed: bool, interrupted: bool = False) -> int:
        """Write the reports, print the summary; returns the exit status."""
        self.active = False
        if self.ticker:
            self.ticker.stop()
        made, status = self.log.finish(failed, interrupted, self.get_option("keep"))
        show = self._display.display
        show("")
        for line, verdict in render.summary(made) if made else []:
            show(line, color=COLORS[verdict])
        for error in self.log.errors:
            show(f"  - the record of this run is damaged: {error}", color=C.COLOR_ERROR)
        told = made["sentence"] if made and status == made["exit_status"] else render.WORDS[report.VERDICTS[status]]
        show(told, color=C.COLOR_ERROR if status else C.COLOR_OK)
        page = self.log.dir / "report.html"
        if page.exists():
            place = os.path.relpath(page) if page.is_relative_to(Path.cwd()) else page
            show(f"Report: {place}" + (f"  (exit status {status})" if status else ""))
        return status


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
                text = f"   … {render.duration(waited)} in \"{name}\", waiting for {', '.join(names[:6])}{more}"
                self.callback._display.display(f"{text} ({self.callback.log.position()})", color=C.COLOR_VERBOSE)
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


def measured_host(result) -> str:
    """The host a task was delegated to, by its inventory name; else the host it ran for."""
    found = result.task_fields.get("delegate_to")
    return found if isinstance(found, str) and found and "{{" not in found else result.host.get_name()
