#!/usr/bin/python
"""Ansible module: checks the command line of a run (logic in module_utils/greenroom/inputs.py)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: run_inputs
short_description: Check the command line of a run
description:
  - Checks tags, limit, C(run_) variables, Ansible's version and the configuration in force, and reports all problems at once.
  - An unknown tag and a limit that matches nothing end green in Ansible, having done nothing. Here they are refused.
  - Runs on the control node and changes nothing.
options:
  run_tags:
    description: The tags asked for, the magic variable C(ansible_run_tags).
    type: list
    elements: str
    required: true
  skip_tags:
    description: The tags to skip, the magic variable C(ansible_skip_tags).
    type: list
    elements: str
    default: []
  limit:
    description: The limit asked for, the magic variable C(ansible_limit). Leave it out if there is none.
    type: str
  selected_hosts:
    description: The hosts that remain under the limit, C(ansible_play_hosts_all) of a play on C(all).
    type: list
    elements: str
    required: true
  groups:
    description: The inventory's groups and their hosts, the magic variable C(groups).
    type: dict
    required: true
  contract:
    description: The contract as M(service_contract) returned it. Without it only the groups gateway and app are looked at.
    type: dict
  variables:
    description: Every variable whose name begins with C(run_), with its value.
    type: dict
    default: {}
  ansible_version:
    description: The version of ansible-core, C(ansible_version.full).
    type: str
    required: true
  config_file:
    description: The configuration file in force, the magic variable C(ansible_config_file).
    type: path
  project_dir:
    description: The project's folder.
    type: path
    required: true
attributes:
  check_mode:
    description: The module changes nothing, so it does the same in check mode.
    support: full
author: Greenroom (@greenroom)
"""

EXAMPLES = r"""
- name: Check the command line
  run_inputs:
    run_tags: "{{ ansible_run_tags }}"
    skip_tags: "{{ ansible_skip_tags }}"
    limit: "{{ ansible_limit | default(omit) }}"
    selected_hosts: "{{ ansible_play_hosts_all }}"
    groups: "{{ groups }}"
    contract: "{{ contract_result.contract }}"
    variables: "{{ dict(query('varnames', '^run_') | zip(query('vars', *query('varnames', '^run_')))) }}"
    ansible_version: "{{ ansible_version.full }}"
    config_file: "{{ ansible_config_file | default(omit, true) }}"
    project_dir: "{{ playbook_dir }}/.."
  delegate_to: localhost
  run_once: true
  vars:
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
    ansible_become: false
"""

RETURN = r"""
phases:
  description: The phases that this run selects, in their order.
  returned: always
  type: list
  elements: str
  sample: [prepare, release, database, configure, verify]
rollback:
  description: What a rollback is asked for, V(everything), V(application), V(configuration) or V(gateway); empty if this is none.
  returned: always
  type: str
left_out:
  description: The phases before the last selected one that are left out; the ledger must say that they were proven.
  returned: always
  type: list
  elements: str
  sample: [prepare, release]
changing:
  description: Whether the run may change anything, so that it must hold the lease. False in check mode.
  returned: always
  type: bool
catalogues:
  description: Files of the requirements, the project's own and the service's.
  returned: always
  type: list
  elements: str
greenroom:
  description: What the report tells about the run. C(service), C(environment), C(catalogues), C(not_applicable), C(reason), C(approved_by).
  returned: always
  type: dict
problems:
  description: All problems, each with C(path), C(file), C(line), C(message), C(fix) and C(text), the one line for people.
  returned: always
  type: list
  elements: dict
greenroom_exit:
  description: Exit status the run should end with; inputs were refused and nothing was touched.
  returned: failure
  type: int
  sample: 3
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom.catalogue import not_applicable_in
from ansible.module_utils.greenroom.inputs import check, left_out, rollback_part, selected_phases
from ansible.module_utils.greenroom.problems import EXIT_REFUSED, report

ARGUMENT_SPEC = {
    "run_tags": {"type": "list", "elements": "str", "required": True},
    "skip_tags": {"type": "list", "elements": "str", "default": []},
    "limit": {"type": "str"},
    "selected_hosts": {"type": "list", "elements": "str", "required": True},
    "groups": {"type": "dict", "required": True},
    "contract": {"type": "dict"},
    "variables": {"type": "dict", "default": {}},
    "ansible_version": {"type": "str", "required": True},
    "config_file": {"type": "path"},
    "project_dir": {"type": "path", "required": True},
}


def about(contract: dict, project_dir: str, variables: dict) -> dict:
    """What the report tells of a run of this service; `run_reason` and `run_approved_by` are a person's words."""
    files = [f"{project_dir}/catalogue/any.yml", *([f"{project_dir}/{contract['catalogue']}"] if contract.get("catalogue") else [])]
    return {
        "service": contract["name"], "environment": contract["environment"], "catalogues": files,
        "not_applicable": not_applicable_in(contract, files),
        "reason": str(variables.get("run_reason") or ""), "approved_by": str(variables.get("run_approved_by") or ""),
    }  # fmt: skip


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    problems = check(**module.params)
    phases = selected_phases(module.params["run_tags"], module.params["skip_tags"])
    changing = bool(phases) and not module.check_mode
    told = about(module.params["contract"], module.params["project_dir"], module.params["variables"]) if module.params["contract"] else {}
    result = {
        "changed": False, "phases": phases, "left_out": left_out(phases), "changing": changing, "problems": problems,
        "catalogues": told.get("catalogues", []), "greenroom": told, "rollback": rollback_part(module.params["run_tags"]),
    }  # fmt: skip
    if problems:
        module.fail_json(msg=report(problems, "The command line is refused"), greenroom_exit=EXIT_REFUSED, **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
