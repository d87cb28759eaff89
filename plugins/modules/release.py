#!/usr/bin/python
"""Ansible module: what is live, and the ways in which that changes (logic in module_utils/greenroom)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Read and change what is live
description:
  - The state machine of a service's releases. On the gateway it keeps C(state.json), C(ledger.jsonl), the lease and the switch;
    on application hosts it keeps a copy of the state and the slot links; on the control node it tells who the control process is.
  - Every change of the state names the fencing number of the lease and is refused without it. State is written before it is acted on.
  - In check mode nothing is written and no lease is taken; the result is the state as it would be.
options:
  state:
    description:
      - V(read) returns the state and changes nothing. An absent file means that nothing was ever deployed.
      - V(control), on the control node, returns who the control process is, and whether O(holder) is dead.
      - V(leased) and V(unleased) take the lease and give it back.
      - V(planned) reserves a number and the idle slot; V(staged) records that the release goes into that slot, before the links move.
      - V(switched) moves users to O(slot) with one rename.
      - V(confirmed) makes the live release of this run the last known good one; V(failed) closes it without, after a switch back.
      - V(stored), on application hosts, keeps a copy of the gateway's state.
      - V(slot_linked), on application hosts, points a slot to a release with one rename.
    type: str
    choices: [read, control, leased, unleased, planned, staged, switched, confirmed, failed, stored, slot_linked]
    default: read
  service:
    description: The service's name.
    type: str
    required: true
  directory:
    description: Folder of the state. By default C(/var/lib/greenroom/<service>).
    type: path
  switch:
    description: Folder of the switch. By default C(/etc/greenroom/<service>/switch).
    type: path
  run_id:
    description: The run. Needed by everything that changes the gateway.
    type: str
  fencing:
    description: Fencing number of the lease, as O(state=leased) returned it. Needed by everything that changes the gateway but the lease.
    type: int
  owner:
    description: With O(state=leased), who holds it, such as C(anna@control1).
    type: str
  control:
    description: With O(state=leased), the control process, as O(state=control) returned it.
    type: dict
  dead:
    description: With O(state=leased), fencing numbers of holders that O(state=control) has seen to be dead; their lease is taken over.
    type: list
    elements: int
    default: []
  holder:
    description: With O(state=control), the C(lease) that O(state=read) returned.
    type: dict
  ttl_s:
    description: With O(state=leased), seconds after which the lease may be taken over.
    type: int
    default: 7200
  wait_s:
    description: With O(state=leased), how long to wait for another holder to end, in seconds.
    type: int
    default: 0
  step:
    description: With O(state=leased), what the run is about to do, for those who are refused.
    type: str
  version:
    description: The release's version.
    type: str
  commit:
    description: The release's commit.
    type: str
  lock_sha256:
    description: Hash of the release's lock file.
    type: str
  config_digest:
    description: Hash of the release's configuration, without credentials.
    type: str
  artefact_sha256:
    description: With O(state=staged), hash of the release's archive.
    type: str
  retry_bad:
    description: With O(state=planned), whether a release that was found bad may be tried again.
    type: bool
    default: false
  slot:
    description: With O(state=switched) and O(state=slot_linked). V(none) shows the maintenance page.
    type: str
    choices: [blue, green, none]
  reason:
    description: Why, for the ledger. Needed with O(state=switched) and O(state=failed).
    type: str
  approved_by:
    description: Who approved it, for the ledger.
    type: str
  bad:
    description: With O(state=failed), whether the release itself was proved red. Deploying it again then needs O(retry_bad).
    type: bool
    default: false
  durations:
    description: Seconds by step, for the ledger.
    type: dict
    default: {}
  content:
    description: With O(state=stored), the state that a call on the gateway returned.
    type: raw
  releases:
    description: Folder of the releases on an application host.
    type: path
  slots:
    description: Folder of the slot links on an application host. With O(state=read) the links are returned as well.
    type: path
  release:
    description: With O(state=slot_linked), the release's folder.
    type: path
  adopt:
    description: With O(state=slot_linked), whether a link that dangles or points to no release may be replaced.
    type: bool
    default: false
author: Greenroom
attributes:
  check_mode:
    support: full
    description: Nothing is written, no lease is taken; returns what would be.
  diff_mode:
    support: full
    description: Shows the state before and after.
"""

