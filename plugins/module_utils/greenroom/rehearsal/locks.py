"""Locks that make the service wait, for how long, and what that means on the live database."""

from __future__ import annotations

from .adapters import Outcome, Revision
from .catalog import Catalog, Table

READERS_TOO = "AccessExclusiveLock"
NOISE, NOISE_PER_ROW = 200_000, 8  # bytes of WAL: entries of the catalog, hint bits, statistics


def touched(catalog: Catalog, outcome: Outcome) -> list[Table]:
    """The tables of the old schema that a revision locks, reads or names; all of them if its statements are not known."""
    if not outcome.watched:
        return catalog.own
    oids = {one["relation"] for one in outcome.locks} | {int(oid) for oid, rows in outcome.scanned.items() if rows}
    loose = " ".join(one["text"] for one in outcome.statements if one["autocommit"])
    return [table for table in catalog.own if table.oid in oids or table.name in loose]


def timed(ground: object, name: str, revision: Revision, catalog: Catalog, count: int) -> dict:
    """One upgrade of a database whose tables have about `count` rows: {rows, seconds, wal_bytes, locks, scanned, error}."""
    wal = ground.wal()
    with ground.polled(name) as polled:
        outcome = ground.adapter.up(ground.url(name), revision.revision)
    held = {(one["relation"], one["mode"]): one["seconds"] for one in outcome.locks}
    if not outcome.watched or any(one["autocommit"] for one in outcome.statements):
        held = {**polled, **held}
    strongest: dict[int, tuple[str, float]] = {}
    for (oid, mode), seconds in held.items():
        if oid in catalog.tables and seconds > strongest.get(oid, ("", -1.0))[1]:
            strongest[oid] = (mode, seconds)
        if oid in catalog.tables and mode == READERS_TOO:
            strongest[oid] = (mode, max(seconds, strongest[oid][1]))
    return {
        "rows": count, "seconds": round(outcome.seconds, 4), "wal_bytes": ground.wal() - wal, "error": outcome.error,
        "locks": {catalog.tables[oid].label: {"mode": mode, "seconds": round(held, 4)} for oid, (mode, held) in strongest.items()},
        "scanned": [
            catalog.tables[int(oid)].label for oid, rows in outcome.scanned.items() if int(oid) in catalog.tables and rows >= count
        ],
    }  # fmt: skip


def grows(run: dict) -> bool:
    """Whether a run's work depends on how many rows there are: tables read in full, or WAL for every row."""
    return bool(run["scanned"]) or run["wal_bytes"] > NOISE_PER_ROW * run["rows"] + NOISE


def quicker(one: dict, other: dict) -> dict:
    """Of two runs at the same size, the shorter times."""
    best = {
        label: {**lock, "seconds": min(lock["seconds"], other["locks"].get(label, lock)["seconds"])} for label, lock in one["locks"].items()
    }
    return {**one, "seconds": min(one["seconds"], other["seconds"]), "wal_bytes": min(one["wal_bytes"], other["wal_bytes"]), "locks": best}


def predicted(runs: list[dict], catalog: Catalog, rows: dict[str, int]) -> dict:
    """What the two runs say (the same one twice if the size makes no difference).

    {sizes, wal_bytes, wal_bytes_predicted, down_seconds, locks: [{table, mode, seconds, grows, live_rows, predicted_s}]}

    rows: {table: rows of the live database}. A lock's time grows with the rows of the tables that are read or written in full while it is
    held; without that it is what was measured. predicted_s is None where the live number of rows is not known.
    """
    small, large = runs
    step = max(1, large["rows"] - small["rows"])
    wal_per_row = max(0.0, (large["wal_bytes"] - small["wal_bytes"]) / step)
    growing = bool(large["scanned"]) or wal_per_row > NOISE_PER_ROW
    found = []
    for label, lock in large["locks"].items():
        before = small["locks"].get(label, {"seconds": 0.0})["seconds"]
        slope = (lock["seconds"] - before) / step if lock["seconds"] > before else lock["seconds"] / large["rows"]
        # A lock lasts until the transaction ends, so any table's rows may make it longer.
        live = max((rows[name] for name in {label, *large["scanned"]} if name in rows), default=None)
        guess = None if live is None else lock["seconds"] + (slope * max(0, live - large["rows"]) if growing else 0.0)
        found.append({
            "table": label, "mode": lock["mode"], "seconds": lock["seconds"], "grows": growing, "live_rows": live,
            "predicted_s": None if guess is None else round(guess, 3),
        })  # fmt: skip
    sizes = [
        {key: run.get(key) for key in ("rows", "seconds", "wal_bytes", "down_seconds", "not_grown")}
        for run in ([small] if small is large else runs)
    ]
    most = max((rows[name] for name in large["locks"] if name in rows), default=None)
    predicted_wal = None if most is None else int(large["wal_bytes"] + wal_per_row * max(0, most - large["rows"]))
    return {
        "sizes": sizes, "wal_bytes": large["wal_bytes"], "wal_bytes_predicted": predicted_wal, "locks": found,
        "down_seconds": large.get("down_seconds", 0.0),
    }  # fmt: skip


def text(lock: dict, budget_s: float) -> str:
    """A lock that is held too long, for a person."""
    who = "reads and writes" if lock["mode"] == READERS_TOO else "writes"
    if lock["predicted_s"] is None:
        return f"{who} of {lock['table']} wait {lock['seconds']:g} s with a few thousand rows ({lock['mode']}, at most {budget_s:g} s)"
    wait = f"would wait {lock['predicted_s']:g} s with {lock['live_rows']} rows"
    return f"{who} of {lock['table']} {wait} ({lock['mode']}, at most {budget_s:g} s)"
