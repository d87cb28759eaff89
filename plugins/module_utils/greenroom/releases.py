"""What may happen to a release, from a reserved number to the last known good one, and the only ways in which the state changes.

Rules (docs/state.md): state is written before it is acted on; every change names the fencing number of the lease it is made under and
leaves an entry in the ledger. Standard library only.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path

from .durable import write_sealed
from .lease import LeaseFile, boot_id, uptime_s
from .ledger import Ledger, entry_after
from .slots import RELEASE_NAME
from .state import StateError, about_release, copies, cut_good, empty, found_bad, good_of, idle_slot, read_state, rollback_target, utc
from .switch import SLOTS, Switch, SwitchError


def job_of(state: dict, *, kind: str = "deploy", **about: object) -> dict:
    """What a run is doing, as `in_progress` keeps it; with the gateway's clock since boot, which measures how long it took."""
    clock = {"boot_id": boot_id(), "uptime_s": uptime_s()}
    return {"kind": kind, **about, "at": utc(), "began": clock, "before": {"live": state["live"], "previous": state["previous"]}}


def took(job: dict) -> dict:
    """{seconds: since the job began}, by the gateway's clock since boot; empty if it was booted meanwhile."""
    began = job.get("began", {})
    return {"seconds": round(uptime_s() - began["uptime_s"], 1)} if began.get("boot_id") == boot_id() else {}


