"""Which physical backups may go. pgBackRest's own rule knows no "verified": `backup` runs with --no-expire-auto, this calls `expire`.

A backup that was never restored may not restore. So: the newest `keep` full backups without corrupt pages stay, and everything that the
newest verified backup needs stays however old it is. As long as none was verified, nothing goes.
"""

from __future__ import annotations

from .pgbackrest import VERIFIED, PgBackRest


def full_of(label: str) -> str:
    """The full backup that a backup depends on: labels of dependent ones begin with it (`20261120-101010F_20261120-111111I`)."""
    return label.split("_", 1)[0]


def to_expire(backups: list[dict], keep: int) -> tuple[list[str], str]:
    """(labels of full backups that may go, oldest first; why the others stay).

    backups: dicts of `plain_backup`, of one repository. keep: how many of the newest full backups stay, at least 1 (else ValueError).
    """
    if keep < 1:
        raise ValueError(f"at least one full backup must stay, not {keep}")
    verified = [one for one in backups if one["annotations"].get(VERIFIED) and one["error"] is False]
    if not verified:
        return [], "no backup of this repository was verified by a restore yet, so none may go. Run a restore drill"
    last = max(verified, key=lambda one: one["stopped"])
    full = sorted((one for one in backups if one["type"] == "full"), key=lambda one: one["stopped"])
    stays = {one["label"] for one in [one for one in full if one["error"] is False][-keep:]}
    stays |= {full_of(last["label"]), full[-1]["label"]}
    return [one["label"] for one in full if one["label"] not in stays], f"{last['label']} is the last verified one, with all that it needs"


def apply(pgbackrest: PgBackRest, repo: int, keep: int) -> dict:
    """Expire in one repository by this rule: {expired: labels, kept: labels, why}."""
    gone, why = to_expire(pgbackrest.backups(repo), keep)
    for label in gone:
        pgbackrest.expire(repo, label)
    return {"expired": gone, "kept": [one["label"] for one in pgbackrest.backups(repo)], "why": why}
