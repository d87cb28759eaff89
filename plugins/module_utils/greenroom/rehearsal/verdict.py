"""What a walk's findings mean: one verdict a revision, flags, and the roads back that are open."""

from __future__ import annotations

LOSSLESS, LOSSY, FAILS, DESTRUCTIVE, BROKEN = "LOSSLESS", "LOSSY_AFTER_WRITES", "FAILS_AFTER_WRITES", "DESTRUCTIVE", "BROKEN"
UNPROVEN = "UNPROVEN"  # no verdict: the walk could not show anything
VERDICTS = (LOSSLESS, LOSSY, FAILS, DESTRUCTIVE, BROKEN, UNPROVEN)  # from good to bad
FLAGS = ("OLD_APP_BREAKS", "REWRITE", "LOCK", "NONDETERMINISTIC", "NOT_ATOMIC")

# {code of a finding: the verdict it forces}; other codes are flags, hints of the source, or notes.
FORCES = {
    "NOT_SEEDED": UNPROVEN, "UPGRADE_FAILS": BROKEN, "DOWNGRADE_FAILS": BROKEN, "DOWNGRADE_INCOMPLETE": BROKEN, "COLUMN_ORDER": BROKEN,
    "UPGRADE_AGAIN_FAILS": BROKEN, "DATA_LOST": DESTRUCTIVE, "DOWNGRADE_FAILS_AFTER_WRITES": FAILS, "OLD_DATA_LOST_AFTER_WRITES": FAILS,
    "DISAPPEARS": LOSSY,
}  # fmt: skip
# Hints of the source that stop a deployment by themselves: what a walk on another day could not see.
SOURCE = ("SWALLOWS_ERRORS", "APP_IMPORT", "CASCADE", "DOWNGRADE_EMPTY", "DOWNGRADE_RAISES", "AUTOCOMMIT_MIXED", "MODULE_STATEMENTS")
ROADS = {
    LOSSLESS: "downgrade at any time",
    LOSSY: "downgrade after an automatic side copy, or leave the schema and roll back the application only",
    FAILS: "side copy and a script that makes the new values fit, else swap the copy from before in, else point in time",
    DESTRUCTIVE: "needs a side copy of the named columns and tables before the upgrade; without one do not upgrade",
    BROKEN: "no downgrade: leave the schema, swap the copy from before in, or point in time",
    UNPROVEN: "nothing is promised",
}  # fmt: skip


def finding(step: int, code: str, text: str, about: str = "") -> dict:
    """One thing a walk found. about: the table, column or line it is about."""
    return {"step": step, "code": code, "about": about, "text": text}


def of(findings: list[dict]) -> tuple[str, list[str]]:
    """(verdict, flags) of a walk. Columns that only moved count as broken unless their data is lost anyway, which is said instead."""
    codes = {one["code"] for one in findings}
    if "DATA_LOST" in codes:
        codes.discard("COLUMN_ORDER")
    forced = [FORCES[code] for code in codes if code in FORCES]
    verdict = max(forced, key=VERDICTS.index) if forced else LOSSLESS
    return verdict, [flag for flag in FLAGS if flag in codes]
