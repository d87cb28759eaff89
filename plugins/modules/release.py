#!/usr/bin/python
"""Ansible module: what is live, and the ways in which that changes (logic in module_utils/greenroom)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Read and change what is live
description:
  - The state machine of a service's releases. On the gateway it keeps C(state.json), C(ledger.jsonl), the lease and the switch;
    on application hosts it keeps a copy of the state and the slot links.
  - Every change of the state names the fencing number of the lease and is refused without it. State is written before it is acted on.
  - In check mode nothing is written and no lease is taken; the result is the state as it would be.
options:
  state:
    description:
      - V(read) returns the state and changes nothing. An absent file means that nothing was ever deployed.
      - V(leased) takes the lease, and under it finishes or undoes what a dead run left. The lease lives as long as the ansible-playbook
        that asked for it; a process of its own on the control node keeps the channel. V(unleased) gives it back.
      - V(planned) reserves a number and the idle slot; V(staged) records that the release goes into that slot, before the links move.
      - V(rollback_planned) chooses the release before, or O(to), from state and ledger; from then on it is taken like a deploy's.
      - V(switched) moves users to O(slot) with one rename.
      - V(confirmed) makes the live release of this run the last known good one; V(failed) closes it without, after a switch back.
      - V(proven) records that O(phases) were proven for this release and configuration; V(read) returns what was.
      - V(stored), on application hosts, keeps a copy of the gateway's state; V(copied) returns it.
      - V(adopted), on the gateway, takes the valid state with the highest counter of O(copies) and what lies there.
      - V(slot_linked), on application hosts, points a slot to a release with one rename.
    type: str
    choices: [
      read, leased, unleased, planned, rollback_planned, staged, switched, confirmed, failed, proven, stored, copied, adopted, slot_linked,
    ]
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
    description: With O(state=staged), hash of the release's archive. Not of a rollback, whose release is known.
    type: str
  schema:
    description:
      - With O(state=staged), C(revision), the heads of the release's migrations (empty without a database), and C(manifest).
      - Without it nothing is known of the schema, and no rollback happens without the control node.
      - With O(state=confirmed) of a rollback, C(revision) that the schema was taken back to.
    type: dict
  part:
    description: With O(state=rollback_planned), what is to go back.
    type: str
    choices: [everything, application, configuration, gateway]
    default: everything
  to:
    description: With O(state=rollback_planned), number or version of the release to go to. By default the one before.
    type: str
  rolling_back:
    description: With O(state=leased), whether this run is a rollback, which itself goes on with an interrupted one.
    type: bool
    default: false
  copies:
    description: With O(state=adopted), the C(content) that O(state=copied) returned on the application hosts.
    type: list
    elements: dict
    default: []
  retry_bad:
    description: With O(state=planned) and O(state=rollback_planned), whether a release that was found bad may be tried again.
    type: bool
    default: false
  slot:
    description: With O(state=switched) and O(state=slot_linked). V(none) shows the maintenance page.
    type: str
    choices: [blue, green, none]
  reason:
    description: Why, for the ledger. Needed with O(state=rollback_planned), O(state=switched), O(state=failed) and O(state=adopted).
    type: str
  approved_by:
    description: Who approved it, for the ledger.
    type: str
  bad:
    description: With O(state=failed), whether the release itself was proved red. Deploying it again then needs O(retry_bad).
    type: bool
    default: false
  phases:
    description:
      - With O(state=proven), the phases that this run has proven.
      - With O(state=read), the phases of this run, so that the report knows which ones earlier runs have proven.
    type: list
    elements: str
  rotated:
    description: Files of credentials on the app hosts that differ from the vault's. While there are any, nothing counts as live already.
    type: list
    elements: path
    default: []
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

- name: Take the lease
  release:
    state: leased
    service: "{{ service.name }}"
    run_id: "{{ run_id }}"
    step: deploy 1.2.0
    wait_s: 600
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
  description:
    - Whether O(version), O(commit), O(lock_sha256) and O(config_digest) are what is live and confirmed, with nothing O(rotated).
    - A deploy is then a no-op.
  type: bool
  returned: on the gateway
proven:
  description:
    - Phase to the run that proved it for exactly O(version), O(commit), O(lock_sha256) and O(config_digest). Empty without all of them.
  type: dict
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
  description: The lease in the file, with C(age_s), and C(alive), whether its holder lives; null if there is none.
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
  description: The lease of a dead holder that was replaced, in one line; null if there was none.
  type: str
  returned: with state leased, not in check mode
reconciled:
  description: What was finished or undone for a dead run. C(run_id), C(release), C(place), C(rule), C(text).
  type: list
  elements: dict
  returned: with state leased
plan:
  description: What the rollback is going to do; C(from), C(to), C(slot), C(warm), C(schema), C(revisions), C(expected_s), C(lines).
  type: dict
  returned: with state rollback_planned
links:
  description: Slot to the name of the release's folder, null where there is none.
  type: dict
  returned: when O(slots) was given
link_problems:
  description: Slot links that are not what they must be.
  type: list
  elements: str
  returned: when O(slots) was given
greenroom:
  description: What the report says of the run. C(release) names the release, C(no_op_of) the run that made it live if it is live already,
    C(resumed) what was finished or undone for a dead run.
  type: dict
  returned: with states read, leased and planned
greenroom_exit:
  description: On failure, the exit status that the run should end with. 75 means that somebody else holds the lease.
  type: int
  returned: on failure
holder:
  description: The lease of whoever holds it, null where there is none.
  type: dict
  returned: when the lease is somebody else's
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom.durable import DurableError
from ansible.module_utils.greenroom.lease import LeaseError, LeaseHeld
from ansible.module_utils.greenroom.release_states import carry_out
from ansible.module_utils.greenroom.slots import SlotError
from ansible.module_utils.greenroom.state import StateError
from ansible.module_utils.greenroom.switch import SwitchError


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {
                "type": "str",
                "choices": [
                    "read", "leased", "unleased", "planned", "rollback_planned", "staged", "switched", "confirmed", "failed", "proven",
                    "stored", "copied", "adopted", "slot_linked",
                ],
                "default": "read",
            },
            "service": {"type": "str", "required": True},
            "directory": {"type": "path"},
            "switch": {"type": "path"},
            "run_id": {"type": "str"},
            "fencing": {"type": "int"},
            "wait_s": {"type": "int", "default": 0},
            "step": {"type": "str"},
            "version": {"type": "str"},
            "commit": {"type": "str"},
            "lock_sha256": {"type": "str"},
            "config_digest": {"type": "str"},
            "artefact_sha256": {"type": "str"},
            "schema": {"type": "dict"},
            "part": {"type": "str", "choices": ["everything", "application", "configuration", "gateway"], "default": "everything"},
            "to": {"type": "str"},
            "rolling_back": {"type": "bool", "default": False},
            "copies": {"type": "list", "elements": "dict", "default": []},
            "retry_bad": {"type": "bool", "default": False},
            "slot": {"type": "str", "choices": ["blue", "green", "none"]},
            "reason": {"type": "str"},
            "approved_by": {"type": "str"},
            "bad": {"type": "bool", "default": False},
            "phases": {"type": "list", "elements": "str"},
            "rotated": {"type": "list", "elements": "path", "default": []},
            "durations": {"type": "dict", "default": {}},
            "content": {"type": "raw"},
            "releases": {"type": "path"},
            "slots": {"type": "path"},
            "release": {"type": "path"},
            "adopt": {"type": "bool", "default": False},
        },
        required_if=[
            ("state", "leased", ["run_id"]),
            ("state", "unleased", ["run_id"]),
            ("state", "planned", ["run_id", "version", "commit", "lock_sha256"]),
            ("state", "rollback_planned", ["run_id", "reason"]),
            ("state", "staged", ["run_id"]),
            ("state", "adopted", ["reason"]),
            ("state", "switched", ["run_id", "slot", "reason"]),
            ("state", "confirmed", ["run_id"]),
            ("state", "failed", ["run_id", "reason"]),
            ("state", "proven", ["run_id", "phases", "version", "commit", "lock_sha256", "config_digest"]),
            ("state", "stored", ["content"]),
            ("state", "slot_linked", ["slot", "release", "releases", "slots"]),
        ],
        supports_check_mode=True,
    )  # fmt: skip
    try:
        result = carry_out(module.params, dry=module.check_mode)
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
