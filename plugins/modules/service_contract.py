#!/usr/bin/python
"""Ansible module: checks the service contract (logic in module_utils/greenroom/contract*.py)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: service_contract
short_description: Check the service contract and fill in its defaults
description:
  - Checks the variable C(service) against its JSON schema and against what the schema cannot say. The inventory's hosts, the
    secrets and production's names are checked with it.
  - Reports all problems at once, each with file, line and key, and with what to write instead. Never shows a secret's value.
  - Runs on the control node with the Python that runs Ansible (it needs jsonschema), and changes nothing.
options:
  contract:
    description: The variable C(service). Anything but a mapping is a problem of its own.
    type: raw
  secrets:
    description:
      - The variables whose name begins with C(vault_). C(vault_service_env) maps keys to values.
      - The others are passwords, such as C(vault_postgresql_owner_password). Leave out what is not set.
    type: dict
    default: {}
  production_markers:
    description: What production uses, as C(hosts), C(domains), C(databases) and C(ports). Nothing of this inventory may name it.
    type: raw
  groups:
    description: The inventory's groups and their hosts, the magic variable C(groups).
    type: dict
    required: true
  addresses:
    description: The address of each host of the inventory, see the filter C(host_addresses).
    type: dict
    default: {}
  inventory_dir:
    description: Folder of the inventory, to name the file and line of a problem.
    type: path
  schema:
    description: Path of the project's C(schemas/service.json).
    type: path
    required: true
attributes:
  check_mode:
    description: The module changes nothing, so it does the same in check mode.
    support: full
author: Greenroom (@greenroom)
"""

EXAMPLES = r"""
- name: Check the service contract
  service_contract:
    contract: "{{ service | default(none) }}"
    secrets: "{{ dict(query('varnames', '^vault_') | zip(query('vars', *query('varnames', '^vault_')))) }}"
    production_markers: "{{ production_markers | default(none) }}"
    groups: "{{ groups }}"
    addresses: "{{ groups['all'] | host_addresses(hostvars) }}"
    inventory_dir: "{{ inventory_dir }}"
    schema: "{{ playbook_dir }}/../schemas/service.json"
  delegate_to: localhost
  run_once: true
  vars:
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
    ansible_become: false
  register: contract_result

- name: Take over the contract with its defaults
  ansible.builtin.set_fact:
    service: "{{ contract_result.contract }}"
"""

RETURN = r"""
contract:
  description: The contract with every default filled in. Optional parts that are not used stay absent.
  returned: success
  type: dict
connections_required:
  description: How many connections the database server must allow.
  returned: success
  type: int
  sample: 132
connections:
  description: The terms of that sum, in connections or counts.
  returned: success
  type: dict
  sample: {required: 132, slots: 2, hosts: 2, processes: 3, pool_max: 10, application: 120, migration: 2, reserve: 10}
problems:
  description: All problems, each with C(path), C(file), C(line), C(message), C(fix) and C(text), the one line for people.
  returned: always
  type: list
  elements: dict
evidence:
  description: Evidence records of what the contract and the inventory prove.
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
from ansible.module_utils.greenroom.contract import connections_required, load_schema, normalized, validate
from ansible.module_utils.greenroom.contract import evidence as contract_evidence
from ansible.module_utils.greenroom.contract_rules import SHORTEST_SECRET
from ansible.module_utils.greenroom.problems import EXIT_REFUSED, report

ARGUMENT_SPEC = {
    "contract": {"type": "raw"},
    "secrets": {"type": "dict", "default": {}, "no_log": True},
    "production_markers": {"type": "raw"},
    "groups": {"type": "dict", "required": True},
    "addresses": {"type": "dict", "default": {}},
    "inventory_dir": {"type": "path"},
    "schema": {"type": "path", "required": True},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    # Ansible blanks every secret wherever it appears in the output. A short one ("on", "app") would blank ordinary words; it is
    # refused below. The invocation is one of our own: without the secrets, and without the contract, in which somebody may have
    # written a secret that is refused for standing there.
    module.no_log_values = {value for value in module.no_log_values if len(value) >= SHORTEST_SECRET}
    params = module.params
    shown = {key: params[key] for key in ("schema", "inventory_dir")}
    try:
        problems = validate(
            params["contract"],
            params["schema"],
            secrets=params["secrets"],
            markers=params["production_markers"],
            groups=params["groups"],
            addresses=params["addresses"],
            inventory_dir=params["inventory_dir"],
        )
    except (OSError, ValueError) as error:
        module.fail_json(
            msg=f"the schema {params['schema']} cannot be read: {error}", problems=[], evidence=[], invocation={"module_args": shown}
        )
    records = contract_evidence(params["contract"], params["production_markers"], problems)
    result = {"changed": False, "problems": problems, "evidence": records, "invocation": {"module_args": shown}}
    if problems:
        module.fail_json(msg=report(problems, "The service contract is refused"), greenroom_exit=EXIT_REFUSED, **result)
    contract = normalized(params["contract"], load_schema(params["schema"]))
    connections = connections_required(contract, len(params["groups"].get("app", [])))
    module.exit_json(contract=contract, connections=connections, connections_required=connections["required"], **result)


if __name__ == "__main__":
    main()
