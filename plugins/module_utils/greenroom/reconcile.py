"""What the next command does with the job of a run that died: finish it or undo it, by one table (docs/rollback.md).

The switch says where users are, the job says what was meant. A run that dies inside a rule leaves a state that the same table knows.
Standard library only.
"""

from __future__ import annotations

from .releases import Releases
from .state import StateError

# (kind of job, where it was) -> (rule, what it means for users). Places: `planned`; `staged`; `switching` towards the job's slot, not
# moved yet, or `moved`; `switched`; `going_back` from it; `gone_back`.
RULES: dict[tuple[str, str], tuple[str, str]] = {
    ("deploy", "planned"): ("keep", "users were never moved; the same release goes on with its number, another one leaves it"),
    ("deploy", "staged"): ("keep", "users were never moved; the same release goes on with its number, another one leaves it"),
    ("deploy", "switching"): ("unmark", "the switch was never moved"),
    ("deploy", "moved"): ("undo", "users are taken back to the release before: the new one was not proven through the gateway"),
    ("deploy", "switched"): ("undo", "users are taken back to the release before: the new one was not proven through the gateway"),
    ("deploy", "going_back"): ("close", "the way back is finished, the release stays marked as bad"),
    ("deploy", "gone_back"): ("close", "the way back is finished, the release stays marked as bad"),
    ("rollback", "planned"): ("keep", "users were never moved; the next rollback goes to the same release"),
    ("rollback", "staged"): ("keep", "users were never moved; the next rollback goes to the same release"),
    ("rollback", "switching"): ("unmark", "the switch was never moved; the next rollback goes to the same release"),
    ("rollback", "moved"): ("finish", "users are on the release before and stay there"),
    ("rollback", "switched"): ("finish", "users are on the release before and stay there"),
    ("rollback", "going_back"): ("shut", "users get the maintenance page; the next rollback goes to the same release"),
    ("rollback", "gone_back"): ("keep", "users see the maintenance page; the next rollback goes to the same release"),
    ("switch", "switching"): ("complete", "a person asked for it"),
    ("switch", "moved"): ("complete", "a person asked for it"),
}


def place_of(state: dict, stands: str | None) -> str:
    """Where the job in progress was, in the words of RULES. Raises StateError if the switch stands where no step of it leads."""
    job, step = state["in_progress"], state["in_progress"]["step"]
    if step == "switching":
        begun, to = job["move"]
        if stands not in (begun, to):
            raise StateError(
                f"run {job['run_id']} was moving users from {begun or 'closed'} to {to or 'closed'}, but they are on "
                f"{stands or 'the maintenance page'}: somebody moved the switch. Decide: sudo greenroom switch SLOT --reason '<why>'",
                4,
            )
        if job["kind"] == "switch" or to == job["slot"]:
            return "moved" if stands == to else "switching"
        return "going_back"
    return "gone_back" if step == "switched_back" else step


def reconcile(releases: Releases, *, run_id: str, fencing: int, rolling_back: bool = False) -> list[dict]:
    """Finish or undo what a dead run left, under the caller's lease; [{run_id, release, place, rule, text}], empty if there was nothing.

    rolling_back: the caller is a rollback, which itself goes on with an interrupted one; anybody else closes that.
    Raises StateError (a person is needed) and SwitchError (the switch could not be moved).
    """
    state = releases.read()
    job = state["in_progress"]
    if not job or job["run_id"] == run_id:
        return []
    place = place_of(state, releases.switch.read())
    rule, text = RULES[job["kind"], place]
    about = {"run_id": job["run_id"], "release": f"{job['number']}-{job['version']}", "place": place, "rule": rule, "text": text}
    mine = {"run_id": run_id, "fencing": fencing}
    why = f"run {job['run_id']} died ({place}): {text}"
    lease = releases.hold(fencing, run_id)

    def take(action: str, **changes: object) -> None:
        """Write the job as this run's, with what changes in it."""
        now = releases.read()
        now["in_progress"] = {**now["in_progress"], "run_id": run_id, **changes}
        releases.commit(now, action, lease, run_id=run_id, release=about["release"], why=why, result=rule)

    before = job["before"]["live"]["slot"] if job["before"]["live"] else None
    if job.get("undone") and rule == "close":
        rule = "undo"  # that run was itself taking users back for a dead one
    if rule == "unmark":
        take("reconciled", step="staged", run_id=job["run_id"])
    elif rule == "undo":
        take("reconciling", undone=True)
        releases.switch_to(before, **mine, reason=why)
        take("reconciled", step="staged", run_id=job["run_id"])
    elif rule == "close":
        take("reconciling")
        releases.switch_to(before, **mine, reason=why)
        releases.fail(**mine, reason=why, bad=True)
    elif rule == "shut":
        take("reconciling")
        releases.switch_to(None, **mine, reason=why)
    elif rule == "complete":
        releases.switch_to(job["move"][1], **mine, reason=why, accept_bad=True)
    elif rule == "finish":
        if place == "moved":
            take("reconciling")
            releases.switch_to(job["slot"], **mine, reason=why)
        if rolling_back:
            return [about]
        if place == "switched":
            take("reconciling")
        releases.confirm(**mine)
    return [about]
