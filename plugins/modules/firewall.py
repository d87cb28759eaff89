#!/usr/bin/python
"""Loads the firewall's own nftables table, with a way back that needs no connection."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firewall
short_description: Load Greenroom's own nftables table, and take it back unless it is confirmed
description:
  - Compares the table C(inet greenroom) that is loaded with what the given text asks for, and loads it where they differ.
    Other tables are not touched.
  - Before it loads a changed table, a timer is set on the host that restores what O(path) holds. O(state=confirmed) cancels it and
    writes O(path). It is to be called over a new connection, which proves that the host can still be reached.
  - A reboot before that also restores what O(path) holds.
options:
  path:
    description: File that holds the table and is loaded at boot.
    type: path
    default: /etc/greenroom/firewall.nft
  content:
    description:
      - The wanted text of the file. It must replace the table in one step, so it begins by adding and deleting the table.
      - Needed for O(state=loaded) and O(state=measured).
    type: str
  state:
    description:
      - V(loaded) loads what differs; V(confirmed) cancels the timer and writes the file.
      - V(measured) changes nothing and leaves evidence (C(prep.network.firewall)) whether the loaded table is the wanted one, and is
        loaded at boot.
    type: str
    choices: [loaded, confirmed, measured]
    default: loaded
  revert_after:
    description: Seconds after which an unconfirmed change is taken back.
    type: int
    default: 60
attributes:
  check_mode:
    description: Reports what would change, with the difference of the file, and loads nothing.
    support: full
  diff_mode:
    description: Shows the file before and after, and the loaded rules where only they differ.
    support: full
author: Greenroom
"""

EXAMPLES = r"""
- name: Load the table
  firewall:
    content: "{{ lookup('ansible.builtin.template', 'firewall.nft.j2') }}"
  register: table

- name: Prove the connection
  when: table.pending
  block:
    - name: Connect anew
      ansible.builtin.meta: reset_connection
    - name: Wait for the host
      ansible.builtin.wait_for_connection:
        timeout: 30
    - name: Keep the table
      firewall:
        state: confirmed
"""

RETURN = r"""
pending:
  description: Whether a timer waits to take the table back, so that the connection must be proved.
  returned: O(state=loaded) and O(state=confirmed)
  type: bool
reasons:
  description: What differed, for example that the table is not loaded.
  returned: O(state=loaded)
  type: list
  elements: str
evidence:
  description:
    - The record of C(prep.network.firewall), also when the module fails because it is not C(pass).
    - With O(state=loaded) only where there was nothing to do, as having looked is the measurement then.
  returned: O(state=measured) and O(state=loaded)
  type: list
  elements: dict
"""

import difflib
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom import firewall
from ansible.module_utils.greenroom.durable import write_atomic


def main():
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "default": "/etc/greenroom/firewall.nft"},
            "content": {"type": "str"},
            "state": {"type": "str", "choices": ["loaded", "confirmed", "measured"], "default": "loaded"},
            "revert_after": {"type": "int", "default": 60},
        },
        required_if=[("state", "loaded", ("content",)), ("state", "measured", ("content",))],
        supports_check_mode=True,
    )
    if module.params["state"] == "measured":
        record = firewall.measure(Path(module.params["path"]), module.params["content"])
        result = {"changed": False, "evidence": [record]}
        if record["status"] != "pass":
            module.fail_json(msg=f"the firewall is not what it should be: {record['reason']}", **result)
        module.exit_json(**result)
    try:
        module.exit_json(**(load(module) if module.params["state"] == "loaded" else confirm(module)))
    except (firewall.FirewallError, OSError) as error:
        module.fail_json(msg=str(error), changed=False, pending=False)


def load(module) -> dict:
    """Load the wanted table where file or kernel differ from it."""
    path, text = Path(module.params["path"]), module.params["content"]
    before = _text(path)
    if module.check_mode and not module.get_bin_path("nft"):
        return {"changed": True, "pending": False, "reasons": ["nftables is not installed yet"], "diff": _diff(path, before, text)}
    wanted = firewall.as_text(firewall.wanted_text(path, text))
    loaded = firewall.as_text(firewall.loaded())
    reasons = []
    if not loaded:
        reasons.append("the table is not loaded")
    elif loaded != wanted:
        reasons.append("the loaded rules are not the wanted ones")
    if before != text:
        reasons.append(f"{path} differs" if before else f"{path} is missing")
    if firewall.pending() and loaded == wanted and _text(firewall.candidate_of(path)) == text:
        reasons = []  # loaded before, by a run that did not live to confirm it
    elif reasons and not module.check_mode:
        if loaded == wanted:
            write_atomic(path, text.encode(), 0o600)
        else:
            firewall.load(path, text, module.params["revert_after"])
    diff = _diff(path, before, text)
    if before == text and loaded != wanted:
        diff = _diff("loaded rules", loaded, wanted)
    result = {"changed": bool(reasons), "pending": firewall.pending(), "reasons": reasons, "diff": diff}
    # Where there is nothing to do, having looked is the measurement.
    measured = [] if reasons or result["pending"] or module.check_mode else [firewall.measure(path, text)]
    return {**result, "evidence": [record for record in measured if record["status"] == "pass"]}


def confirm(module) -> dict:
    """Cancel the timer; where it has run already, the change is gone and that is a failure."""
    path = Path(module.params["path"])
    if module.check_mode:
        return {"changed": firewall.pending(), "pending": firewall.pending()}
    if not firewall.confirm(path):
        raise firewall.FirewallError(
            f"the change of {path} was taken back by its timer before the host was reached again; "
            "look whether host_base_firewall_ssh_port and host_base_firewall_ssh_from let this control node in"
        )
    return {"changed": True, "pending": False}


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _diff(name, before: str, after: str) -> dict:
    lines = difflib.unified_diff(before.splitlines(True), after.splitlines(True), f"before: {name}", f"after: {name}")
    return {"prepared": "".join(lines)} if before != after else {}


if __name__ == "__main__":
    main()
