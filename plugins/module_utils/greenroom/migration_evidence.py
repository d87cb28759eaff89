"""Evidence of a migration: the plan, what was applied, the revision, and the tables and indexes that the contract declares."""

from __future__ import annotations

import time

from .records import ERROR, FAIL, NOT_APPLICABLE, PASS, record, utc_now


def names(revisions: list[dict]) -> str:
    """Revisions for a person: `a1 (create things), b2 (add a column)`."""
    return (
        ", ".join(f"{one['revision']} ({one['message']})" if one["message"] else one["revision"] for one in revisions)
        or "none"
    )


def at(revisions: list[str]) -> str:
    """A database's or release's revision for a person."""
    return ", ".join(revisions) or "base (no revision yet)"


class Clock:
    """When something began, and the two keys of a record that say so and how long it took."""

    def __init__(self) -> None:
        self.started, self._begun = utc_now(), time.monotonic()

    def keys(self) -> dict:
        """`started` (ISO 8601) and `duration_ms` up to now."""
        return {"started": self.started, "duration_ms": round((time.monotonic() - self._begun) * 1000, 1)}


def plan_record(database: str, plan: dict | None, why: str | None, clock: Clock) -> dict:
    """Which revisions are pending, not what the history is (001 §3.2)."""
    observed = (
        plan
        and f"{at(plan['current'])} -> {at(plan['heads'])}, {len(plan['pending'])} pending: {names(plan['pending'])}"
    )
    status = PASS if plan and not why else FAIL if plan else ERROR
    expected = "a revision the release knows, and one head"
    detail = {"database": database, **(plan or {})}
    return record("db.migration.state_before", status, expected, observed, reason=why, detail=detail, **clock.keys())


def applied_record(unit: str, raw: dict, why: str | None, clock: Clock) -> dict:
    """What was applied."""
    done = [one for one in raw["started"] if one["done"]]
    observed = (
        f"applied {len(done)}: {names(done)}" if done else "nothing was pending" if not why else "nothing applied"
    )
    expected = f"applied: {names(raw['before']['pending'])}" if raw["before"] else "the pending revisions are applied"
    detail = {"revisions": raw["started"], "lock_waited_s": raw["lock"].get("waited_s"), "unit": unit}
    return record(
        "db.migration.applied", FAIL if why else PASS, expected, observed, reason=why, detail=detail, **clock.keys()
    )


def head_record(after: dict | None, why: str | None, clock: Clock) -> dict:
    """Whether the database is at the release's newest revision."""
    if after is None:
        return record("db.migration.head", ERROR, "the release's newest revision", None, reason=why, **clock.keys())
    there = after["current"] == after["heads"]
    reason = (
        None
        if there
        else f"the database is at {at(after['current'])}, the release's newest revision is {at(after['heads'])}"
    )
    return record(
        "db.migration.head",
        PASS if there else FAIL,
        at(after["heads"]),
        at(after["current"]),
        reason=reason,
        **clock.keys(),
    )


def declared_record(id: str, what: str, declared: list[str], found: dict | None, why: str | None, clock: Clock) -> dict:
    """Whether the tables or indexes that the contract declares exist, the indexes valid."""
    if not declared:
        reason = f"the contract declares no {what} (dependencies.database.{what})"
        return record(id, NOT_APPLICABLE, reason=reason, **clock.keys())
    if found is None:
        return record(id, ERROR, declared, None, reason=f"not looked at: {why}", **clock.keys())
    bad = {how: some for how, some in found.items() if some}
    there = [name for name in declared if not any(name in some for some in bad.values())]
    reason = "; ".join(f"{what} {how}: {', '.join(some)}" for how, some in bad.items())
    if bad:
        reason += f" (declared in dependencies.database.{what}; correct the migration or the contract)"
    return record(id, FAIL if bad else PASS, declared, there, reason=reason or None, **clock.keys())


def rolled_back_record(target: str, raw: dict, why: str | None, clock: Clock) -> dict:
    """The database is at the named revision, and no other data was touched (002 database rollback B)."""
    done = [one for one in raw["started"] if one["done"]]
    after = raw["after"] or raw["before"]
    observed = f"at {at(after['current'])}, undone {len(done)}: {names(done)}" if after else None
    status = FAIL if why and after else ERROR if why else PASS
    detail = {"revisions": raw["started"], "lock_waited_s": raw["lock"].get("waited_s")}
    return record("rollback.db.migration", status, f"at {target}", observed, reason=why, detail=detail, **clock.keys())
