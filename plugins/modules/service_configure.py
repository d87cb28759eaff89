#!/usr/bin/python
"""Ansible module: make a service's own configuration through its command line (logic in module_utils/greenroom/configuration.py)."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: service_configure
short_description: Make a service's own configuration through its command line, and prove it
description:
  - Carries out the steps in their order. A step with C(unless) runs its command only if that one fails, and C(unless) must succeed
    afterwards. A step without it runs always and is judged by its exit status.
  - Secrets go to the command over standard input. They stand on no command line and in no output.
  - The first step that fails ends the work. The ones after it are C(not_run).
options:
  steps:
    description: The steps, C(configure) of the service contract.
    type: list
    elements: dict
    required: true
    suboptions:
      id: {description: "Evidence id.", type: str, required: true}
      name: {description: "For people.", type: str, required: true}
      command: {description: "What makes the configuration. Split as a shell would, run without one.", type: str, required: true}
      unless: {description: "Succeeds if there is nothing to do.", type: str}
      stdin_key: {description: "Key of O(secrets) whose value the command reads from standard input.", type: str}
  runner:
    description: Beginning of the command line, which runs a command as the service user in a slot's environment.
    type: list
    elements: str
    default: []
  secrets:
    description: Secrets by key.
    type: dict
    default: {}
  timeout_s:
    description: Each command must end within this time, in seconds.
    type: float
    default: 60
attributes:
  check_mode:
    support: full
    description: Only C(unless) is run. A step that would change something has no evidence.
author: Greenroom (@greenroom)
"""

EXAMPLES = r"""
- name: Register the application
  service_configure:
    runner: [/usr/local/bin/example-service-run, blue]
    secrets: "{{ vault_service_env }}"
    steps:
      - id: config.app.added
        name: Register the first application
        command: example-cli app add first
        unless: example-cli app show first
        stdin_key: APP_SECRET
"""

RETURN = r"""
evidence:
  description: One record for each step, in their order. In check mode only for what is in place already.
  returned: always
  type: list
  elements: dict
  sample: [{id: config.app.added, status: pass, expected: "Register the first application: in place", observed: "in place already"}]
made:
  description: Names of the steps whose command ran (in check mode, would run).
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom import configuration


def main() -> None:
    """Carry out the steps, return their evidence."""
    module = AnsibleModule(
        argument_spec={
            "steps": {
                "type": "list", "elements": "dict", "required": True,
                "options": {
                    "id": {"type": "str", "required": True},
                    "name": {"type": "str", "required": True},
                    "command": {"type": "str", "required": True},
                    "unless": {"type": "str"},
                    "stdin_key": {"type": "str"},
                },
            },
            "runner": {"type": "list", "elements": "str", "default": []},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "timeout_s": {"type": "float", "default": 60},
        },
        supports_check_mode=True,
    )  # fmt: skip
    params = module.params
    secrets = {key: str(value) for key, value in params["secrets"].items()}
    done = configuration.apply_steps(params["steps"], params["runner"], secrets, limit_s=params["timeout_s"], dry=module.check_mode)
    red = [item for item in done["evidence"] if item["status"] != "pass"]
    if red:
        module.fail_json(msg="\n".join(f"{item['id']}: {item['reason']}" for item in red), **done)
    module.exit_json(**done)


if __name__ == "__main__":
    main()
