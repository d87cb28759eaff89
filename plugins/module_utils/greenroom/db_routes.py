"""Rolling the database back: which way, when. One table in code; each way says whether it is open, why, what is lost, how long it takes.

The order is that of what keeps the newest writes: application only, forward fix, downgrade, swap of the copy from before, clone and merge,
point in time, older backup. A way that the rehearsal's manifest forbids is closed, whoever asks for it (runbook 002 rollback A to C).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from .rehearsal.verdict import BROKEN, DESTRUCTIVE, FAILS, LOSSLESS, LOSSY, UNPROVEN, VERDICTS

BAD_RELEASE, FAILED_UPGRADE, BAD_STATEMENT, WRECKED = "bad_release", "failed_upgrade", "bad_statement", "wrecked"
HOST_LOST, CORRUPTION, STORE_LOST, STUCK = "host_lost", "corruption", "store_lost", "stuck"
SITUATIONS = (BAD_RELEASE, FAILED_UPGRADE, BAD_STATEMENT, WRECKED, HOST_LOST, CORRUPTION, STORE_LOST, STUCK)
NOTHING = "nothing"


@dataclasses.dataclass(frozen=True)
class Situation:
    """What is known in the incident; None is unknown, and unknown never opens a way.

    kind: one of SITUATIONS. verdict: the worst of the revisions to be undone.
    old_app_works: the release to go back to works on this schema.
    recoverable: a side copy was seen to bring back what a downgrade drops. undone_at_once: a failed upgrade was one transaction.
    snapshot: a copy from before the migration is there. rows_since_snapshot: rows written since. restore_point: a named point is archived.
    archived_s: age of the newest archived WAL (seconds); received: WAL is received as it is written. standby: one is there and healthy.
    prepared, slots: prepared transactions and replication slots in the way. invalid_indexes: left by a build that failed.
    seconds: {downgrade, side_copy, swap, clone, point_in_time, restore, standby: measured by the rehearsal or the last drill}.
    """

    kind: str
    verdict: str | None = None
    old_app_works: bool | None = None
    recoverable: bool | None = None
    undone_at_once: bool | None = None
    snapshot: bool = False
    rows_since_snapshot: int | None = None
    restore_point: bool = False
    archived_s: float | None = None
    received: bool = False
    standby: bool = False
    prepared: int = 0
    slots: int = 0
    invalid_indexes: tuple[str, ...] = ()
    seconds: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Route:
    """One way: whether it is open, why (not), what is lost, how long it takes (seconds, None: nobody measured it), what comes after it."""

    name: str
    open: bool
    reason: str
    loss: str = NOTHING
    seconds: float | None = None
    then: str = ""


def worst(verdicts: list[str]) -> str | None:
    """The worst verdict; one that nobody knows counts as unproven."""
    known = [one if one in VERDICTS else UNPROVEN for one in verdicts]
    return max(known, key=VERDICTS.index) if known else None


def from_manifest(manifest: dict, revisions: list[str]) -> dict:
    """What a rehearsal says about undoing these revisions: {verdict, old_app_works, recoverable, seconds, side_copy} for a Situation.

    A revision that is not in the manifest makes the verdict UNPROVEN.
    """
    entries = {one["revision"]: one for one in manifest["revisions"]}
    mine = [entries[name] for name in revisions if name in entries]
    verdict = worst([entries[name]["verdict"] if name in entries else UNPROVEN for name in revisions])
    tried = [one["recoverable"] for one in mine if one["side_copy"]]
    downgrade = sum(one["measured"].get("down_seconds") or 0.0 for one in mine)
    return {
        "verdict": verdict, "old_app_works": len(mine) == len(revisions) and not any("OLD_APP_BREAKS" in one["flags"] for one in mine),
        "recoverable": all(tried) if tried else None, "seconds": {"downgrade": round(downgrade, 3)},
        "side_copy": {one["revision"]: one["side_copy"] for one in mine if one["side_copy"]},
    }  # fmt: skip


def between(manifest: dict, current: list[str], target: str) -> list[str]:
    """The revisions that a downgrade from `current` to `target` ("base" for all) undoes, newest first, as the manifest chains them.

    One that the manifest does not know is among them, where the chain breaks off: it makes the verdict UNPROVEN.
    """
    parents = {one["revision"]: one["parents"] for one in manifest["revisions"]}

    def below(names: list[str], stop: set[str]) -> list[str]:
        found, todo = [], list(names)
        while todo:
            if (one := todo.pop(0)) not in (*found, *stop):
                found.append(one)
                todo += parents.get(one, [])
        return found

    if target == "base":
        return below(current, set())
    undone = below(current, set(below([target], set())))
    reached = any(target in parents.get(one, []) for one in undone)
    return undone if reached or not undone else [*undone, f"no way from them to {target}"]


def closed(name: str, reason: str) -> Route:
    """A way that is not open."""
    return Route(name, False, reason)


def leave_schema(now: Situation) -> Route:
    """Roll back the application only."""
    if now.kind != BAD_RELEASE:
        return closed("leave_schema", "the release is not what is wrong")
    if not now.old_app_works:
        known = "breaks on this schema" if now.old_app_works is False else "was not tried on this schema"
        return closed("leave_schema", f"the release to go back to {known}")
    why = "the release to go back to works on this schema"
    return Route("leave_schema", True, why, seconds=now.seconds.get("deploy"), then="contract later")


def forward_fix(now: Situation) -> Route:
    """Drop what a failed build left and run the upgrade again."""
    if now.kind != FAILED_UPGRADE:
        return closed("forward_fix", "no upgrade failed half way")
    if now.undone_at_once:
        return Route("forward_fix", True, "the failed upgrade was one transaction and is undone: correct it and run it again")
    if now.invalid_indexes:
        return Route("forward_fix", True, f"drop {', '.join(now.invalid_indexes)} and run the upgrade again; never stamp a version blindly")
    return closed("forward_fix", "it is not known what the failed upgrade left: compare the schema with the rehearsal's first")


def downgrade(now: Situation) -> Route:
    """Undo the revisions, with a side copy where something would be dropped."""
    took = now.seconds.get("downgrade")
    if now.kind != BAD_RELEASE:
        return closed("downgrade", "no revision is what is wrong")
    if now.verdict == LOSSLESS:
        return Route("downgrade", True, "the rehearsal lost nothing on the way down", seconds=took, then="block writers while it runs")
    if now.verdict == LOSSY and now.recoverable:
        copy = now.seconds.get("side_copy")
        whole = None if took is None or copy is None else took + copy
        why = "what only the new schema holds is copied aside first, and was seen to come back from there"
        then = "merge the side copy when the release returns"
        return Route("side_copy_downgrade", True, why, "nothing, it is kept in the side copy", whole, then)
    if now.verdict == FAILS:
        why = "the downgrade stops at values that only the new schema holds: copy those rows aside and correct them first"
        then = "clone and merge if they cannot be corrected"
        return Route("fix_up_downgrade", True, why, "nothing, the rows are kept in the side copy", None, then)
    reasons = {
        LOSSY: "it drops data, and no side copy was seen to bring it back", DESTRUCTIVE: "it gives the columns back, not their data",
        BROKEN: "the rehearsal found no downgrade that restores the schema", UNPROVEN: "the rehearsal could not show what it does",
        None: "it was not rehearsed",
    }  # fmt: skip
    return closed("downgrade", f"{now.verdict or 'no verdict'}: {reasons[now.verdict]}")


def swap(now: Situation) -> Route:
    """Bring the copy from before the migration in by renaming, keep the bad database."""
    if now.kind not in (BAD_RELEASE, WRECKED, FAILED_UPGRADE):
        return closed("swap", "a copy from before a migration does not answer this")
    if not now.snapshot:
        return closed("swap", "there is no copy from before the migration")
    if now.prepared or now.slots:
        return closed("swap", f"{now.prepared} prepared transaction(s) and {now.slots} replication slot(s) are in the way: end them first")
    rows = now.rows_since_snapshot
    if rows is None:
        return closed("swap", "it is not known how many rows were written since the copy: count them first")
    loss = f"{rows} row(s) written since, kept in the bad database" if rows else NOTHING
    then = "merge what was written since from the kept database"
    return Route("swap", True, "the copy from before is there", loss, now.seconds.get("swap"), then)


def clone_and_merge(now: Situation) -> Route:
    """Restore a clone to just before, copy the affected rows back."""
    if now.kind not in (BAD_STATEMENT, BAD_RELEASE):
        return closed("clone_and_merge", "it is not about some rows or tables")
    if now.archived_s is None:
        return closed("clone_and_merge", "nothing is known of the archive, so no clone can be promised")
    why = "a clone from just before has the rows, and everything else keeps its newest writes"
    then = "a whole point in time if too much is entangled"
    return Route("clone_and_merge", True, why, "nothing elsewhere", now.seconds.get("clone"), then)


def standby(now: Situation) -> Route:
    """Promote a standby."""
    if now.kind not in (HOST_LOST, CORRUPTION):
        return closed("standby", "a standby has the same mistake")
    if not now.standby:
        return closed("standby", "there is no healthy standby")
    then = "a base backup at once, then a new standby"
    return Route("standby", True, "a healthy standby is there", NOTHING, now.seconds.get("standby"), then)


def point_in_time(now: Situation) -> Route:
    """Restore into a new directory, verify, switch."""
    if now.kind == STUCK:
        return closed("point_in_time", "no data is wrong")
    if now.archived_s is None:
        return closed("point_in_time", "nothing is known of the archive: look at the newest archived segment first")
    if now.kind in (HOST_LOST, STORE_LOST, CORRUPTION):
        loss = NOTHING if now.received else f"what was written in the last {now.archived_s:g} s"
        why = "newest base backup and all archived WAL"
        return Route("point_in_time", True, why, loss, now.seconds.get("restore"), "a base backup at once")
    target = "the named restore point" if now.restore_point else "the last position before it, by LSN"
    loss = f"everything written since {target}, kept in the old directory"
    why = f"restored beside, to {target}, then switched"
    return Route("point_in_time", True, why, loss, now.seconds.get("point_in_time"), "a base backup at once")


def older_backup(now: Situation) -> Route:
    """The newest verified backup, whatever its age."""
    if now.kind == STUCK:
        return closed("older_backup", "no data is wrong")
    why = "the last resort: the newest verified backup"
    return Route("older_backup", True, why, "everything written since it", now.seconds.get("restore"))


def terminate(now: Situation) -> Route:
    """Block and end all sessions."""
    if now.kind != STUCK:
        return closed("terminate", "sessions are not what is wrong")
    why = "find who owns the locks first; then connections are blocked, all sessions are signalled, and it is opened again"
    return Route("terminate", True, why, "open transactions", now.seconds.get("terminate", 0.2), "a restart (fast stop)")


ORDER: tuple[Callable[[Situation], Route], ...] = (
    terminate, leave_schema, forward_fix, downgrade, swap, clone_and_merge, standby, point_in_time, older_backup,
)  # fmt: skip


def routes(now: Situation) -> list[Route]:
    """All ways in the order in which to try them, closed ones with their reason. Raises ValueError for an unknown kind of situation."""
    if now.kind not in SITUATIONS:
        raise ValueError(f"unknown situation {now.kind!r}; these are known: {', '.join(SITUATIONS)}")
    return [route(now) for route in ORDER]


def choose(now: Situation, wanted: str | None = None) -> Route:
    """The first way that is open, or the one that is wanted. Raises ValueError if that one is closed, with the reason and what is open."""
    found = routes(now)
    usable = [one for one in found if one.open]
    if wanted is None:
        if not usable:
            raise ValueError("no way is open: " + "; ".join(f"{one.name}: {one.reason}" for one in found))
        return usable[0]
    one = next((one for one in usable if one.name == wanted), None)
    if one is None:
        why = next((one.reason for one in found if one.name == wanted or wanted.endswith(one.name)), "there is no such way now")
        raise ValueError(f"{wanted} is closed: {why}. Open: {', '.join(one.name for one in usable) or 'none'}")
    return one
