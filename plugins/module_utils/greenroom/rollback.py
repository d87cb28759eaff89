"""Back to the release before: which one, under which conditions, and the way of a gateway that is alone. Standard library only.

A rollback is a job like a deploy (`releases.py`), of a release that is there already. Its target comes from state and ledger alone: the
newest release below the live one that was proven live and never found bad. Folders, names and times of files mean nothing.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

from . import db_routes
from .reconcile import reconcile
from .releases import Releases, job_of
from .state import StateError, good_of, idle_slot, rollback_target, utc

EXPECTED_OF = 5  # the newest durations that an expectation is made of


def label(state: dict, number: int) -> str:
    """`12-1.4.0` of release 12."""
    return f"{number}-{state['releases'].get(str(number), {}).get('version')}"


def resolve(state: dict, history: list[dict], wanted: str) -> int:
    """The number of the release that a person names: `12`, `12-1.4.0` or `1.4.0`. Raises StateError unless it was proven live."""
    proven = {int(one["release"].split("-")[0]) for one in history if one["action"] in ("confirmed", "rolled_back") and one["release"]}
    names = {number: (str(number), label(state, number), state["releases"].get(str(number), {}).get("version")) for number in proven}
    found = sorted(number for number, forms in names.items() if str(wanted) in forms)
    if not found:
        known = ", ".join(label(state, number) for number in sorted(proven)) or "none"
        raise StateError(f"run_rollback_to {wanted}: no release of that name was ever proven live. Known are: {known}.")
    return found[-1]


def other_configuration(state: dict) -> str:
    """The newest proven release below the live one that is the same code with another configuration. Raises StateError if there is none."""
    live = state["live"] or {}
    mine = state["releases"].get(str(live.get("number")), {})
    bad = {one["number"] for one in state["bad"]}
    for number in reversed(good_of(state)):
        about = state["releases"].get(str(number), {})
        same = all(about.get(key) == mine.get(key) for key in ("version", "commit", "lock_sha256"))
        if same and number not in bad and number < live.get("number", 0) and about.get("config_digest") != mine.get("config_digest"):
            return str(number)
    raise StateError(
        f"no proven release below {live.get('number')}-{live.get('version')} is the same code with another configuration: configuration "
        "belongs to the release and goes back with it. Use --tags rollback."
    )


def choose(state: dict, history: list[dict], to: str | None = None, *, retry_bad: bool = False) -> tuple[int, int | None]:
    """(number to go to, number that is left or None). Raises StateError if there is no way: nothing was touched.

    An interrupted rollback is continued to its own target. Of a deploy that was interrupted after the switch, users are on the release
    before already (`reconcile`): that is the target, not one further back.
    """
    live = state["live"]["number"] if state["live"] else None
    job = state["in_progress"]
    target = resolve(state, history, to) if to is not None else None
    if job and job["kind"] == "rollback" and target in (None, job["number"]):
        return job["number"], job["left"]
    if job and job.get("undone") and live is not None and target in (None, live):
        return live, job["number"]
    target = target or rollback_target(state)
    if target is None:
        raise StateError("there is no release to go back to: none below the live one was ever proven live. Deploy one instead.")
    if target == live:
        raise StateError(f"release {label(state, target)} is live already; there is nothing to roll back.")
    bad = [one for one in state["bad"] if one["number"] == target]
    if bad and not retry_bad:
        raise StateError(
            f"release {label(state, target)} was found bad in run {bad[-1]['run_id']}: {bad[-1]['reason']}. Name another one, or try it "
            "once more with -e run_retry_bad=true."
        )
    return target, live


def schema_step(state: dict, schema: dict | None) -> dict | None:
    """What the release in progress changes in the schema, for `migrated`; None where nothing is said about it.

    schema: {revision: the heads of the release's migrations, empty without a database; manifest: of its rehearsal, or None}. It is compared
    with what the newest release before left, not with what was pending: a run that died may have migrated already.
    Returns {revision, revisions: newest first, None if nobody knows, old_app_works, verdict, recoverable, seconds}.
    """
    if schema is None:
        return None
    mine = state["in_progress"]["number"] if state["in_progress"] else None
    known = [one for one in state.get("migrated", []) if one["number"] != mine]
    revision, before = list(schema["revision"]), known[-1]["revision"] if known else [] if state["live"] is None else None
    if not revision or revision == before or state["live"] is None:
        return {"revision": revision, "revisions": []}
    if before is None or not schema.get("manifest"):
        return {"revision": revision, "revisions": None}
    undo = db_routes.between(schema["manifest"], revision, before[0] if before else "base")
    found = db_routes.from_manifest(schema["manifest"], undo)
    return {"revision": revision, "revisions": undo, **{key: found[key] for key in ("old_app_works", "verdict", "recoverable", "seconds")}}


def undone_revisions(state: dict, target: int) -> list[dict]:
    """What newer releases did to the schema, newest first: entries of `migrated` above `target` that changed something, or nobody knows."""
    return [one for one in reversed(state.get("migrated", [])) if one["number"] > target and one["revisions"] != []]


def schema_way(manifest: dict | None, current: list[str], target: list[str]) -> dict:
    """Which way the schema goes from `current` to `target`, by the manifest of the release that holds the revisions: {name, reason, loss}.

    name: `leave_schema`, `downgrade`, or `closed`, where only the ways back of a database are left (docs/restore.md).
    """
    if not manifest:
        return {"name": "closed", "reason": "the revisions were never rehearsed", "loss": "unknown"}
    found = db_routes.from_manifest(manifest, db_routes.between(manifest, current, target[0] if target else "base"))
    facts = {key: found[key] for key in ("verdict", "old_app_works", "recoverable", "seconds")}
    routes = [route(db_routes.Situation(db_routes.BAD_RELEASE, **facts)) for route in (db_routes.leave_schema, db_routes.downgrade)]
    for name, route in zip(("leave_schema", "downgrade"), routes, strict=True):
        if route.open and route.name != "fix_up_downgrade":
            return {"name": name, "reason": route.reason, "loss": route.loss}
    return {"name": "closed", "reason": "; ".join(route.reason for route in routes), "loss": "unknown"}


def schema_fits(state: dict, target: int) -> bool | None:
    """Whether release `target` works on the schema as it is: True, False, or None where no rehearsal tried it."""
    newer = {int(number) for number in state["releases"] if int(number) > target}
    if newer - {one["number"] for one in state.get("migrated", [])}:
        return None
    tried = [one.get("old_app_works") if one["serving"] == target else None for one in undone_revisions(state, target)]
    return False if False in tried else None if None in tried else True


def expected_s(history: list[dict], action: str = "rolled_back") -> float | None:
    """Seconds that it took lately (median of the newest of the ledger), None if it never happened."""
    times = [one["durations"]["seconds"] for one in history if one["action"] == action and "seconds" in (one.get("durations") or {})]
    newest = sorted(times[-EXPECTED_OF:])
    return newest[len(newest) // 2] if newest else None


def begin(
    releases: Releases, *, run_id: str, reason: str, to: str | None = None, fencing: int | None = None, approved_by: str | None = None,
    retry_bad: bool = False, part: str = "everything",
) -> tuple[dict, bool]:  # fmt: skip
    """Make the rollback the job in progress; (state, changed). Asking again in the same run changes nothing.

    part: `configuration` goes to the newest release that is the same code, `gateway` only to one that is in a slot already.

    Raises StateError: no target, a bad one, or the switch and the state disagree.
    """
    lease = releases.hold(fencing, run_id)
    state = releases.read()
    job = state["in_progress"]
    if job and job["run_id"] == run_id and job["kind"] == "rollback":
        return state, False
    if part == "configuration" and not (job and job["kind"] == "rollback"):
        to = other_configuration(state)
    number, left = choose(state, releases.history(), to, retry_bad=retry_bad)
    continued = bool(job) and job["kind"] == "rollback" and job["number"] == number
    problems = [] if continued else releases.problems(state)
    if problems:
        raise StateError(" ".join(problems), 4)
    about = {key: state["releases"][str(number)][key] for key in ("version", "commit", "lock_sha256", "config_digest")}
    slot = next((slot for slot, held in state["slots"].items() if held == number), None)
    if part == "gateway" and slot is None:
        raise StateError(f"release {label(state, number)} is in no slot, so the gateway alone cannot go back to it. Use --tags rollback.")
    if continued:
        state["in_progress"] = {**job, "run_id": run_id}
        action, why = "resumed", f"run {job['run_id']} ended at step {job['step']}; run {run_id} continues to the same release"
    else:
        action, why = "planned", reason
        step = "switched" if state["live"] and state["live"]["number"] == number else "staged" if slot else "planned"
        state["in_progress"] = {
            **about,
            **job_of(state, kind="rollback", run_id=run_id, number=number, slot=slot or idle_slot(state), step=step, reason=reason,
                     approved_by=approved_by, left=left),
        }  # fmt: skip
    note = {"run_id": run_id, "release": label(state, number), "why": why, "approved_by": approved_by}
    return releases.commit(state, action, lease, **note, result="ok"), True


def plan_of(state: dict, history: list[dict], part: str) -> dict:
    """What the rollback in progress is going to do: {from, to, slot, warm, part, schema, newer, revision, revisions, …, lines}.

    revision: what the release left the schema at when it was deployed; None if nobody recorded it."""
    job = state["in_progress"]
    fits = schema_fits(state, job["number"])
    schema = {True: "left as it is, the release works on it", False: "the release breaks on it: a way back of the database is needed first"}
    revisions = [name for one in undone_revisions(state, job["number"]) for name in one["revisions"] or ["unknown"]]
    warm, expected = job["step"] != "planned", expected_s(history)
    known = next((one["revision"] for one in state.get("migrated", []) if one["number"] == job["number"]), None)
    plan = {
        "from": label(state, job["left"]) if job["left"] else None, "to": label(state, job["number"]), "slot": job["slot"], "warm": warm,
        "part": part, "schema": schema.get(fits, "asked of the database and the rehearsal's manifest before anything moves"),
        "newer": label(state, max(job["left"] or 0, job["number"])), "revision": known, "revisions": revisions, "expected_s": expected,
        "loss": "nothing" if fits else "decided by the way back of the database",
    }  # fmt: skip
    ready = "holds it" if warm else "is made ready first"
    took = "not known, it was never done" if expected is None else f"{expected:g} s, as it took lately"
    lines = [
        f"from {plan['from'] or 'the maintenance page'} to {plan['to']} in slot {job['slot']}, which {ready}",
        f"schema: {plan['schema']}" + (f"; newer revisions: {', '.join(revisions)}" if revisions else ""),
        f"loss expected: {plan['loss']}",
        f"time expected: {took}; the limit is 15 min",
        "credentials stay as they are now; configuration goes back with the release",
    ]
    return {**plan, "lines": lines}


def flip_back(
    releases: Releases, *, why: str, who: str, warm: Callable[[str, str], str | None], to: str | None = None,
    approved_by: str | None = None, wait_s: float = 0.0,
) -> dict:  # fmt: skip
    """Take users back to the previous release without the control node: only onto a slot that is warm and whose schema fits.

    warm(slot, "12-1.4.0") asks the slot's processes and returns None when they are healthy and are that release, else what is wrong.
    Returns {changed, from, to, slot, seconds, release}. Raises LeaseHeld while a live run holds the lease, StateError when it is refused
    (users are as before), SwitchError when the switch could not be moved.
    """
    run_id = f"gateway-{utc().replace(':', '').replace('-', '')}-{uuid.uuid4().hex[:4]}"
    with releases.lease.held(owner=who, run_id=run_id, step="roll back", wait_s=wait_s) as lease, releases.lease.lock():
        reconcile(releases, run_id=run_id, fencing=lease["fencing"], rolling_back=True)
        state = releases.read()
        number, left = choose(state, releases.history(), to)
        slot = next((slot for slot, held in state["slots"].items() if held == number), None)
        name = label(state, number)
        if slot is None:
            raise StateError(
                f"release {name} is in no slot any more, so it cannot serve at once. From the control node: --tags rollback.", 4
            )
        fits = schema_fits(state, number)
        if not fits:
            known = "breaks on the schema as it is" if fits is False else "was never tried on the schema as it is"
            raise StateError(f"release {name} {known}: the database comes first. From the control node: --tags rollback.", 4)
        if cold := warm(slot, name):
            raise StateError(f"release {name} in slot {slot} is not ready to serve: {cold}", 4)
        run = {"run_id": run_id, "fencing": lease["fencing"]}
        state = begin(releases, **run, reason=why, to=to, approved_by=approved_by)[0]
        releases.switch_to(slot, **run, reason=why, approved_by=approved_by)
        state, changed = releases.confirm(**run)
    entry = state["last_entry"]
    return {"changed": changed, "from": label(state, left) if left else None, "to": name, "slot": slot, "release": name,
            "seconds": (entry.get("durations") or {}).get("seconds")}  # fmt: skip