class Releases:
    """The state of one service's releases on the gateway.

    `directory` is `/var/lib/greenroom/<service>`, `switch_dir` is `/etc/greenroom/<service>/switch`. With `dry` nothing is
    written and no lease is asked for: methods return the state as it would be.
    Changing methods return (state, changed) and raise StateError, SwitchError or lease.LeaseHeld.
    """

    def __init__(self, directory: str | os.PathLike, service: str, switch_dir: str | os.PathLike, *, dry: bool = False):
        self.directory = Path(directory)
        self.service = service
        self.path = self.directory / "state.json"
        self.ledger = Ledger(self.directory / "ledger.jsonl", self.path)
        self.switch = Switch(switch_dir)
        self.lease = LeaseFile(directory)
        self.dry = dry

    # -- reading -------------------------------------------------------------------------------------------------------

    def read(self) -> dict:
        """The state; `empty` before the first deploy.

        Raises StateError when it cannot be trusted (see `read_state`), or is gone though the ledger knows of releases.
        """
        state = read_state(self.path, self.service)
        if state is None and self.ledger.exists():
            raise StateError(
                f"{self.path}: is gone, but {self.ledger.path} has entries, so this is no first deploy. {copies(self.path)}", 4
            )
        return state or empty(self.service)

    def history(self, last: int | None = None) -> list[dict]:
        """The ledger's entries (see `Ledger.entries`)."""
        return self.ledger.entries(last)

    def problems(self, state: dict) -> list[str]:
        """Where the switch and the state disagree, and what was left unfinished; empty when all is well. Reads only."""
        found = []
        if not self.ledger.path.exists() and not os.path.lexists(self.switch.directory):
            return found  # no gateway: a copy on another host, or nothing was deployed yet
        try:
            self.ledger.check(state["last_entry"])
            stands = self.switch.read()
        except (SwitchError, StateError) as error:
            return [str(error)]
        believed = state["live"]["slot"] if state["live"] else None
        job = state["in_progress"]
        if stands != believed and not (job and job["step"] == "switching"):
            found.append(
                f"{self.switch.directory}: users are on {stands or 'the maintenance page'}, but {self.path} says "
                f"{believed or 'nothing is live'}. "
                f"The switch is what counts. Decide which slot shall serve: sudo greenroom switch SLOT --reason '<why>'"
            )
        if job and job["step"] in ("switching", "switched"):
            going_back = job["before"]["live"]["slot"] if job["before"]["live"] else "none"
            found.append(
                f"run {job['run_id']} moved users towards release {job['number']}-{job['version']} ({job['slot']}) and never confirmed it. "
                f"The next run finishes or undoes that; to go back at once: sudo greenroom switch {going_back} --reason '<why>'"
            )
        return found

    # -- what may happen to a release ----------------------------------------------------------------------------------

    def commit(self, state: dict, action: str, lease: dict | None, **about: object) -> dict:
        """Write `state` with the next counter and its ledger entry inside, then append that entry to the ledger.

        The one write of state.json is the moment of truth; the ledger follows from it, also after a crash in between.
        """
        state = copy.deepcopy(state)
        last = state["last_entry"]
        state |= {"good": good_of(state), "migrated": state.get("migrated", [])}
        state["previous"] = about_release(state, rollback_target(state))
        state["counter"] += 1
        state["last_entry"] = entry_after(last, state["counter"], action, lease, **about)
        if self.dry:
            return state
        try:
            if last or self.ledger.path.exists():
                self.ledger.settle(self.read()["last_entry"])
            state = write_sealed(self.path, state)
            self.ledger.settle(state["last_entry"])
        except OSError as error:
            raise StateError(
                f"{self.directory}: cannot be written ({error.strerror}), so {action!r} is not recorded. Users are on what the switch "
                f"{self.switch.directory} says. Make room or make it writable, then run the same command again.",
                4,
            ) from error
        return state

    def hold(self, fencing: int | None, run_id: str | None) -> dict | None:
        """The lease that a change is made under. Raises StateError without a fencing number, LeaseHeld if it is not the caller's."""
        if self.dry:
            return self.lease.read()
        if fencing is None:
            raise StateError("a change of the state needs the fencing number of the lease: take it first (state: leased)")
        return self.lease.require(fencing, run_id)

    def _job(self, state: dict, run_id: str) -> dict | None:
        """The job of this run; None only when `dry`, where nothing was planned before. Raises StateError."""
        job = state["in_progress"]
        if self.dry and (not job or job["run_id"] != run_id):
            return None
        if not job or job["run_id"] != run_id:
            raise StateError(f"{self.path}: run {run_id} has no release in progress" + (f"; run {job['run_id']} has" if job else ""))
        return job

    def plan(
        self,
        *,
        run_id: str,
        version: str,
        commit: str,
        lock_sha256: str,
        config_digest: str | None = None,
        fencing: int | None = None,
        reason: str | None = None,
        approved_by: str | None = None,
        retry_bad: bool = False,
    ) -> tuple[dict, bool]:
        """Reserve a number and the idle slot for a release. Asking again in the same run changes nothing.

        A number that an interrupted run reserved for the very same content is used again; for other content it is abandoned.

        Raises StateError: the version is known with other content, it was found bad (unless `retry_bad`), the switch and the
        state disagree, or an earlier run switched users and never confirmed.
        """
        lease = self.hold(fencing, run_id)
        state = self.read()
        if not RELEASE_NAME.match(f"1-{version}") or ".." in version:
            raise StateError(f"version {version!r} is not of the form [0-9A-Za-z][0-9A-Za-z.+_-]{{0,62}} without '..'")
        known = state["versions"].get(version)
        if known and known != {"commit": commit, "lock_sha256": lock_sha256}:
            raise StateError(
                f"version {version} is commit {known['commit']} with lock {known['lock_sha256'][:12]} for good; this one is "
                f"commit {commit} "
                f"with lock {lock_sha256[:12]}. Give the new content a new version."
            )
        content = {"version": version, "commit": commit, "lock_sha256": lock_sha256, "config_digest": config_digest}
        # Without a configuration digest the caller cannot show that anything differs.
        judged = [key for key in content if content[key] is not None]
        bad = [one for one in state["bad"] if all(one[key] == content[key] for key in judged)]
        if bad and not retry_bad:
            raise StateError(
                f"version {version} with this configuration was found bad in run {bad[-1]['run_id']}: {bad[-1]['reason']}. "
                f"Repair it under a new version, or try it once more with -e run_retry_bad=true."
            )
        job = state["in_progress"]
        if job and job["run_id"] == run_id and all(job[key] == content[key] for key in ("version", "commit", "lock_sha256")):
            return state, False
        problems = self.problems(state)
        if problems:
            raise StateError(" ".join(problems), 4)
        number = state["next_number"]
        if job and job["kind"] == "deploy" and {key: job[key] for key in content} == content:
            number = job["number"]
        elif job:
            state = self.commit(
                {**state, "in_progress": None}, "abandoned", lease, run_id=job["run_id"], release=f"{job['number']}-{job['version']}",
                why=f"run {job['run_id']} ended at step {job['step']}; run {run_id} takes over", result="abandoned",
            )  # fmt: skip
        state["next_number"] = max(state["next_number"], number + 1)
        state["in_progress"] = {
            **content,
            **job_of(state, run_id=run_id, number=number, slot=idle_slot(state), step="planned", reason=reason, approved_by=approved_by),
        }
        return self.commit(
            state, "planned", lease, run_id=run_id, release=f"{number}-{version}", why=reason, approved_by=approved_by, result="ok",
        ), True  # fmt: skip

    def stage(
        self,
        *,
        run_id: str,
        artefact_sha256: str | None = None,
        migrated: dict | None = None,
        config_digest: str | None = None,
        fencing: int | None = None,
        durations: dict | None = None,
    ) -> tuple[dict, bool]:
        """Record that the release in progress goes into its slot. Written before the slot links move on the app hosts.

        migrated: what it did to the schema (`rollback.schema_step`); without it a rollback of the gateway's own is refused.
        A rollback stages a release that is known; then only the slot is written.
        """
        lease = self.hold(fencing, run_id)
        state = self.read()
        job = self._job(state, run_id)
        if job is None:
            return state, True
        if job["kind"] == "rollback" and job["step"] == "switched":
            return state, False  # users are on it already
        if job["step"] not in ("planned", "staged"):
            raise StateError(f"release {job['number']}-{job['version']} is at step {job['step']}: it cannot be staged any more", 4)
        about = {
            "version": job["version"], "commit": job["commit"], "lock_sha256": job["lock_sha256"], "artefact_sha256": artefact_sha256,
            "config_digest": config_digest or job["config_digest"],
        }  # fmt: skip
        if job["kind"] == "rollback":
            about = state["releases"][str(job["number"])]
        if job["step"] == "staged" and state["releases"].get(str(job["number"])) == about and state["slots"][job["slot"]] == job["number"]:
            return state, False
        job.update(step="staged", config_digest=about["config_digest"])
        if migrated is not None:
            serving = job["before"]["live"]["number"] if job["before"]["live"] else None
            known = [one for one in state.get("migrated", []) if one["number"] != job["number"]]
            state["migrated"] = [*known, {"number": job["number"], "serving": serving, **migrated}]
        state["slots"][job["slot"]] = job["number"]
        state["releases"][str(job["number"])] = about
        state["versions"][job["version"]] = {"commit": job["commit"], "lock_sha256": job["lock_sha256"]}
        return self.commit(
            state, "staged", lease, run_id=run_id, release=f"{job['number']}-{job['version']}", to=job["slot"], durations=durations,
            result="ok",
        ), True  # fmt: skip

    def switch_to(
        self,
        slot: str | None,
        *,
        run_id: str,
        reason: str,
        fencing: int | None = None,
        approved_by: str | None = None,
        accept_bad: bool = False,
        durations: dict | None = None,
    ) -> tuple[dict, bool]:
        """Move users to `slot` (None: the maintenance page). The intent is written first, then the one rename, then the result.

        Inside a deploy (`in_progress` is this run's) the job stays open until `confirm` or `fail`. Otherwise, a person's switch,
        it is closed at once, together with the unconfirmed job of a dead run.

        Raises StateError: nothing is staged in the slot, or its release was found bad (unless `accept_bad`).
        Raises SwitchError when the rename failed: users are where its text says.
        """
        lease = self.hold(fencing, run_id)
        state = self.read()
        if slot is not None and slot not in SLOTS:
            raise StateError(f"there is no slot {slot!r}; one of blue, green")
        number = state["slots"][slot] if slot else None
        if self.dry and self._job(state, run_id) is None:
            return state, True
        if slot and number is None:
            raise StateError(f"slot {slot} holds no release. `greenroom status` shows what can be switched to.")
        about = state["releases"].get(str(number), {})
        stands = self.switch.read()
        job = state["in_progress"]
        mine = bool(job) and job["run_id"] == run_id
        before = job["before"] if job else {"live": state["live"], "previous": state["previous"]}
        if mine and slot == job["slot"] and job["step"] == "planned":
            raise StateError(f"release {job['number']}-{job['version']} is planned but not staged: nothing proved it on the app hosts")
        going_back = bool(slot and before["live"] and before["live"]["number"] == number)
        if slot and not going_back and not accept_bad and number in {one["number"] for one in state["bad"]} and not mine:
            raise StateError(f"release {number}-{about.get('version')} in slot {slot} was found bad. To serve it anyway: --accept-bad.")
        settled = state["live"]["slot"] == slot if state["live"] else slot is None
        # A dead run's job that is still switching, or a lone disagreement, must be closed even when the switch stands right.
        if stands == slot and settled and (not job or (mine and job["step"] != "switching") or job["step"] in ("planned", "staged")):
            return state, False

        if not job:
            job = {
                **job_of(state, kind="switch", run_id=run_id, number=number, slot=slot, step=None, reason=reason, approved_by=approved_by),
                "version": about.get("version"), **{key: about.get(key) for key in ("commit", "lock_sha256", "config_digest")},
            }  # fmt: skip
        step_before = job["step"]
        note = {
            "run_id": run_id, "from": stands, "to": slot, "why": reason, "approved_by": approved_by,
            "release": f"{number}-{about.get('version')}" if slot else None,
        }  # fmt: skip
        state["in_progress"] = {**job, "step": "switching", "move": [stands, slot]}
        state = self.commit(state, "switching", lease, **note, result="begun")
        if not self.dry:
            try:
                self.switch.flip(slot)
            except SwitchError as error:
                state["in_progress"] = {**job, "step": step_before} if step_before else None
                self.commit(state, "switch_failed", lease, **note, result=str(error))
                raise

        if slot is None:
            state["live"] = None
        elif going_back:
            state["live"] = {**before["live"], "slot": slot}
        else:
            state["live"] = {
                "number": number, "version": about.get("version"), "slot": slot, "config_digest": about.get("config_digest"),
                "run_id": run_id, "at": utc(), "confirmed": not mine,
            }  # fmt: skip
        if not mine and number in good_of(state):
            state["good"] = cut_good(good_of(state), number)
        forward = mine and slot == job["slot"] and number == job["number"]
        state["in_progress"] = {**job, "step": "switched" if forward else "switched_back"} if mine else None
        return self.commit(state, "switched", lease, **note, durations=durations, result="ok"), True

    def confirm(
        self, *, run_id: str, fencing: int | None = None, durations: dict | None = None, undone_to: list[str] | None = None
    ) -> tuple[dict, bool]:  # fmt: skip
        """The release in progress is live and was proved through the gateway: it becomes the last known good one.

        undone_to: of a rollback, the revision that the schema was taken back to.
        Raises StateError unless the release is live in the state and by the switch.
        """
        lease = self.hold(fencing, run_id)
        state = self.read()
        live = state["live"]
        if not state["in_progress"] and live and live["run_id"] == run_id and live["confirmed"]:
            return state, False
        job = self._job(state, run_id)
        if job is None:
            return state, True
        stands = self.switch.read()
        if job["step"] != "switched" or not live or live["number"] != job["number"] or stands != live["slot"]:
            raise StateError(
                f"release {job['number']}-{job['version']} cannot be confirmed: step {job['step']}, users are on "
                f"{stands or 'the maintenance page'}",
                4,
            )
        live["confirmed"] = True
        state["last_known_good"] = dict(live)
        state["good"] = cut_good(good_of(state), job["number"])
        state["bad"] = [one for one in state["bad"] if one["number"] != job["number"]]
        rolled_back = job["kind"] == "rollback"
        if rolled_back and (job["left"] or 0) > job["number"]:
            state["bad"].append(
                found_bad(state["releases"].get(str(job["left"]), {}), job["left"], run_id, f"rolled back: {job['reason']}")
            )
        if undone_to is not None:
            newer = {"revision": undone_to, "revisions": []}
            state["migrated"] = [{**one, **newer} if one["number"] > job["number"] else one for one in state.get("migrated", [])]
        state["in_progress"] = None
        return self.commit(
            state, "rolled_back" if rolled_back else "confirmed", lease, run_id=run_id, release=f"{job['number']}-{job['version']}",
            why=job["reason"], approved_by=job["approved_by"], durations={**took(job), **(durations or {})}, result="ok",
        ), True  # fmt: skip

    def fail(
        self, *, run_id: str, reason: str, bad: bool = False, fencing: int | None = None, durations: dict | None = None,
    ) -> tuple[dict, bool]:  # fmt: skip
        """Close the release in progress without it. `bad` marks it as proved red: deploying it again needs an explicit word.

        Raises StateError while users are on it: switch back first.
        """
        lease = self.hold(fencing, run_id)
        state = self.read()
        if not state["in_progress"] or state["in_progress"]["run_id"] != run_id:
            return state, False
        job = state["in_progress"]
        believed = state["live"]["slot"] if state["live"] else None
        stands = self.switch.read()
        was_there = job["before"]["live"] and job["before"]["live"]["number"] == job["number"]
        if stands != believed or (state["live"] and state["live"]["number"] == job["number"] and not was_there):
            raise StateError(
                f"release {job['number']}-{job['version']} cannot be closed as failed: users are on {stands or 'the maintenance page'}. "
                f"Switch to {job['before']['live']['slot'] if job['before']['live'] else 'none'} first.",
                4,
            )
        if bad:
            state["bad"].append(found_bad(job, job["number"], run_id, reason))
        if job["kind"] == "rollback" and job["step"] == "switched_back" and job["left"]:  # nobody goes back to it by asking again
            left = state["releases"].get(str(job["left"]), {})
            state["bad"].append(found_bad(left, job["left"], run_id, f"left by a rollback that failed: {job['reason']}"))
        state["in_progress"] = None
        return self.commit(
            state, "failed", lease, run_id=run_id, release=f"{job['number']}-{job['version']}", why=reason, bad=bad, durations=durations,
            result="failed",
        ), True  # fmt: skip

    def note(self, action: str, lease: dict | None, **about: object) -> dict:
        """Record what changes nothing in the state itself, e.g. a lease that was broken; the state with its new entry."""
        return self.commit(self.read(), action, lease, **about)
