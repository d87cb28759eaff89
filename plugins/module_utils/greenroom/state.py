"""What is live: `state.json` and `ledger.jsonl` on the gateway, and the only ways in which they change.

Rules (docs/state.md): state is written before it is acted on; a counter orders it, never a time; its checksum lies inside; the
ledger is append-only and each entry carries the hash of the one before. A file that was cut or edited stops everything and is
never guessed at. Every change names the fencing number of the lease it is made under. Standard library only.
"""

from __future__ import annotations

import copy
import datetime
import json
import os
from pathlib import Path

from .durable import DurableError, canonical, digest, fsync_dir, read_sealed, sealed, write_sealed
from .lease import LeaseFile
from .slots import RELEASE_NAME
from .switch import SLOTS, Switch, SwitchError, other

SCHEMA = 1
# What a job in progress may be doing. Before `switching` users are untouched; from then on only a switch decides.
STEPS = ("planned", "staged", "switching", "switched", "switched_back")


class StateError(Exception):
    """The state cannot be trusted, or does not allow what was asked; the text says which, where, and what to do.

    `exit_status` is what a command should end with: 2 as before, 3 refused before any change, 4 a person is needed.
    """

    def __init__(self, text: str, exit_status: int = 3):
        super().__init__(text)
        self.exit_status = exit_status


