"""systemd: a unit is active, enabled, has not restarted and is hardened; or the whole system is up."""

from __future__ import annotations

import re

from .base import Arg, Context, Findings, Outcome, Probe, execute, last_line
from .processes import unit_properties

_PROPERTIES = [
    "LoadState",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "NRestarts",
    "Result",
    "MainPID",
]


def run(args: dict, context: Context) -> Outcome:
    return _unit(args, context) if args["unit"] else _system(args, context)


def _system(args: dict, context: Context) -> Outcome:
    wanted = "systemd is the first process, the system is running"
    with open("/proc/1/comm", encoding="utf-8") as file:
        first = file.read().strip()
    if first != "systemd":
        return Outcome(
            False, wanted, f"the first process is {first}", f"the first process is {first}, not systemd: services cannot be managed here"
        )
    state = execute(["systemctl", "is-system-running"], context).stdout.strip()
    failed = execute(["systemctl", "list-units", "--state=failed", "--plain", "--no-legend", "--no-pager"], context).stdout
    units = [line.split()[0] for line in failed.splitlines() if line.strip()]
    seen = state + (f", failed units: {', '.join(units)}" if units else "")
    ok = state == "running" or (state == "degraded" and args["allow_degraded"])
    reason = None if ok else f"the system is {seen or 'without an answer'}; look at `systemctl list-jobs` and `systemctl --failed`"
    return Outcome(ok, wanted, seen, reason, {"state": state, "failed_units": units})


def _unit(args: dict, context: Context) -> Outcome:
    unit = args["unit"]
    found = unit_properties(unit, _PROPERTIES, context)
    if found.get("LoadState") != "loaded":
        state = found.get("LoadState") or "unknown"
        return Outcome(
            args["active"] == "absent",
            f"unit {unit}",
            state,
            None if args["active"] == "absent" else f"{unit} is {state}; is it installed?",
        )
    result = Findings()
    result.detail.update({key: found[key] for key in _PROPERTIES if found.get(key)})

    def judge(what, wanted, seen, ok):
        result.add(f"{what} {wanted}", f"{what} {seen}", ok, f"{what} is {seen}, not {wanted}")

    judge("state", args["active"], found["ActiveState"], found["ActiveState"] == args["active"])
    if args["sub_state"]:
        judge("sub state", args["sub_state"], found["SubState"], found["SubState"] == args["sub_state"])
    if args["enabled"] is not None:
        enabled = found["UnitFileState"] in ("enabled", "enabled-runtime", "static", "generated", "alias", "indirect")
        judge("start at boot", "enabled" if args["enabled"] else "disabled", found["UnitFileState"] or "none", enabled is args["enabled"])
    if args["restarts_max"] is not None:
        restarts = found.get("NRestarts", "")
        ok = restarts.isdigit() and int(restarts) <= args["restarts_max"]
        judge("restarts", f"≤ {args['restarts_max']}", restarts or "not counted for this kind of unit", ok)
    if args["exposure_max"] is not None:
        exposure = _exposure(unit, context)
        result.detail["exposure"] = exposure
        judge("exposure", f"≤ {args['exposure_max']:g}", f"{exposure:g}", exposure <= args["exposure_max"])
    return result.outcome(f"{unit} (look at `journalctl -u {unit}`)")


def _exposure(unit: str, context: Context) -> float:
    """The figure of `systemd-analyze security`: 0 is closed, 10 is open."""
    done = execute(["systemd-analyze", "security", "--no-pager", "--", unit], context)
    found = re.search(r"Overall exposure level for .*?: ([\d.]+)", done.stdout)
    if not found:
        raise RuntimeError(f"systemd-analyze security {unit}: {last_line(done.stderr or done.stdout) or 'no figure'}")
    return float(found.group(1))


def _check(args: dict) -> list:
    return [("unit", "give a unit, or system: true for the whole system")] if bool(args["unit"]) == args["system"] else []


PROBE = Probe(
    "systemd",
    "a unit is in the wanted state and hardened, or the whole system is up",
    {
        "unit": Arg("str", "name of the unit, with its suffix"),
        "system": Arg("bool", "check the whole system instead: systemd is process 1 and says running", default=False),
        "allow_degraded": Arg("bool", "for system: failed units are named, and accepted", default=True),
        "active": Arg("str", "wanted state", default="active", choices=("active", "inactive", "failed", "activating", "absent")),
        "sub_state": Arg("str", "wanted sub state such as running, waiting, exited"),
        "enabled": Arg("bool", "starts at boot, or does not"),
        "restarts_max": Arg("int", "automatic restarts since the unit was started, at most"),
        "exposure_max": Arg("float", "figure of `systemd-analyze security`, at most"),
    },
    run,
    _check,
)
