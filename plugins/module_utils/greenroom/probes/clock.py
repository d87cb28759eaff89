"""Clock: near the control node's time, or synchronised as the kernel says."""

from __future__ import annotations

import ctypes
import time

from .base import Arg, Context, Outcome, Probe

_UNSYNCHRONISED = 0x40  # STA_UNSYNC of adjtimex(2)
_STATUS_OFFSET = 40  # of `status` in struct timex on 64-bit Linux: int modes (padded), long offset, freq, maxerror, esterror


def run(args: dict, context: Context) -> Outcome:
    synchronised = kernel_synchronised()
    words = {True: "the kernel says synchronised", False: "the kernel says not synchronised", None: "the kernel does not say"}[synchronised]
    if args["controller_epoch"] is None:
        reason = None if synchronised else f"{words}; start a time service (systemd-timesyncd or chrony)"
        return Outcome(bool(synchronised), "the clock is synchronised", words, reason)
    # Later than the control node's stamp by the time it took to get here, and by the clocks' difference.
    offset = round(time.time() - args["controller_epoch"], 3)
    wanted = f"within {args['max_offset_s']:g} s of the control node's clock"
    seen = f"{offset:+.1f} s (the way here included), {words}"
    ok = -args["max_offset_s"] <= offset <= args["max_offset_s"]
    advice = (
        "look at the control node's own clock first" if synchronised else "start a time service (systemd-timesyncd or chrony) on this host"
    )
    return Outcome(ok, wanted, seen, None if ok else f"the clock is {offset:+.1f} s from the control node's; {advice}",
                   {"offset_s": offset, "synchronised": synchronised})  # fmt: skip


def kernel_synchronised() -> bool | None:
    """What adjtimex(2) says, read only; None where it may not be asked."""
    buffer = ctypes.create_string_buffer(512)
    if ctypes.sizeof(ctypes.c_long) != 8 or ctypes.CDLL(None, use_errno=True).adjtimex(buffer) < 0:
        return None
    return not ctypes.c_int.from_buffer(buffer, _STATUS_OFFSET).value & _UNSYNCHRONISED


PROBE = Probe(
    "clock",
    "the clock agrees with the control node's, or is synchronised",
    {
        "controller_epoch": Arg(
            "float", "the control node's time in seconds since 1970, taken as late as can be; without it the kernel is asked"
        ),
        "max_offset_s": Arg("float", "seconds of difference allowed, the way to the host included", default=30.0),
    },
    run,
)
