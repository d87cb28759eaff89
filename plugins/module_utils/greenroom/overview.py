"""What is live, in one mapping: for the module `release` and for `greenroom status`. Standard library only."""

from __future__ import annotations

from .lease import age_s
from .releases import Releases
from .switch import SwitchError


def overview(releases: Releases, state: dict) -> dict:
    """{users_on, live, previous, last_known_good, in_progress, next_number, problems, lease} of a state and of what stands beside it.

    users_on: the slot that the switch says, None for the maintenance page. lease: with `age_s` and `alive`, None if there is none.
    """
    lease = releases.lease.read()
    problems = releases.problems(state)
    try:
        users_on = releases.switch.read()
    except SwitchError:
        users_on = None  # `problems` says it
    return {
        "users_on": users_on,
        **{key: state[key] for key in ("live", "previous", "last_known_good", "in_progress", "next_number")},
        "problems": problems,
        "lease": None if lease is None else {**lease, "age_s": round(age_s(lease)), "alive": releases.lease.alive()},
    }
