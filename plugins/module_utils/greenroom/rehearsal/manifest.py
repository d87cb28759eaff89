"""The manifest: what the rehearsal of a release found, as JSON that travels with the release; the gate that reads it, and waivers."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from .. import durable
from . import verdict
from .errors import RehearsalError

FORMAT = 1
STOPS = (verdict.BROKEN, verdict.DESTRUCTIVE, verdict.UNPROVEN)
STOPPING_FLAGS = ("OLD_APP_BREAKS", "LOCK", "NONDETERMINISTIC", "NOT_ATOMIC")
NEVER_WAIVED = ("NOT_REHEARSED", "CHANGED", "REHEARSAL_BROKEN", "MANIFEST", verdict.UNPROVEN)
WAIVABLE = (verdict.BROKEN, verdict.DESTRUCTIVE, *STOPPING_FLAGS, *verdict.SOURCE, "CHAIN")
FIXES = {
    verdict.BROKEN: "write a downgrade that restores the schema, or waive it and accept that the only ways back are a copy or a restore",
    verdict.DESTRUCTIVE: "let the side copy be made before the upgrade, or move the loss to a later release",
    verdict.UNPROVEN: "give fixtures or reasons for what has no rows, then rehearse again",
    "OLD_APP_BREAKS": "split it: expand now, contract when the serving release is gone",
    "LOCK": "do it in steps (NOT VALID and VALIDATE, CREATE INDEX CONCURRENTLY, batches), or wait for a maintenance window",
    "NONDETERMINISTIC": "compute values from the row, or declare the column volatile",
    "NOT_ATOMIC": "put what cannot run in a transaction into a revision of its own, so that it can be run again",
    "CHAIN": "see the check's text",
}


def made(
    entries: list[dict], controls: list[dict], checks: list[dict], *, tool: str, heads: list[str], current: list[str] | None, depth: str,
    chance: int, seconds: float, about: dict,
) -> dict:  # fmt: skip
    """The manifest; `digest` is over all the rest."""
    missed = [one["name"] for one in controls if not one["caught"]]
    body = {
        "format": FORMAT, "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "tool": tool, "heads": heads,
        "from": current, "depth": depth, "chance": chance, "seconds": round(seconds, 2), "about": about,
        "control": {"walked": controls, "missed": missed, "ok": not missed and bool(controls or not entries)},
        "chain": checks, "revisions": entries,
    }  # fmt: skip
    return {**body, "digest": durable.digest(body)}


def read(path: str | Path) -> dict:
    """A manifest from its file. Raises RehearsalError if it is none, of another format, or not as it was written."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        body = {key: value for key, value in found.items() if key != "digest"}
        known, digest = found.get("format"), found.get("digest")
    except (OSError, ValueError, AttributeError) as error:
        raise RehearsalError(f"{path}: no manifest of a rehearsal: {error}. Rehearse the migration again") from error
    if known != FORMAT:
        raise RehearsalError(f"{path}: format {known!r}, this version reads {FORMAT}. Rehearse the migration again")
    if durable.digest(body) != digest:
        raise RehearsalError(f"{path}: was changed after it was written, or is cut. Rehearse the migration again")
    return found


def blocker(revision: str | None, code: str, reason: str, fix: str | None = None) -> dict:
    """One reason not to deploy."""
    return {"revision": revision, "code": code, "reason": reason, "fix": fix or FIXES.get(code, "rehearse the migration again")}


def waiver_problems(waivers: list[dict], today: datetime.date) -> list[dict]:
    """Blockers for waivers that are incomplete, unknown or expired: such a one waives nothing."""
    found = []
    for number, one in enumerate(waivers, 1):
        revision, code = one.get("revision"), one.get("code")
        problem = None
        missing = [key for key in ("revision", "code", "reason", "owner", "expiry") if not str(one.get(key) or "").strip()]
        extra = set(one) - {"revision", "code", "reason", "owner", "expiry"}
        if missing:
            problem = f"lacks {', '.join(missing)}"
        elif extra:
            problem = f"has unknown keys {', '.join(sorted(extra))}"
        elif code not in WAIVABLE:
            problem = f"code {code} cannot be waived; these can: {', '.join(WAIVABLE)}"
        elif expiry(one) is None:
            problem = f"expiry {one['expiry']!r} is no date (YYYY-MM-DD)"
        elif expiry(one) < today:
            problem = f"expired on {one['expiry']}; {one['owner']} knows why it was there: {one['reason']}"
        if problem:
            found.append(
                blocker(revision, "WAIVER", f"waiver {number} {problem}", "correct the waiver, renew it with its owner, or take it out")
            )
    return found