def utc() -> str:
    """Now, ISO 8601 UTC. For people; nothing is ordered by it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def empty(service: str) -> dict:
    """The state before the first deploy."""
    return {
        "schema": SCHEMA,
        "service": service,
        "counter": 0,
        "live": None,
        "previous": None,
        "last_known_good": None,
        "bad": [],
        "in_progress": None,
        "next_number": 1,
        "slots": {"blue": None, "green": None},
        "releases": {},
        "versions": {},
        "last_entry": None,
    }


def idle_slot(state: dict) -> str:
    """The slot a new release goes to: the one users are not on; blue before the first deploy."""
    return other(state["live"]["slot"]) if state["live"] else "blue"


def protected(state: dict) -> list[int]:
    """Numbers of releases that may never be removed: live, previous, last known good, in progress, and what the slots hold."""
    named = [state[key]["number"] for key in ("live", "previous", "last_known_good", "in_progress") if state[key]]
    return sorted({*named, *(number for number in state["slots"].values() if number)})


def matches_live(state: dict, version: str, commit: str, lock_sha256: str, config_digest: str | None) -> bool:
    """Whether the confirmed live release is this very one, configuration included: a deploy of it is a no-op."""
    live = state["live"]
    if not live or not live["confirmed"] or state["in_progress"]:
        return False
    about = state["releases"].get(str(live["number"]), {})
    return (live["version"], about.get("commit"), about.get("lock_sha256"), live["config_digest"]) == (
        version,
        commit,
        lock_sha256,
        config_digest,
    )


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
        self.ledger_path = self.directory / "ledger.jsonl"
        self.switch = Switch(switch_dir)
        self.lease = LeaseFile(directory)
        self.dry = dry

    # -- reading -------------------------------------------------------------------------------------------------------

    def read(self) -> dict:
        """The state; `empty` before the first deploy.

        Raises StateError when the file was cut or edited, is another service's or a newer schema's, or is gone though the
        ledger knows of releases.
        """
        advice = (
            f"Nothing is guessed: the app hosts keep copies at {self.path}. Compare their `counter`, copy the file with the "
            f"highest one here (mode 0644, root), then run `greenroom status`."
        )
        try:
            state = read_sealed(self.path, advice)
        except DurableError as error:
            raise StateError(str(error), 4) from error
        if state is None:
            if self.ledger_path.exists() and self.ledger_path.stat().st_size:
                raise StateError(f"{self.path}: is gone, but {self.ledger_path} has entries, so this is no first deploy. {advice}", 4)
            return empty(self.service)
        if state.get("schema") != SCHEMA:
            raise StateError(
                f"{self.path}: schema {state.get('schema')!r}, this Greenroom knows {SCHEMA}. Use the version that wrote it.", 4
            )
        if state.get("service") != self.service:
            raise StateError(f"{self.path}: is the state of {state.get('service')!r}, not of {self.service!r}. {advice}", 4)
        return state

    def problems(self, state: dict) -> list[str]:
        """Where the switch and the state disagree, and what was left unfinished; empty when all is well. Reads only."""
        found = []
        if not self.ledger_path.exists() and not os.path.lexists(self.switch.directory):
            return found  # no gateway: a copy on another host, or nothing was deployed yet
        try:
            self._check_tail(self.history(), state["last_entry"])
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
                f"Go back with: sudo greenroom switch {going_back} --reason '<why>'"
            )
        return found

    # -- the ledger ----------------------------------------------------------------------------------------------------

    def history(self, last: int | None = None) -> list[dict]:
        """The ledger's entries, oldest first, each link of the chain checked; only the newest `last` are returned.

        Raises StateError naming file and line of the first entry that was cut or edited.
        """
        entries, _size = self._scan_ledger()
        return entries if last is None else entries[max(0, len(entries) - last) :]

    def _scan_ledger(self) -> tuple[list[dict], int]:
        """(entries, bytes they fill). A last line without its newline is a write that a crash cut: it does not count."""
        try:
            raw = self.ledger_path.read_bytes()
        except FileNotFoundError:
            return [], 0
        size = raw.rfind(b"\n") + 1
        entries: list[dict] = []
        for number, line in enumerate(raw[:size].split(b"\n")[:-1], 1):
            try:
                entry = json.loads(line)
                intact = entry["hash"] == digest({key: value for key, value in entry.items() if key != "hash"})
                linked = not entries or entry["prev"] == entries[-1]["hash"]
            except (ValueError, KeyError, TypeError):
                intact = linked = False
            if not (intact and linked):
                raise StateError(
                    f"{self.ledger_path}:{number}: was edited or cut; the chain of hashes breaks here. Restore the file from a backup, or "
                    f"move it aside: it then begins anew with the last entry, which {self.path.name} holds.",
                    4,
                )
            entries.append(entry)
        return entries, size

    def _settle_ledger(self, state: dict) -> None:
        """Bring the ledger up to `state.last_entry`: a crash may have come between the state's write and the ledger's.

        Raises StateError if they differ by more than that one entry.
        """
        entry = state["last_entry"]
        entries, size = self._scan_ledger()
        self._check_tail(entries, entry)
        if entry is None or (entries and entries[-1]["hash"] == entry["hash"]):
            return
        with open(self.ledger_path, "ab") as stream:
            stream.truncate(size)  # drops a line that was cut
            stream.seek(0, os.SEEK_END)
            stream.write(canonical(entry) + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        fsync_dir(self.directory)

    def _check_tail(self, entries: list[dict], entry: dict | None) -> None:
        """The ledger may end with `state.last_entry` or the one before, or be gone; else StateError."""
        tail = entries[-1] if entries else None
        if entry is None and tail:
            raise StateError(f"{self.ledger_path}: has entries that {self.path} does not know. Restore the newest copy of state.json.", 4)
        if entry and tail and tail["hash"] not in (entry["hash"], entry["prev"]):
            raise StateError(
                f"{self.ledger_path}: ends with entry {tail['seq']}, but {self.path} says entry {entry['seq']} is the last. "
                "Restore the newest "
                "copy of state.json from an app host; if there is none, move ledger.jsonl aside: it then begins anew at entry "
                f"{entry['seq']}.",
                4,
            )

    def _commit(self, state: dict, action: str, lease: dict | None, **about: object) -> dict:
        """Write `state` with the next counter and its ledger entry inside, then append that entry to the ledger.

        The one write of state.json is the moment of truth; the ledger follows from it, also after a crash in between.
        """
        state = copy.deepcopy(state)
        last = state["last_entry"]
        state["counter"] += 1
        entry = {
            "seq": last["seq"] + 1 if last else 1,
            "prev": last["hash"] if last else None,
            "counter": state["counter"],
            "at": utc(),
            "action": action,
            "who": lease["owner"] if lease else None,
            "fencing": lease["fencing"] if lease else None,
            **about,
        }
        state["last_entry"] = {**entry, "hash": digest(entry)}
        if self.dry:
            return state
        try:
            if last or self.ledger_path.exists():
                self._settle_ledger(self.read())
            state = write_sealed(self.path, state)
            self._settle_ledger(state)
        except OSError as error:
            raise StateError(
                f"{self.directory}: cannot be written ({error.strerror}), so {action!r} is not recorded. Users are on what the switch "
                f"{self.switch.directory} says. Make room or make it writable, then run the same command again.",
                4,
            ) from error
        return state

    # -- what may happen to a release ----------------------------------------------------------------------------------

    def _hold(self, fencing: int | None, run_id: str | None) -> dict | None:
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
        lease = self._hold(fencing, run_id)
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
        if job and {key: job[key] for key in content} == content:
            number = job["number"]
        elif job:
            state = self._commit(
                {**state, "in_progress": None}, "abandoned", lease, run_id=job["run_id"], release=f"{job['number']}-{job['version']}",
                why=f"run {job['run_id']} ended at step {job['step']}; run {run_id} takes over", result="abandoned",
            )  # fmt: skip
        state["next_number"] = max(state["next_number"], number + 1)
        state["in_progress"] = {
            **content,
            "run_id": run_id,
            "number": number,
            "slot": idle_slot(state),
            "step": "planned",
            "at": utc(),
            "approved_by": approved_by,
            "before": {"live": state["live"], "previous": state["previous"]},
        }
        return self._commit(
            state, "planned", lease, run_id=run_id, release=f"{number}-{version}", why=reason, approved_by=approved_by, result="ok",
        ), True  # fmt: skip

    def stage(
        self,
        *,
        run_id: str,
        artefact_sha256: str,
        config_digest: str | None = None,
        fencing: int | None = None,
        durations: dict | None = None,
    ) -> tuple[dict, bool]:
        """Record that the release in progress goes into its slot. Written before the slot links move on the app hosts."""
        lease = self._hold(fencing, run_id)
        state = self.read()
        job = self._job(state, run_id)
        if job is None:
            return state, True
        if job["step"] not in ("planned", "staged"):
            raise StateError(f"release {job['number']}-{job['version']} is at step {job['step']}: it cannot be staged any more", 4)
        about = {
            "version": job["version"], "commit": job["commit"], "lock_sha256": job["lock_sha256"], "artefact_sha256": artefact_sha256,
            "config_digest": config_digest or job["config_digest"],
        }  # fmt: skip
        if job["step"] == "staged" and state["releases"].get(str(job["number"])) == about:
            return state, False
        job.update(step="staged", config_digest=about["config_digest"])
        state["slots"][job["slot"]] = job["number"]
        state["releases"][str(job["number"])] = about
        state["versions"][job["version"]] = {"commit": job["commit"], "lock_sha256": job["lock_sha256"]}
        return self._commit(
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
        lease = self._hold(fencing, run_id)
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
                "run_id": run_id, "number": number, "slot": slot, "step": None, "at": utc(), "approved_by": approved_by, "before": before,
                "version": about.get("version"), **{key: about.get(key) for key in ("commit", "lock_sha256", "config_digest")},
            }  # fmt: skip
        step_before = job["step"]
        note = {
            "run_id": run_id, "from": stands, "to": slot, "why": reason, "approved_by": approved_by,
            "release": f"{number}-{about.get('version')}" if slot else None,
        }  # fmt: skip
        state["in_progress"] = {**job, "step": "switching"}
        state = self._commit(state, "switching", lease, **note, result="begun")
        if not self.dry:
            try:
                self.switch.flip(slot)
            except SwitchError as error:
                state["in_progress"] = {**job, "step": step_before} if step_before else None
                self._commit(state, "switch_failed", lease, **note, result=str(error))
                raise

        if slot is None:
            state["live"], state["previous"] = None, before["live"] or before["previous"]
        elif going_back:
            state["live"], state["previous"] = {**before["live"], "slot": slot}, before["previous"]
        else:
            state["live"] = {
                "number": number, "version": about.get("version"), "slot": slot, "config_digest": about.get("config_digest"),
                "run_id": run_id, "at": utc(), "confirmed": not mine,
            }  # fmt: skip
            state["previous"] = before["live"] or before["previous"]
        forward = mine and slot == job["slot"] and number == job["number"]
        state["in_progress"] = {**job, "step": "switched" if forward else "switched_back"} if mine else None
        return self._commit(state, "switched", lease, **note, durations=durations, result="ok"), True

    def confirm(self, *, run_id: str, fencing: int | None = None, durations: dict | None = None) -> tuple[dict, bool]:
        """The release in progress is live and was proved through the gateway: it becomes the last known good one.

        Raises StateError unless it is live in the state and by the switch.
        """
        lease = self._hold(fencing, run_id)
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
        state["bad"] = [one for one in state["bad"] if one["number"] != job["number"]]
        state["in_progress"] = None
        release = f"{job['number']}-{job['version']}"
        return self._commit(state, "confirmed", lease, run_id=run_id, release=release, durations=durations, result="ok"), True

    def fail(
        self, *, run_id: str, reason: str, bad: bool = False, fencing: int | None = None, durations: dict | None = None,
    ) -> tuple[dict, bool]:  # fmt: skip
        """Close the release in progress without it. `bad` marks it as proved red: deploying it again needs an explicit word.

        Raises StateError while users are on it: switch back first.
        """
        lease = self._hold(fencing, run_id)
        state = self.read()
        if not state["in_progress"] or state["in_progress"]["run_id"] != run_id:
            return state, False
        job = state["in_progress"]
        believed = state["live"]["slot"] if state["live"] else None
        stands = self.switch.read()
        if stands != believed or (state["live"] and state["live"]["number"] == job["number"]):
            raise StateError(
                f"release {job['number']}-{job['version']} cannot be closed as failed: users are on {stands or 'the maintenance page'}. "
                f"Switch to {job['before']['live']['slot'] if job['before']['live'] else 'none'} first.",
                4,
            )
        if bad:
            state["bad"].append(
                {key: job[key] for key in ("number", "version", "commit", "lock_sha256", "config_digest", "run_id")}
                | {"reason": reason, "at": utc()}
            )
        state["in_progress"] = None
        return self._commit(
            state, "failed", lease, run_id=run_id, release=f"{job['number']}-{job['version']}", why=reason, bad=bad, durations=durations,
            result="failed",
        ), True  # fmt: skip

    def note(self, action: str, lease: dict | None, **about: object) -> dict:
        """Record what changes nothing in the state itself, e.g. a lease that was broken; the state with its new entry."""
        return self._commit(self.read(), action, lease, **about)


def store_copy(directory: str | os.PathLike, content: object, *, dry: bool = False) -> bool:
    """Keep a copy of the gateway's state on another host; True if it was (or would be) written.

    Raises StateError: the checksum is wrong, the copy is older than the one here, or another one with the same counter.
    """
    path = Path(directory) / "state.json"
    if isinstance(content, (str, bytes)):
        try:
            content = json.loads(content)
        except ValueError as error:
            raise StateError(f"the state to store in {path} is no JSON: {error}") from error
    if not sealed(content) or not isinstance(content.get("counter"), int):
        raise StateError(
            f"the state to store in {path} has no valid checksum: it was cut or changed on its way. Read it from the gateway again."
        )
    try:
        here = read_sealed(path, "")
    except DurableError:
        here = None  # a damaged copy is what the gateway's valid one is for
    if here:
        if here["checksum"] == content["checksum"]:
            return False
        if here.get("counter", -1) >= content["counter"]:
            raise StateError(
                f"{path}: the copy here has counter {here.get('counter')}, the gateway's state only {content['counter']}: the "
                "gateway was set "
                f"back or rebuilt. Compare both before anything else; the highest valid counter is the truth.",
                4,
            )
    if not dry:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_sealed(path, content)
    return True
