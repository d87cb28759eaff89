"""What a run leaves behind while it goes on: evidence.jsonl, run.json, and at its end the report. The callback feeds it.

Runs on the control node only. Whatever cannot be written is told to `on_error` and makes the run fail: a run must not end green
without its record.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from . import gate, render, report
from . import records as rec
from .catalogue import Catalogue
from .durable import write_atomic

FAILURES = (report.EXIT_FAILED, report.EXIT_REFUSED, report.EXIT_PERSON, report.EXIT_BUSY)
FRAME = ("entry", "close")  # phases around the work, not counted in `phase 2 of 5`


def parts(result: Mapping) -> Iterator[Mapping]:
    """A task's result itself and, for a loop, the results of its items."""
    yield result
    items = result.get("results")
    if isinstance(items, list):
        yield from (item for item in items if isinstance(item, Mapping))


def message_of(result: Mapping) -> str:
    """Why a task failed, in Ansible's words after its own censoring; of a loop, what its failed items say. Never its arguments."""
    failed = [item for item in parts(result) if item is not result and (item.get("failed") or item.get("unreachable"))]
    found = list(dict.fromkeys(gate.shorten(item["msg"], 600) for item in failed if item.get("msg")))
    if found:
        return "; ".join(found[:5]) + (f"; and {len(found) - 5} more" if len(found) > 5 else "")
    text = result.get("msg") or result.get("censored") or ""
    return text.strip()[:3000] if isinstance(text, str) else gate.shorten(text, 1500)


