"""The gateway's end of a run's lease: takes it, keeps its lock while the channel to the control node lives, and ends with it.

`lease_keeper.py` on the control node sends this file and what it imports over the channel, so it works where nothing is installed yet.
Speaks JSON lines on standard output; every byte on standard input says that the control process lives. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from .durable import DurableError
from .lease import GRACE_S, Held, LeaseError, LeaseHeld, describe
from .releases import Releases
from .state import StateError
from .switch import SwitchError

SILENCE_S = 15.0  # a channel that said nothing for so long is dead


def say(**what: object) -> None:
    """One line to the control node, which may be gone."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(what).encode() + b"\n")


def serve(request: Mapping) -> int:
    """Hold the lease that is asked for, until it is given back or the channel ends; the exit status.

    request: {service, directory, switch, owner, pid, run_id, version, step, wait_s, again}.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    directory = Path(request["directory"])
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        releases = Releases(directory, request["service"], request["switch"])
        releases.read()  # a damaged state is said before anything is taken
        asked = {key: request[key] for key in ("owner", "run_id", "pid", "version", "step", "wait_s", "again")}
        mine = releases.lease.acquire(**asked)
        if mine.taken_over:
            with releases.lease.lock():
                why, lost = "its control process is dead or cut off", describe(mine.taken_over)
                releases.note("lease_taken_over", mine.lease, run_id=request["run_id"], result=lost, why=why)
    except LeaseHeld as error:
        say(refused=str(error), holder=error.holder, exit_status=error.exit_status)
        return error.exit_status
    except (LeaseError, DurableError, StateError, SwitchError, OSError) as error:
        say(refused=str(error), holder=None, exit_status=getattr(error, "exit_status", 4))
        return 4
    say(fencing=mine.lease["fencing"], taken_over=describe(mine.taken_over) if mine.taken_over else None)
    ended = watch(mine)
    if ended:
        say(ended=ended)
        mine.drop()
    else:
        fade(mine)
    return 0


def watch(mine: Held) -> str | None:
    """Wait until the lease is another's or nobody's any more (told), or the channel is dead (None)."""
    heard = time.monotonic()
    while True:
        if select.select([0], [], [], 0.5)[0]:
            if not os.read(0, 4096):
                return None
            heard = time.monotonic()
        if time.monotonic() - heard > SILENCE_S:
            return None
        if not mine.is_mine():
            return "the lease was given back or taken away"


def fade(mine: Held, grace_s: float = GRACE_S) -> None:
    """The channel is dead: let the lock go, and after the grace the lease, unless the run came back or somebody has it."""
    mine.drop()
    time.sleep(grace_s)
    if mine.is_mine() and not mine.leases.alive():
        with mine.leases.lock():
            if mine.is_mine():
                mine.leases.remove()
