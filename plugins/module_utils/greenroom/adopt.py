"""A gateway whose state was lost or damaged takes the newest valid copy, on a person's word (`run_adopt`). Standard library only."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from .durable import sealed, write_sealed
from .releases import Releases
from .state import StateError, read_copy
from .switch import SwitchError


def adopt(releases: Releases, copies: Iterable[dict | None], *, who: str, reason: str) -> tuple[dict, bool]:
    """Take the valid state with the highest counter of `copies` and what lies here, and make ledger and switch fit it; (state, changed).

    A ledger that does not fit is moved aside and begins anew with that state's newest entry. Of two switch files the one that is not live
    goes; a closed switch is moved to what is live; one that stands on the other slot is left for a person to decide.
    Raises StateError if there is no valid state at all, LeaseHeld while a run lives.
    """
    own = read_copy(releases.path)
    found = [one for one in (own, *copies) if one and sealed(one) and one.get("service") == releases.service]
    if not found:
        raise StateError(
            f"{releases.path}: neither here nor on any app host is a valid state of {releases.service}. Restore one from a backup of "
            f"{releases.directory}, or, if nothing was ever deployed, move what lies there aside.",
            4,
        )
    best = max(found, key=lambda one: one["counter"])
    wrong = [] if own == best else [f"state {own['counter'] if own else 'damaged or gone'} -> {best['counter']}"]
    try:
        releases.ledger.check(best["last_entry"])
    except StateError as error:
        wrong.append(f"ledger moved aside: {error}")
    live = best["live"]["slot"] if best["live"] else None
    try:
        stands = releases.switch.read()
        open_it = stands is None and live is not None and not best["in_progress"]
    except SwitchError:
        open_it = live is not None
    if open_it:
        wrong.append(f"switch -> {live}")
    if not wrong or releases.dry:
        return best, bool(wrong)
    releases.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    with releases.lease.held(owner=who, run_id=f"adopt-{int(time.time())}", step="adopt") as lease, releases.lease.lock():
        if any(text.startswith("ledger") for text in wrong):
            os.replace(releases.ledger.path, releases.ledger.path.with_suffix(f".jsonl.{best['counter']}.aside"))
        if own != best:
            write_sealed(releases.path, best)
        if open_it:
            releases.switch.repair(live)
        return releases.commit(best, "adopted", lease, why=reason, result="; ".join(wrong)), True
