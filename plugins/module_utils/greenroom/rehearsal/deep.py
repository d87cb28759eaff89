"""Steps 10 and 11 of a walk: an upgrade whose session is ended in the middle, and a downgrade while the service works."""

from __future__ import annotations

import contextlib
import random
import threading
import time

from . import catalog as catalogs
from . import seed
from . import state as states

MOST_KILLS = 4
WAIT_S = 0.2
LOAD_CLIENTS = 2
INDEXES = (
    "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
    " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname NOT LIKE 'pg\\_%'"
)


def interrupted(walk: object) -> None:
    """End the upgrade's session after one of its statements, or during one that runs outside a transaction: nothing in between may stay.

    A state in between that the same upgrade heals when it is run again (after the indexes that it left were dropped) is noted, not flagged.
    """
    count = walk_once(walk)
    chosen = random.Random(walk.options.chance).sample(range(1, count[0] + 1), min(MOST_KILLS, count[0]))
    for number in sorted(chosen):
        with walk.ground.copied(walk.parent) as (name, connection):
            seed.seed(connection, catalogs.read(connection, walk.ground.versions), 0, walk.options.reasons)
            before = (walk.ground.state(name, connection), index_names(connection))
            outcome = walk.ground.adapter.up(walk.ground.url(name), walk.revision.revision, kill_after=number)
            judge(walk, name, connection, before, outcome, f"after its statement {number} of {count[0]}")
    if count[1]:
        with walk.ground.copied(walk.parent) as (name, connection):
            seed.seed(connection, catalogs.read(connection, walk.ground.versions), 0, walk.options.reasons)
            before = (walk.ground.state(name, connection), index_names(connection))
            with ended_while_it_waits(walk, name):
                outcome = walk.ground.adapter.up(walk.ground.url(name), walk.revision.revision)
            judge(walk, name, connection, before, outcome, "during a statement outside a transaction")


def walk_once(walk: object) -> tuple[int, bool]:
    """(how many statements the upgrade has, whether any builds something concurrently)."""
    with walk.ground.copied(walk.parent) as (name, connection):
        seed.seed(connection, catalogs.read(connection, walk.ground.versions), 0, walk.options.reasons)
        outcome = walk.ground.adapter.up(walk.ground.url(name), walk.revision.revision)
        return len(outcome.statements), any("CONCURRENTLY" in one["text"].upper() for one in outcome.statements)


@contextlib.contextmanager
def ended_while_it_waits(walk: object, name: str):
    """Make a concurrent build wait for an open transaction, then end its session."""
    over = threading.Event()

    def end() -> None:
        with walk.ground.connect(name) as blocker, walk.ground.connect(name) as killer:
            blocker.autocommit = False
            for table in catalogs.read(blocker, walk.ground.versions).own:
                blocker.execute(f"LOCK TABLE {table.sql} IN ROW EXCLUSIVE MODE")
            ready.set()
            while not over.wait(WAIT_S):
                killer.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
                    " AND query ILIKE '%%CONCURRENTLY%%' AND pid <> pg_backend_pid()",
                    [name],
                )
            blocker.rollback()

    ready = threading.Event()
    thread = threading.Thread(target=end, daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield
    finally:
        over.set()
        thread.join(10)


def index_names(connection: object) -> set[str]:
    """All indexes, valid or not."""
    return {row[0] for row in connection.execute(INDEXES).fetchall()}


def judge(walk: object, name: str, connection: object, was: tuple[states.State, set[str]], outcome: object, when: str) -> None:
    """After an interruption: all of it, nothing of it, or something that running it again heals; else a finding."""
    revision, (before, indexes) = walk.revision.revision, was
    after = walk.ground.state(name, connection)
    lines, _moved = states.schema_differences(before, after)
    lost = states.row_losses(before, after) + states.row_gains(before, after)
    if revision in outcome.current:
        if not outcome.error:
            return
        walk.found(10, "NOT_ATOMIC", f"its session ended {when}; the revision counts as done although it failed: {outcome.error[:300]}")
        return
    if not lines and not lost:
        return
    between = "; ".join(lines[:4] + [loss.text() for loss in lost[:4]])
    left = sorted(index_names(connection) - indexes)
    for index in left:
        connection.execute(f"DROP INDEX {index}")
    again = walk.ground.adapter.up(walk.ground.url(name), revision)
    if again.error or revision not in again.current:
        walk.found(
            10,
            "NOT_ATOMIC",
            f"its session ended {when}: half of it stays ({between}), and it cannot be run again: {(again.error or '')[:300]}",
        )
        return
    drop = f" after DROP INDEX {', '.join(left)}" if left else ""
    walk.found(10, "NOTE", f"its session ended {when}: part of it stays ({between}); running it again{drop} heals that")


def under_load(walk: object) -> None:
    """Two clients run the serving release's statements during the downgrade; errors and the longest stall are noted."""
    with walk.ground.copied(walk.parent) as (name, connection):
        catalog = catalogs.read(connection, walk.ground.versions)
        seed.seed(connection, catalog, 0, walk.options.reasons)
        trials = [one for one in walk.trials(connection) if not one.recorded and one.text.startswith(("SELECT", "UPDATE"))]
        walk.up(name, 11, "NOTE")
        over, stalls, errors, done = threading.Event(), [], [], []

        def client() -> None:
            import psycopg

            with walk.ground.connect(name) as other:
                other.execute(f"SET lock_timeout = '{int(walk.options.lock_budget_s * 1000)}ms'")
                while not over.is_set():
                    for one in trials:
                        began = time.monotonic()
                        try:
                            with other.transaction(force_rollback=True):
                                other.execute(one.text, one.values)
                            done.append(1)
                        except psycopg.Error as error:
                            errors.append(f"{one.about}: {str(error).strip().splitlines()[0]}")
                        stalls.append(time.monotonic() - began)
                        if over.is_set():
                            break

        threads = [threading.Thread(target=client, daemon=True) for _ in range(LOAD_CLIENTS if trials else 0)]
        for thread in threads:
            thread.start()
        time.sleep(WAIT_S)
        try:
            outcome = walk.ground.adapter.down(walk.ground.url(name), walk.revision.revision)
            time.sleep(WAIT_S)
        finally:
            over.set()
            for thread in threads:
                thread.join(10)
        stall = max(stalls, default=0.0)
        walk.measured["under_load"] = {
            "statements": len(done), "errors": len(errors), "first_error": errors[0] if errors else None,
            "longest_stall_s": round(stall, 3),
            "downgrade": outcome.error or "done",
        }  # fmt: skip
        if stall > walk.options.lock_budget_s:
            walk.found(
                11, "LOCK", f"the downgrade under load kept a statement waiting {stall:.2f} s, at most {walk.options.lock_budget_s:g} s"
            )
        if outcome.error:
            walk.found(11, "NOTE", f"the downgrade did not get through under load, and left everything as it was: {outcome.error[:300]}")
