"""The walk of one revision R from its parent P, steps 0 to 9: seed, up, down, compare, up again, write, down, compare, up again.

Steps 10 to 12 are in `deep.py`. What is found is data (`verdict.finding`); an exception means that nothing could be shown.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from . import catalog as catalogs
from . import deep, growth, locks, seed, side_copy, statements, static_gate, verdict
from . import state as states
from .adapters import Outcome, Revision
from .catalog import Catalog, quoted
from .ground import Ground
from .values import value_of
from .verdict import finding

STEPS = {
    0: "source", 1: "seed", 2: "state at the parent", 3: "upgrade", 4: "serving release", 5: "downgrade", 6: "upgrade again",
    7: "writes of the new release", 8: "downgrade after writes", 9: "upgrade after loss, side copy", 10: "interrupted",
    11: "downgrade under load",
}  # fmt: skip
MOMENTARY = ("now()", "current_timestamp", "clock_timestamp", "current_date", "localtimestamp", "random", "uuid", "statement_timestamp")
NEXT, AFTER = 10_000, 20_000  # where the values of later rounds begin
FEW = 8  # findings of one kind that are spelt out


class Stop(Exception):
    """The walk cannot go on; what stopped it is a finding."""


class Walk:
    """The walk of one revision. `result()` is its entry of the manifest."""

    def __init__(self, ground: Ground, revision: Revision, parent: str):
        self.ground, self.revision, self.parent, self.options = ground, revision, parent, ground.options
        self.findings: list[dict] = []
        self.steps = {number: {"step": number, "name": name, "status": "not_run", "seconds": 0.0} for number, name in STEPS.items()}
        self.loses: list[dict] = []
        self.wanted: list[dict] = []
        self.measured: dict = {"locks": [], "rewrites": [], "wal_bytes": 0, "seconds": 0.0, "down_seconds": 0.0, "sizes": []}
        self.rows: dict[str, int] = {}
        self.gaps: list[dict] = []
        self.recoverable: bool | None = None
        self.copy_before: list[str] = []
        self.clean = False  # step 5 found nothing

    def found(self, step: int, code: str, text: str, about: str = "") -> None:
        """Note a finding."""
        self.findings.append(finding(step, code, text, about))

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """A step of the walk: timed; red if something was found in it."""
        before, began, one = len(self.findings), time.monotonic(), self.steps[number]
        try:
            yield
        finally:
            one["seconds"] = round(one["seconds"] + time.monotonic() - began, 3)
            bad = [each for each in self.findings[before:] if each["step"] == number and each["code"] != "NOTE"]
            one["status"] = "fail" if bad or one["status"] == "fail" else "pass"

    def up(self, name: str, step: int, code: str) -> Outcome:
        """Upgrade to R; an error is a finding and ends the walk."""
        outcome = self.ground.adapter.up(self.ground.url(name), self.revision.revision)
        if not outcome.error and self.revision.revision not in outcome.current:
            outcome.error = f"it ended without an error, but the database is at {', '.join(outcome.current) or 'base'}"
        if outcome.error:
            self.found(step, code, outcome.error[:1500])
            raise Stop
        return outcome

    def down(self, name: str, step: int, code: str) -> Outcome:
        """Undo R; as `up`."""
        outcome = self.ground.adapter.down(self.ground.url(name), self.revision.revision)
        if not outcome.error and self.revision.revision in outcome.current:
            outcome.error = "it ended without an error, but the revision is still there"
        if outcome.error:
            self.found(step, code, outcome.error[:1500])
            raise Stop
        return outcome

    # --- the steps --------------------------------------------------------------------------------------------------------

    def run(self) -> dict:
        """All steps that can be run; the entry of the manifest."""
        with self.step(0):
            for code, line, text in static_gate.source_findings(self.revision):
                self.found(0, code, text, f"line {line}")
        try:
            with self.ground.copied(self.parent) as (name, connection):
                self.walk(name, connection)
        except Stop:
            pass
        if not self.clean:
            self.try_side_copy_before()
        if self.options.depth == "full":
            self.go_deeper()
        return self.result()

    def walk(self, name: str, connection: object) -> None:
        """Steps 1 to 9 in one database."""
        with self.step(1):
            seeded = self.seed(connection)
        with self.step(4):
            trials = self.trials(connection)
            at_parent = statements.tried(connection, trials)
        with self.step(2):
            before = self.ground.state(name, connection)
        with self.step(3):
            outcome = self.up(name, 3, "UPGRADE_FAILS")
            upper = self.ground.state(name, connection)
            self.measured["seconds"] = round(outcome.seconds, 4)
            self.rewritten(before.catalog, upper.catalog)
        with self.step(4):
            for text in statements.breaks(trials, at_parent, statements.tried(connection, trials))[:FEW]:
                self.found(4, "OLD_APP_BREAKS", text)
            for loss in states.other_values(before, upper)[:FEW]:
                self.found(4, "OLD_APP_BREAKS", f"the name {loss.table}.{loss.column} means another column now: {loss.text()}", loss.table)
        with self.step(3):
            touched = locks.touched(before.catalog, outcome)
        self.destroyed(before, upper)
        with self.step(5):
            self.down(name, 5, "DOWNGRADE_FAILS")
            self.compare_down(before, self.ground.state(name, connection))
        with self.step(3):
            self.at_two_sizes(before.catalog, touched)
        if not self.clean:
            raise Stop
        with self.step(6):
            self.up(name, 6, "UPGRADE_AGAIN_FAILS")
            self.compare_up(upper, self.ground.state(name, connection))
        with self.step(7):
            self.write(connection, before.catalog, seeded)
            written = self.ground.state(name, connection)
        self.after_writes(name, connection, before, written)

    def seed(self, connection: object) -> seed.Seeded:
        """Step 1. Gaps without a reason end the walk: nothing would be shown about those tables."""
        for key in (self.revision.revision, "*"):
            if key in self.options.fixtures:
                connection.execute(self.options.fixtures[key])
        catalog = catalogs.read(connection, self.ground.versions)
        seeded = seed.seed(connection, catalog, 0, self.options.reasons)
        self.note_gaps(1, seeded)
        self.rows = dict(seeded.rows)
        return seeded

    def note_gaps(self, step: int, seeded: seed.Seeded) -> None:
        """Keep the gaps; those that nobody gave a reason for are findings."""
        self.gaps += [{**gap, "step": step} for gap in seeded.gaps]
        for gap in seeded.gaps:
            if not gap["reason"]:
                about = f"{gap['table']}.{gap['column']}" if gap["column"] else gap["table"]
                self.found(step, "NOT_SEEDED", f"{about}: {gap['why']}. Give a fixture or a reason", about)
        if any(not gap["reason"] for gap in seeded.gaps):
            raise Stop

    def trials(self, connection: object) -> list[statements.Statement]:
        """Step 4's statements: recorded ones, and generated ones whose INSERTs this schema takes."""
        catalog = catalogs.read(connection, self.ground.versions)
        with connection.transaction(force_rollback=True):
            again = seed.seed(connection, catalog, NEXT, self.options.reasons)
        recorded = [statements.Statement(text, recorded=True) for text in self.options.statements]
        return recorded + statements.generated(catalog, again, NEXT)

    def rewritten(self, before: Catalog, after: Catalog) -> None:
        """Which tables got new files."""
        for oid, table in before.tables.items():
            if oid in after.tables and table.filenode and after.tables[oid].filenode != table.filenode:
                self.measured["rewrites"].append(table.label)
                self.found(3, "REWRITE", f"{table.label} is written anew, all of it, while nobody may use it", table.label)

    def destroyed(self, before: states.State, upper: states.State) -> None:
        """What the upgrade takes away, by name; whether a downgrade brings it back is for step 5 to say."""
        for label, rows in before.rows.items():
            table = states.other_table(rows.table, upper.catalog)
            if table is None:
                self.wanted.append({"table": label, "columns": None, "rows": len(rows.by_key)})
                continue
            gone = [one.name for one in rows.table.columns if states.counterpart(one.number, one.name, rows.table, table) is None]
            if gone:
                self.wanted.append({"table": label, "columns": gone, "rows": len(rows.by_key)})

    def compare_down(self, before: states.State, after: states.State) -> None:
        """Step 5: schema, rows, sequences as they were."""
        lines, moved = states.schema_differences(before, after)
        if lines:
            self.found(5, "COLUMN_ORDER" if moved else "DOWNGRADE_INCOMPLETE", "the schema is not as it was: " + "; ".join(lines))
        for loss in states.row_losses(before, after):
            self.found(5, "DATA_LOST", f"up and down again loses {loss.text()}", loss.table)
            self.loses.append({"table": loss.table, "column": loss.column, "rows": loss.rows, "when": "without writes"})
            if not any(one["table"] == loss.table and (one["columns"] is None or loss.column in one["columns"]) for one in self.wanted):
                self.wanted.append({"table": loss.table, "columns": [loss.column] if loss.column else None, "rows": loss.rows})
        for gain in states.row_gains(before, after):
            if not any(loss["table"] == gain.table for loss in self.loses):
                self.found(5, "DOWNGRADE_INCOMPLETE", f"rows that the upgrade added stay: {gain.text()}", gain.table)
        for text in states.sequence_losses(before, after):
            self.found(5, "DOWNGRADE_INCOMPLETE", f"{text}: the next value exists already")
        self.clean = not any(one["step"] == 5 for one in self.findings)

    def volatile(self, catalog: Catalog) -> set[str]:
        """Columns whose values may differ: declared ones, and those whose default is a moment or a random number."""
        moments = {
            f"{table.label}.{column.name}"
            for table in catalog.own
            for column in table.columns
            if any(word in (column.default or "").lower() for word in MOMENTARY)
        }
        return moments | set(self.options.volatile)

    def compare_up(self, first: states.State, second: states.State) -> None:
        """Step 6: the second way up gives what the first one gave."""
        lines, _moved = states.schema_differences(first, second)
        if lines:
            self.found(6, "NONDETERMINISTIC", "the second upgrade gives another schema: " + "; ".join(lines))
        for loss in states.row_losses(first, second, self.volatile(first.catalog)):
            self.found(6, "NONDETERMINISTIC", f"the second upgrade gives other values (volatile? declare it): {loss.text()}", loss.table)

    def write(self, connection: object, old: Catalog, seeded: seed.Seeded) -> None:
        """Step 7: rows as only R allows them, new values in old rows, some old rows gone."""
        import psycopg

        catalog = catalogs.read(connection, self.ground.versions)
        new = seed.seed(connection, catalog, AFTER, self.options.reasons)
        self.note_gaps(7, new)
        for label, count in new.rows.items():
            self.rows[label] = self.rows.get(label, 0) + count
        if not sum(self.rows.values()) and catalog.own:
            self.found(7, "NOT_SEEDED", "no row at all was written")
            raise Stop
        for table in catalog.own:
            was = states.other_table(table, old)
            if was is None or not table.key:
                continue
            held = {number for one in table.of_kind("f") + table.of_kind("c") for number in one["columns"] or []}
            held |= {number for columns in table.unique for number in columns}
            key = ", ".join(map(quoted, table.key))
            picked = f"({key}) IN (SELECT {key} FROM {table.sql} ORDER BY {key} LIMIT {{}})"
            for place, column in enumerate(table.columns):
                value = None if column.computed or column.number in held else value_of(
                    catalog, column.type, column.modifier, "edge" if place % 2 else "foreign", AFTER + place, column.number in table.indexed
                )  # fmt: skip
                if value is not None:
                    with contextlib.suppress(psycopg.Error), connection.transaction():
                        connection.execute(f"UPDATE {table.sql} SET {quoted(column.name)} = %s WHERE {picked.format(2)}", [value])
            with contextlib.suppress(psycopg.Error), connection.transaction():
                connection.execute(f"DELETE FROM {table.sql} WHERE {picked.format(1)}")

    def after_writes(self, name: str, connection: object, before: states.State, written: states.State) -> None:
        """Steps 8 and 9: down with the new release's rows in it, up again, and what a side copy brings back."""
        with self.step(8):
            self.wanted = copies_for(before.catalog, written.catalog)
            if self.wanted:
                side_copy.make(connection, self.revision.revision, self.wanted, written.catalog)
            self.down(name, 8, "DOWNGRADE_FAILS_AFTER_WRITES")
            lower = self.ground.state(name, connection)
            lines, _moved = states.schema_differences(before, lower)
            if lines:
                self.found(8, "DOWNGRADE_INCOMPLETE", "after writes the schema is not as it was: " + "; ".join(lines))
        with self.step(9):
            self.up(name, 9, "UPGRADE_AGAIN_FAILS")
            again = self.ground.state(name, connection)
        with self.step(8):
            for loss in states.carried(written, lower, before):
                if not states.key_changed(loss, written, again, lower.rows[loss.table].table):
                    text = f"in the old schema it is gone or another value, and no upgrade brings it back: {loss.text()}"
                    self.found(8, "OLD_DATA_LOST_AFTER_WRITES", text, loss.table)
            for loss in states.row_losses(written, again):
                self.found(8, "DISAPPEARS", f"written at {self.revision.revision}, gone after the downgrade: {loss.text()}", loss.table)
                self.loses.append({"table": loss.table, "column": loss.column, "rows": loss.rows, "when": "after writes"})
        with self.step(9):
            if self.wanted and self.loses:
                side_copy.put_back(connection, self.revision.revision)
                left = states.row_losses(written, self.ground.state(name, connection))
                self.recoverable = not left
                for loss in left[:FEW]:
                    self.found(9, "NOTE", f"the side copy does not bring back {loss.text()}", loss.table)

    def at_two_sizes(self, catalog: Catalog, touched: list[catalogs.Table]) -> None:
        """Step 3 again with many rows: how long are locks held, how does it grow, what does it mean for the live database."""
        if not touched or not self.options.sizes:
            return
        small, large = self.options.sizes
        runs, first, failed = [], 1, {}
        with contextlib.ExitStack() as stack:
            name, connection = stack.enter_context(self.ground.copied(self.parent))
            for count in (small, large, large) if self.clean else (small, large):
                if first > 1 and not self.clean:  # no way down: begin anew
                    name, connection = stack.enter_context(self.ground.copied(self.parent))
                    first = 1
                if first == 1:
                    seeded = seed.seed(connection, catalog, 0, self.options.reasons)
                failed = growth.grow(connection, catalog, seeded, touched, first, count) if first <= count else failed
                runs.append({**locks.timed(self.ground, name, self.revision, catalog, count), "not_grown": failed})
                if runs[-1]["error"]:
                    self.found(3, "UPGRADE_FAILS", f"with {count} rows a table: {runs[-1]['error'][:1000]}")
                    return
                if not locks.grows(runs[-1]) and not self.measured["rewrites"]:
                    runs = runs * 2  # no row was read or written beyond a few: more of them make no difference
                    break
                if self.clean:
                    down = self.ground.adapter.down(self.ground.url(name), self.revision.revision)
                    runs[-1]["down_seconds"] = round(down.seconds, 4)
                first = count + 1
        if len(runs) == 3:  # the machine has other things to do too: the quicker of two runs is nearer to the truth
            runs = [runs[0], locks.quicker(runs[1], runs[2])]
        self.measured.update(locks.predicted(runs, catalog, self.options.rows))
        for one in self.measured["locks"]:
            if (one["predicted_s"] or one["seconds"]) > self.options.lock_budget_s:
                self.found(3, "LOCK", locks.text(one, self.options.lock_budget_s), one["table"])

    def try_side_copy_before(self) -> None:
        """For what the upgrade destroys: whether a side copy that is made before it brings everything back after up and down."""
        if not any(one["code"] == "DATA_LOST" for one in self.findings):
            return
        with self.step(9), self.ground.copied(self.parent) as (name, connection), contextlib.suppress(Stop):
            catalog = catalogs.read(connection, self.ground.versions)
            seed.seed(connection, catalog, 0, self.options.reasons)
            before = self.ground.state(name, connection)
            side_copy.make(connection, self.revision.revision, self.wanted, catalog)
            rendered = side_copy.rendered(catalog, self.revision.revision, self.wanted)
            self.up(name, 9, "NOTE")
            self.down(name, 9, "NOTE")
            side_copy.put_back(connection, self.revision.revision)
            left = states.row_losses(before, self.ground.state(name, connection))
            self.recoverable = not left
            if self.recoverable:
                self.copy_before = [side_copy.schema_sql(self.revision.revision), *(one["sql"] for one in rendered)]
            for loss in left[:FEW]:
                self.found(9, "NOTE", f"the side copy does not bring back {loss.text()}", loss.table)

    def go_deeper(self) -> None:
        """Steps 10 and 11, in databases of their own."""
        if not any(one["code"] in ("UPGRADE_FAILS", "NOT_SEEDED") for one in self.findings):
            with self.step(10):
                deep.interrupted(self)
        if self.clean:
            with self.step(11):
                deep.under_load(self)

    def result(self) -> dict:
        """The revision's entry of the manifest."""
        judged, flags = verdict.of(self.findings)
        lossy = judged in (verdict.LOSSY, verdict.FAILS) or any(one["code"] == "DATA_LOST" for one in self.findings)
        return {
            "revision": self.revision.revision, "parents": list(self.revision.parents), "message": self.revision.message,
            "digest": self.revision.digest, "verdict": judged, "flags": flags, "road_back": verdict.ROADS[judged],
            "findings": self.findings,
            "loses": self.loses, "side_copy": side_copy.merged(self.wanted) if lossy else [], "recoverable": self.recoverable,
            "copy_before": self.copy_before,
            "steps": list(self.steps.values()), "rows": self.rows, "gaps": self.gaps, "measured": self.measured,
        }  # fmt: skip


def copies_for(old: Catalog, new: Catalog) -> list[dict]:
    """What has to be copied aside before R is undone: tables and columns that P does not have, and columns that P has in another type."""
    wanted = []
    for table in new.own:
        was = states.other_table(table, old)
        if was is None:
            wanted.append({"table": table.label, "columns": None})
            continue
        columns = []
        for column in table.columns:
            name = states.counterpart(column.number, column.name, table, was)
            before = was.named(name) if name else None
            if before is None or (before.type, before.modifier) != (column.type, column.modifier):
                columns.append(column.name)
        columns = [name for name in columns if not table.named(name).computed]
        if columns:
            wanted.append({"table": table.label, "columns": columns})
    return wanted