class RunLog:
    """One run. `planned` are the phases of the playbook, `selected` those asked for by tags."""

    def __init__(self, run_id: str, folder: Path, playbook: str, tags: list, check: bool, on_error: Callable[[str], None]):
        self.run_id, self.dir, self.playbook, self.tags, self.check = run_id, folder / run_id, playbook, tags, check
        self.on_error = on_error
        self.started, self.clock = rec.utc_now(), time.monotonic()
        self.planned: list[str] = []
        self.selected: list[str] = []
        self.phases: list[dict] = []
        self.phase: str | None = None
        self.phase_clock = 0.0
        self.facts: dict = {}
        self.catalogue, self.catalogues = Catalogue(), []
        self.gated: list[list[str]] = []
        self.failures: list[dict] = []
        self.errors: list[str] = []
        self.lines = self.tasks = 0
        self.lease_held = self.touched = False
        self.exit_wanted: int | None = None

    def error(self, message: str) -> None:
        """Remember that the record of this run is damaged."""
        if message not in self.errors:
            self.errors.append(message)
            self.on_error(message)

    def open(self) -> None:
        """Make the run's folder and prove that it can be written. Raises OSError."""
        self.dir.mkdir(parents=True)
        (self.dir / "evidence.jsonl").touch(exist_ok=False)
        self.save()
        self._read_catalogue()

    # Phases

    def enter(self, phase: str) -> bool:
        """A play of `phase` begins. Returns whether the phase changed and is one that was asked for."""
        if phase == self.phase:
            return False
        self.leave()
        self.phase, self.phase_clock = phase, time.monotonic()
        if phase in self.selected:
            self._begin()
        return phase in self.selected

    def _begin(self) -> None:
        if not any(item["name"] == self.phase for item in self.phases):
            self.phases.append({"name": self.phase, "start_s": round(time.monotonic() - self.clock, 2), "seconds": 0.0})
        self.save()

    def leave(self) -> None:
        """The current phase ends."""
        for item in self.phases:
            if item["name"] == self.phase:
                item["seconds"] = round(item["seconds"] + time.monotonic() - self.phase_clock, 2)
        self.phase = None

    def task_started(self) -> None:
        """A task runs on a host. If tags chose the task and not its play, the phase is asked for from here on."""
        self.tasks += 1
        if self.phase and self.phase not in self.selected:
            self.selected.append(self.phase)
            self._begin()

    def position(self) -> str:
        """`phase 2 of 5: release, 1 min 04 s since the start`."""
        counted = [name for name in self.planned if name in self.selected and name not in FRAME]
        since = f", {render.duration(elapsed)} since the start" if (elapsed := time.monotonic() - self.clock) > 1 else ""
        number = f"phase {counted.index(self.phase) + 1} of {len(counted)}: " if self.phase in counted else ""
        return f"{number}{self.phase}{since}"

    # Results

    def take(self, result: Mapping, host: str, task: str) -> list:
        """Take evidence, facts and the lease out of a result and its loop items. Returns the evidence."""
        taken: list = []
        for found in parts(result):
            self.lease_held |= found.get("lease_held") is True
            if isinstance(found.get("greenroom"), Mapping):
                self._note_facts(found["greenroom"])
            evidence = found.get("evidence")
            if isinstance(evidence, list):
                taken += evidence
            elif evidence is not None:
                self.error(f"task {task!r} on {host}: evidence is no list")
        self.append(taken, host)
        return taken

    def fail(self, result: Mapping, taken: Iterable, task: str, host: str, where: str, task_exit: object) -> None:
        """A task failed. `taken` is its evidence, `task_exit` the exit status that its vars ask for."""
        wanted = next((found["greenroom_exit"] for found in parts(result) if "greenroom_exit" in found), task_exit)
        if wanted in FAILURES:
            self.exit_wanted = wanted
        elif wanted is not None:
            self.error(f"task {task!r}: greenroom_exit must be one of {FAILURES}, not {wanted!r}")
        told = any(isinstance(item, Mapping) and item.get("status") in gate.BLOCKING for item in taken)
        # A gate's message lists the blockers that the report lists as well.
        told = told or any(found.get("blockers") and "verdict" in found for found in parts(result))
        # A list of problems (inputs that were refused) says more than the one record about it.
        told = told and not any(found.get("problems") and "greenroom_exit" in found for found in parts(result))
        self.note_failure(message_of(result), task, host, where, told)

    def note_failure(self, reason: str, task: str, host: str, where: str = "", in_evidence: bool = False) -> None:
        """Remember a failed task; `in_evidence` if a record says it as well."""
        where = where.removeprefix(f"{report.PROJECT}{os.sep}")
        self.failures.append({"phase": self.phase, "host": host, "task": task, "reason": reason or "failed without a message",
                              "where": where, "in_evidence": in_evidence})  # fmt: skip

    def unreachable(self, result: Mapping, task: str, host: str, where: str, ignored: bool) -> None:
        """A host cannot be reached: an `error` record, and a failure unless it is ignored."""
        reason = f"unreachable: {message_of(result) or 'no answer'}"
        self.append([rec.record("prep.server.reachable", rec.ERROR, "reachable", "unreachable", reason=reason, host=host)])
        if not ignored:
            self.note_failure(reason, task, host, where, True)

    def _note_facts(self, facts: Mapping) -> None:
        """Merge facts of the run. `catalogues` are read at once; `gated` (phases that a gate judged) are kept one by one."""
        facts = rec.plain(facts)
        catalogues, gated = facts.pop("catalogues", None), facts.pop("gated", None)
        if gated:
            self.gated.append(list(gated))
        self.facts.update(facts)
        if catalogues and catalogues != self.catalogues:
            self.catalogues = list(catalogues)
            self._read_catalogue()
        self.save()

    def _read_catalogue(self) -> None:
        self.catalogue, faults = report.load_catalogue(self.catalogues)
        for fault in faults:
            self.error(fault)

    def append(self, items: list, host: str | None = None) -> None:
        """Append records to evidence.jsonl in one write, synced. What is no valid record is written as it is: the gate names it."""
        lines = []
        for item in items:
            if isinstance(item, Mapping):
                given = {key: value for key, value in item.items() if value is not None}
                item = {"host": host, "expected": None, "observed": None, "started": rec.utc_now(), **given}
                entry = self.catalogue.get(item.get("id"))
                if entry:
                    item |= {"kind": entry.kind, "phase": entry.phase, "title": entry.title, "source": list(entry.source)}
                item = {key: item[key] for key in (*rec.KEYS, *item) if key in item}
            lines.append(json.dumps(rec.plain(item), ensure_ascii=False, allow_nan=False) + "\n")
        if not lines:
            return
        self.lines += len(lines)
        data = "".join(lines).encode("utf-8", "backslashreplace")
        try:
            handle = os.open(self.dir / "evidence.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            try:
                written = os.write(handle, data)
                os.fsync(handle)
            finally:
                os.close(handle)
            if written != len(data):
                raise OSError(f"only {written} of {len(data)} bytes were written")
        except OSError as error:
            self.error(f"{self.dir}/evidence.jsonl: {error.strerror or error}")

    # End

    def content(self, exit_status: int, interrupted: bool) -> dict:
        """The content of run.json: everything a report needs beside the evidence."""
        return rec.plain({
            "run_id": self.run_id, "playbook": self.playbook, "started": self.started, "finished": rec.utc_now(),
            "duration_s": round(time.monotonic() - self.clock, 1), "check": self.check, "user": _user(),
            "control_node": socket.gethostname(), "tags": self.tags, "facts": self.facts, "catalogues": self.catalogues,
            "planned": self.planned, "selected": [name for name in self.planned if name in self.selected], "phases": self.phases,
            "gated": self.gated, "failures": self.failures, "exit_status": exit_status, "interrupted": interrupted,
            "evidence_lines": self.lines, "errors": self.errors,
        })  # fmt: skip

    def save(self, content: dict | None = None) -> None:
        """Keep run.json current, so that a run that is killed still gets a report (`scripts/report`). Raises OSError."""
        content = content or self.content(report.EXIT_FAILED, True)
        write_atomic(self.dir / "run.json", (json.dumps(content, ensure_ascii=False) + "\n").encode())

    def exit_status(self, failed: bool) -> int:
        """What a task asked for; else 2 once the lease was held or something was changed after the entry, 3 before it."""
        if not failed:
            return report.EXIT_DONE
        if self.exit_wanted is not None and not (self.exit_wanted == report.EXIT_REFUSED and self.touched):
            return self.exit_wanted  # "refused" promises that nothing was touched
        if self.lease_held or self.touched:
            return report.EXIT_FAILED
        first = self.failures[0]["phase"] if self.failures else self.phase
        takes_lease = "entry" in self.planned and not self.check
        return report.EXIT_REFUSED if takes_lease or first == "entry" else report.EXIT_FAILED

    def finish(self, failed: bool, interrupted: bool = False, keep: int = 30) -> tuple[dict | None, int]:
        """Write the reports, point `latest` at them, remove old ones. Returns (report, or None if there is none; exit status)."""
        if not self.tasks and not failed:
            # Tags or a limit that match nothing end green in Ansible. Here a run that did nothing has proven nothing.
            self.note_failure("no task was run: the tags or the limit match nothing", "any", "all")
            failed, self.exit_wanted, self.phases = True, report.EXIT_REFUSED, []
        status = self.exit_status(failed)
        self.leave()
        made = None
        try:
            content = self.content(status, interrupted)
            made = report.make(content, self.dir)
            status = made["exit_status"]
            self.save(content)
            report.save(made, self.dir)
            self._point_latest()
            self._prune(keep)
        except Exception as error:  # whatever it is, the run must not end green without its report
            self.error(f"the report in {self.dir}: {getattr(error, 'strerror', None) or error}")
        if self.errors and status == report.EXIT_DONE:
            status = report.EXIT_FAILED
        return made, status

    def _point_latest(self) -> None:
        beside = self.dir.parent / f".latest.{self.run_id}"
        beside.symlink_to(self.run_id)
        beside.replace(self.dir.parent / "latest")

    def _prune(self, keep: int) -> None:
        """Old runs go, never this one and never the newest that passed: thirty refusals must not take the last proof away."""
        runs = sorted(path for path in self.dir.parent.iterdir() if report.RUN_ID.fullmatch(path.name) and path.is_dir())
        proof = next((path for path in reversed(runs) if _passed(path)), None)
        for path in runs[: -max(keep, 1)]:
            if path not in (self.dir, proof):
                shutil.rmtree(path)


def _passed(run: Path) -> bool:
    """Whether a run's report says that it passed; False if there is none."""
    try:
        return json.loads((run / "report.json").read_text(encoding="utf-8")).get("verdict") == "pass"
    except (OSError, ValueError):
        return False


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return None