def expiry(waiver: dict) -> datetime.date | None:
    """The last day of a waiver; None if it is no date."""
    value = waiver.get("expiry")
    if isinstance(value, datetime.datetime):
        return value.date()
    if isinstance(value, datetime.date):
        return value
    try:
        return datetime.date.fromisoformat(str(value))
    except ValueError:
        return None


def gate(
    manifest: dict, waivers: list[dict], today: datetime.date, *, pending: list[str] | None = None, side_copies: bool = False,
    digests: dict[str, str] | None = None,
) -> list[dict]:  # fmt: skip
    """All reasons not to migrate the live database: [{revision, code, reason, fix}]; empty is go.

    pending: the revisions that would be run; each must have been rehearsed (None: those of the manifest). side_copies: whether the caller
    makes the side copies that the manifest names before it upgrades. digests: {revision: sha256 of its source now}.
    A waiver {revision, code, reason, owner, expiry} takes one code of one revision out; it never takes out what was not rehearsed.
    """
    found = waiver_problems(waivers, today)
    invalid = {(one["revision"], one["reason"].split(" ")[1]) for one in found}
    good = {
        (one.get("revision"), one.get("code")) for number, one in enumerate(waivers, 1) if (one.get("revision"), str(number)) not in invalid
    }
    if manifest.get("format") != FORMAT:
        return [*found, blocker(None, "MANIFEST", f"format {manifest.get('format')!r}, this version reads {FORMAT}")]
    entries = {one["revision"]: one for one in manifest["revisions"]}
    control = manifest["control"]
    if entries and not control["ok"]:
        missed = ", ".join(control["missed"]) or "none was walked"
        found.append(blocker(None, "REHEARSAL_BROKEN", f"bad migrations that were not caught: {missed}. The verdicts prove nothing"))
    for name in entries if pending is None else pending:
        if name not in entries:
            found.append(blocker(name, "NOT_REHEARSED", f"revision {name} is pending and was not rehearsed"))
            continue
        if digests is not None and digests.get(name) != entries[name]["digest"]:
            found.append(blocker(name, "CHANGED", f"the source of revision {name} is not the one that was rehearsed"))
        found += [one for one in of_revision(entries[name], side_copies) if (name, one["code"]) not in good]
    for one in manifest["chain"]:
        if one["status"] == "fail" and (one["check"], "CHAIN") not in good:
            found.append(blocker(one["check"], "CHAIN", one["text"]))
    return found


def of_revision(entry: dict, side_copies: bool) -> list[dict]:
    """What speaks against one revision, waivers aside. Data that the upgrade destroys is named even where the verdict is worse."""
    name, found = entry["revision"], []

    def because(code: str) -> str:
        texts = [one["text"] for one in entry["findings"] if one["code"] == code or verdict.FORCES.get(one["code"]) == code]
        return f"{name}: {'; '.join(texts[:4])}"

    lost = any(one["code"] == "DATA_LOST" for one in entry["findings"])
    if entry["verdict"] in (verdict.BROKEN, verdict.UNPROVEN):
        found.append(blocker(name, entry["verdict"], because(entry["verdict"])))
    if (lost or entry["verdict"] == verdict.DESTRUCTIVE) and not (side_copies and entry["recoverable"]):
        found.append(blocker(name, verdict.DESTRUCTIVE, because(verdict.DESTRUCTIVE)))
    found += [blocker(name, flag, because(flag)) for flag in STOPPING_FLAGS if flag in entry["flags"]]
    codes = dict.fromkeys(one["code"] for one in entry["findings"] if one["code"] in verdict.SOURCE)
    found += [blocker(name, code, because(code), "correct the revision's source") for code in codes]
    return found
