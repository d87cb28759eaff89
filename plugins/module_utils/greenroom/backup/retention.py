"""Which logical backups of a place may go. The newest ones stay, and the newest that a restore has proved stays whatever its age."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .manifest import moment


def plan(manifests: Sequence[Mapping], keep: int, verified: Iterable[str]) -> tuple[list[str], str]:
    """(ids that may go, oldest first; why others stay).

    manifests: of all complete backups of one place. keep: how many of the newest stay. verified: ids that a restore has proved.
    Nothing goes as long as no backup there was ever proved, and nothing that is newer than the newest proved one.
    Source: 003 'backup script' (7 days, without looking whether a newer one is any good).
    Raises ValueError for keep below 1.
    """
    if keep < 1:
        raise ValueError(f"at least one backup is kept, not {keep}")
    newest_first = sorted(manifests, key=lambda one: moment(one["snapshot_time"]), reverse=True)
    known = set(verified)
    places = [number for number, one in enumerate(newest_first) if one["id"] in known]
    if not places:
        return [], f"all {len(newest_first)} stay: none of them was proved by a restore yet (run backup_verify)"
    last_proved = places[0]
    gone = [one["id"] for number, one in enumerate(newest_first) if number >= keep and number > last_proved]
    return gone[::-1], f"{keep} newest stay, and {newest_first[last_proved]['id']}, the newest that was proved"
