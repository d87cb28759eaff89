"""The states of the module `release`, one function each: they return what the module returns. Standard library only."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping

from .adopt import adopt
from .lease import LeaseHeld, describe
from .overview import overview
from .proofs import prove, proven
from .reconcile import reconcile
from .releases import Releases
from .rollback import begin, plan_of, schema_step
from .slots import SlotError, link_slot, read_links
from .state import idle_slot, matches_live, protected, read_copy, store_copy

IDENTITY = ("version", "commit", "lock_sha256", "config_digest")
# What a diff shows: the whole state would bury it.
SHOWN = ("live", "previous", "last_known_good", "in_progress", "slots", "next_number", "bad")


def view(releases: Releases, state: dict, p: Mapping) -> dict:
    """What is returned of a state."""
    return {
        **overview(releases, state),
        "content": state,
        "idle_slot": idle_slot(state),
        "known_versions": state["versions"],
        "protected": protected(state),
        "first_deploy": state["counter"] == 0,
        "is_live": matches_live(state, *(p[key] for key in IDENTITY)) and not p["rotated"],
        "proven": proven(releases, {key: p[key] for key in IDENTITY}) if all(p[key] for key in IDENTITY) else {},
    }


def leased(releases: Releases, p: Mapping) -> dict:
    """Under the lease that this run holds: finish or undo what a dead run left. Raises LeaseHeld if it is not this run's."""
    if releases.dry:
        held = releases.lease.read()
        if held and held["run_id"] != p["run_id"] and releases.lease.alive():
            raise LeaseHeld(f"the lease is held by {describe(held)}", held)
        return {"changed": True, "lease_held": False, "fencing": None, "reconciled": []}
    with releases.lease.lock():
        releases.hold(p["fencing"], p["run_id"])
        done = reconcile(releases, run_id=p["run_id"], fencing=p["fencing"], rolling_back=p["rolling_back"])
    return {"changed": True, "lease_held": True, "fencing": p["fencing"], "reconciled": done}


def unleased(releases: Releases, p: Mapping) -> dict:
    """Give the lease back."""
    if releases.dry:
        return {"changed": releases.lease.read() is not None}
    if not releases.directory.is_dir():
        return {"changed": False}
    with releases.lease.lock():
        return {"changed": releases.lease.release(p["fencing"], p["run_id"])}


def change(releases: Releases, p: Mapping) -> dict:
    """One change of the state; with its diff."""
    common = {"run_id": p["run_id"], "fencing": p["fencing"]}
    steps = {
        "planned": lambda: releases.plan(
            **common, **{key: p[key] for key in (*IDENTITY, "reason", "approved_by", "retry_bad")}
        ),
        "rollback_planned": lambda: begin(
            releases, **common, reason=p["reason"], to=p["to"], approved_by=p["approved_by"], retry_bad=p["retry_bad"], part=p["part"]
        ),
        "staged": lambda: releases.stage(
            **common, durations=p["durations"], artefact_sha256=p["artefact_sha256"], config_digest=p["config_digest"],
            migrated=schema_step(releases.read(), p["schema"]),
        ),
        "switched": lambda: releases.switch_to(
            None if p["slot"] == "none" else p["slot"], **common, reason=p["reason"], approved_by=p["approved_by"], durations=p["durations"]
        ),
        "confirmed": lambda: releases.confirm(**common, durations=p["durations"], undone_to=(p["schema"] or {}).get("revision")),
        "proven": lambda: prove(releases, **common, phases=p["phases"], identity={key: p[key] for key in IDENTITY}),
        "failed": lambda: releases.fail(**common, reason=p["reason"], bad=p["bad"], durations=p["durations"]),
    }  # fmt: skip
    if releases.dry:
        before = releases.read()
        state, changed = steps[p["state"]]()
    else:
        if not releases.directory.is_dir():
            raise LeaseHeld(f"{releases.directory} does not exist, so nobody holds a lease: take it first (state: leased)")
        with releases.lease.lock():
            before = releases.read()
            state, changed = steps[p["state"]]()
    shown = [{key: one[key] for key in SHOWN} for one in (before, state)]
    result = {**view(releases, state, p), "changed": changed, "diff": {"before": shown[0], "after": shown[1]}}
    begun = state["in_progress"] if p["state"] in ("planned", "rollback_planned") else None
    if p["state"] == "rollback_planned" and begun:
        result["plan"] = plan_of(state, releases.history(), p["part"])
    return {**result, "greenroom": {"release": f"{begun['number']}-{begun['version']}"}} if begun else result


def carry_out(p: Mapping, *, dry: bool = False) -> dict:
    """Bring about the wanted state; what the module returns. `p` are the module's arguments, all of them present.

    Raises StateError, SwitchError, SlotError, LeaseError, LeaseHeld, DurableError or OSError.
    """
    directory = p["directory"] or f"/var/lib/greenroom/{p['service']}"
    releases = Releases(directory, p["service"], p["switch"] or f"/etc/greenroom/{p['service']}/switch", dry=dry)
    if p["state"] == "copied":
        return {"changed": False, "content": read_copy(releases.path)}
    if p["state"] == "adopted":
        who = f"{os.environ.get('SUDO_USER') or getpass.getuser()}@{os.uname().nodename}"
        state, changed = adopt(releases, p["copies"], who=who, reason=p["reason"])
        return {**view(releases, state, p), "changed": changed}
    if p["state"] == "stored":
        return {"changed": store_copy(directory, p["content"], dry=dry)}
    if p["state"] == "slot_linked":
        if p["slot"] == "none":
            raise SlotError("slot none cannot be linked; one of blue, green")
        before = read_links(p["slots"], p["releases"])[0]
        changed = link_slot(p["slots"], p["slot"], p["release"], p["releases"], adopt=p["adopt"], dry=dry)
        links, problems = read_links(p["slots"], p["releases"])
        return {"changed": changed, "links": links, "link_problems": problems, "diff": {"before": before, "after": links}}
    if p["state"] == "leased":
        result = {**leased(releases, p), **view(releases, releases.read(), p)}
        live = result["live"] if result["is_live"] else None
        told = {"release": f"{live['number']}-{live['version']}", "no_op_of": live["run_id"]} if live else {}
        if result["reconciled"]:
            told["resumed"] = [f"run {one['run_id']}, release {one['release']}: {one['text']}" for one in result["reconciled"]]
        return {**result, "greenroom": told}
    if p["state"] == "unleased":
        return unleased(releases, p)
    if p["state"] != "read":
        return change(releases, p)
    result = {"changed": False, **view(releases, releases.read(), p)}
    earlier = {phase: run for phase, run in result["proven"].items() if phase not in (p["phases"] or [])}
    result["greenroom"] = {"version": p["version"], "commit": p["commit"]} if p["version"] else {}
    if p["phases"] and earlier and not result["is_live"]:  # what earlier runs proved and this one does not do again
        result["greenroom"]["earlier"] = earlier
    if p["slots"]:
        result["links"], result["link_problems"] = read_links(p["slots"], p["releases"] or "/nonexistent")
    return result