EXAMPLES = r"""
- name: Read what is live
  release:
    service: example-service
  register: ledger

- name: Learn who this control process is, and whether the lease's holder is dead
  release:
    state: control
    service: example-service
    holder: "{{ ledger.lease }}"
  delegate_to: localhost
  register: control

- name: Take the lease
  release:
    state: leased
    service: example-service
    run_id: "{{ run_id }}"
    owner: "{{ lookup('env', 'USER') }}@{{ control.control.host }}"
    control: "{{ control.control }}"
    dead: "{{ control.dead }}"
  register: lease

- name: Reserve a number
  release:
    state: planned
    service: example-service
    run_id: "{{ run_id }}"
    fencing: "{{ lease.fencing }}"
    version: 1.2.0
    commit: 4b825dc642cb6eb9a060e54bf8d69288fbee4904
    lock_sha256: "{{ resolved.release.lock_sha256 }}"
  register: planned

- name: Point the idle slot to the release
  release:
    state: slot_linked
    service: example-service
    slot: "{{ planned.in_progress.slot }}"
    release: "/opt/example-service/releases/{{ planned.in_progress.number }}-1.2.0"
    releases: /opt/example-service/releases
    slots: /opt/example-service/slots

- name: Move users to it
  release:
    state: switched
    service: example-service
    run_id: "{{ run_id }}"
    fencing: "{{ lease.fencing }}"
    slot: "{{ planned.in_progress.slot }}"
    reason: verified on every host
"""

RETURN = r"""
content:
  description: The whole state, as O(state=stored) takes it.
  type: dict
  returned: on the gateway
live:
  description:
    - The release that users are on, null if none. C(number), C(version), C(slot), C(config_digest), C(run_id), C(at), C(confirmed).
  type: dict
  returned: on the gateway
previous:
  description: The release that was live before, null if none.
  type: dict
  returned: on the gateway
last_known_good:
  description: The release that was last proved through the gateway, null if none.
  type: dict
  returned: on the gateway
in_progress:
  description: The release being deployed, null if none. C(run_id), C(number), C(version), C(slot), C(step), C(before) and others.
  type: dict
  returned: on the gateway
idle_slot:
  description: The slot that the next release goes to.
  type: str
  returned: on the gateway
next_number:
  description: The number that the next release gets.
  type: int
  returned: on the gateway
known_versions:
  description: Version to C(commit) and C(lock_sha256), for M(release_build).
  type: dict
  returned: on the gateway
protected:
  description: Numbers of the releases that must not be removed, for M(release_install).
  type: list
  elements: int
  returned: on the gateway
first_deploy:
  description: Whether nothing was ever deployed.
  type: bool
  returned: on the gateway
is_live:
  description: Whether O(version), O(commit), O(lock_sha256) and O(config_digest) are what is live and confirmed. A deploy is then a no-op.
  type: bool
  returned: on the gateway
users_on:
  description: The slot that the switch says, null for the maintenance page.
  type: str
  returned: on the gateway
problems:
  description: Where switch, state and ledger disagree, each with what to do. Empty when all is well.
  type: list
  elements: str
  returned: on the gateway
lease:
  description: The lease in force, with C(age_s) and C(expired); null if there is none.
  type: dict
  returned: on the gateway
lease_held:
  description: Whether this run holds the lease now.
  type: bool
  returned: with state leased
fencing:
  description: Fencing number of the lease; null in check mode.
  type: int
  returned: with state leased
taken_over:
  description: The expired or dead lease that was replaced, in one line; null if there was none.
  type: str
  returned: with state leased
control:
  description: The control process. C(host), C(boot_id), C(pid), C(pid_start).
  type: dict
  returned: with state control
dead:
  description: The fencing number of O(holder) if its process is seen to be dead, else empty. For O(dead).
  type: list
  elements: int
  returned: with state control
links:
  description: Slot to the name of the release's folder, null where there is none.
  type: dict
  returned: when O(slots) was given
link_problems:
  description: Slot links that are not what they must be.
  type: list
  elements: str
  returned: when O(slots) was given
greenroom_exit:
  description: On failure, the exit status that the run should end with. 75 means that somebody else holds the lease.
  type: int
  returned: on failure
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom.durable import DurableError
from ansible.module_utils.greenroom.lease import LeaseError, LeaseHeld, age_s, describe, expired, identity, is_dead
from ansible.module_utils.greenroom.slots import SlotError, link_slot, read_links
from ansible.module_utils.greenroom.state import Releases, StateError, idle_slot, matches_live, protected, store_copy
from ansible.module_utils.greenroom.switch import SwitchError

IDENTITY = ("version", "commit", "lock_sha256", "config_digest")
# What a diff shows: the whole state would bury it.
SHOWN = ("live", "previous", "last_known_good", "in_progress", "slots", "next_number", "bad")


def view(releases: Releases, state: dict, p: dict) -> dict:
    """What is returned of a state."""
    lease = releases.lease.read()
    problems = releases.problems(state)
    try:
        users_on = releases.switch.read()
    except SwitchError:
        users_on = None  # `problems` says it
    return {
        "content": state,
        **{key: state[key] for key in ("live", "previous", "last_known_good", "in_progress", "next_number")},
        "idle_slot": idle_slot(state),
        "known_versions": state["versions"],
        "protected": protected(state),
        "first_deploy": state["counter"] == 0,
        "is_live": matches_live(state, *(p[key] for key in IDENTITY)),
        "users_on": users_on,
        "problems": problems,
        "lease": None if lease is None else {**lease, "age_s": round(age_s(lease)), "expired": expired(lease)},
    }


def control(p: dict) -> dict:
    """Who the control process is, and whether a lease's holder is seen to be dead."""
    holder = p["holder"] or {}
    gone = is_dead(holder.get("control") or {})
    return {"changed": False, "control": identity(), "dead": [int(holder["fencing"])] if gone else []}


def leased(releases: Releases, p: dict) -> dict:
    """Take the lease, waiting up to `wait_s` seconds for another holder. Raises LeaseHeld."""
    if releases.dry:
        held = releases.lease.read()
        if held and not expired(held) and held["run_id"] != p["run_id"] and held["fencing"] not in p["dead"]:
            raise LeaseHeld(f"the lease is held by {describe(held)}", held)
        return {"changed": True, "lease_held": False, "fencing": None, "taken_over": None}
    releases.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    names = ("owner", "control", "run_id", "ttl_s", "version", "step", "dead")
    deadline = time.monotonic() + p["wait_s"]
    while True:
        try:
            with releases.lease.lock():
                releases.read()  # a damaged state is said before anything is taken
                lease, before, changed = releases.lease.acquire(**{key: p[key] for key in names})
                if before:
                    releases.note(
                        "lease_taken_over", lease, run_id=lease["run_id"], result=describe(before),
                        why="expired" if expired(before) else "its control process is dead",
                    )  # fmt: skip
            break
        except LeaseHeld:
            if time.monotonic() >= deadline:
                raise
            time.sleep(min(1.0, max(0.05, deadline - time.monotonic())))
    taken = describe(before) if before else None
    return {"changed": changed, "lease_held": True, "fencing": lease["fencing"], "taken_over": taken}


def unleased(releases: Releases, p: dict) -> dict:
    """Give the lease back."""
    if releases.dry:
        return {"changed": releases.lease.read() is not None}
    if not releases.directory.is_dir():
        return {"changed": False}
    with releases.lease.lock():
        return {"changed": releases.lease.release(p["fencing"], p["run_id"])}


def change(releases: Releases, p: dict) -> dict:
    """One change of the state; with its diff."""
    common = {"run_id": p["run_id"], "fencing": p["fencing"]}
    steps = {
        "planned": lambda: releases.plan(
            **common, **{key: p[key] for key in (*IDENTITY, "reason", "approved_by", "retry_bad")}
        ),
        "staged": lambda: releases.stage(
            **common, artefact_sha256=p["artefact_sha256"], config_digest=p["config_digest"], durations=p["durations"]
        ),
        "switched": lambda: releases.switch_to(
            None if p["slot"] == "none" else p["slot"], **common, reason=p["reason"], approved_by=p["approved_by"], durations=p["durations"]
        ),
        "confirmed": lambda: releases.confirm(**common, durations=p["durations"]),
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
    return {**view(releases, state, p), "changed": changed, "diff": {"before": shown[0], "after": shown[1]}}


def run(module: AnsibleModule) -> dict:
    """The result of the wanted state."""
    p = module.params
    directory = p["directory"] or f"/var/lib/greenroom/{p['service']}"
    releases = Releases(directory, p["service"], p["switch"] or f"/etc/greenroom/{p['service']}/switch", dry=module.check_mode)
    if p["state"] == "control":
        return control(p)
    if p["state"] == "stored":
        return {"changed": store_copy(directory, p["content"], dry=module.check_mode)}
    if p["state"] == "slot_linked":
        if p["slot"] == "none":
            raise SlotError("slot none cannot be linked; one of blue, green")
        before = read_links(p["slots"], p["releases"])[0]
        changed = link_slot(p["slots"], p["slot"], p["release"], p["releases"], adopt=p["adopt"], dry=module.check_mode)
        links, problems = read_links(p["slots"], p["releases"])
        return {"changed": changed, "links": links, "link_problems": problems, "diff": {"before": before, "after": links}}
    if p["state"] == "leased":
        return {**leased(releases, p), **view(releases, releases.read(), p)}
    if p["state"] == "unleased":
        return unleased(releases, p)
    if p["state"] != "read":
        return change(releases, p)
    result = {"changed": False, **view(releases, releases.read(), p)}
    if p["slots"]:
        result["links"], result["link_problems"] = read_links(p["slots"], p["releases"] or "/nonexistent")
    return result


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {
                "type": "str",
                "choices": [
                    "read", "control", "leased", "unleased", "planned", "staged", "switched", "confirmed", "failed", "stored",
                    "slot_linked",
                ],
                "default": "read",
            },
            "service": {"type": "str", "required": True},
            "directory": {"type": "path"},
            "switch": {"type": "path"},
            "run_id": {"type": "str"},
            "fencing": {"type": "int"},
            "owner": {"type": "str"},
            "control": {"type": "dict"},
            "dead": {"type": "list", "elements": "int", "default": []},
            "holder": {"type": "dict"},
            "ttl_s": {"type": "int", "default": 7200},
            "wait_s": {"type": "int", "default": 0},
            "step": {"type": "str"},
            "version": {"type": "str"},
            "commit": {"type": "str"},
            "lock_sha256": {"type": "str"},
            "config_digest": {"type": "str"},
            "artefact_sha256": {"type": "str"},
            "retry_bad": {"type": "bool", "default": False},
            "slot": {"type": "str", "choices": ["blue", "green", "none"]},
            "reason": {"type": "str"},
            "approved_by": {"type": "str"},
            "bad": {"type": "bool", "default": False},
            "durations": {"type": "dict", "default": {}},
            "content": {"type": "raw"},
            "releases": {"type": "path"},
            "slots": {"type": "path"},
            "release": {"type": "path"},
            "adopt": {"type": "bool", "default": False},
        },
        required_if=[
            ("state", "leased", ["run_id", "owner", "control"]),
            ("state", "unleased", ["run_id"]),
            ("state", "planned", ["run_id", "version", "commit", "lock_sha256"]),
            ("state", "staged", ["run_id", "artefact_sha256"]),
            ("state", "switched", ["run_id", "slot", "reason"]),
            ("state", "confirmed", ["run_id"]),
            ("state", "failed", ["run_id", "reason"]),
            ("state", "stored", ["content"]),
            ("state", "slot_linked", ["slot", "release", "releases", "slots"]),
        ],
        supports_check_mode=True,
    )  # fmt: skip
    try:
        result = run(module)
    except LeaseHeld as error:
        module.fail_json(msg=str(error), greenroom_exit=error.exit_status, holder=error.holder)
    except StateError as error:
        module.fail_json(msg=str(error), greenroom_exit=error.exit_status)
    except SwitchError as error:
        module.fail_json(msg=str(error), greenroom_exit=4)
    except (LeaseError, SlotError, DurableError) as error:
        module.fail_json(msg=str(error), greenroom_exit=3)
    except OSError as error:
        module.fail_json(
            msg=f"{error.filename or module.params['directory'] or module.params['service']}: {error.strerror or error}", greenroom_exit=4
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
