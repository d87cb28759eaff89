#!/usr/bin/python
"""Ansible module: runs a site's own commands beside a phase (logic in module_utils/greenroom/hooks.py)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: service_hooks
short_description: Run the commands that a site wants before or after a phase
description:
  - Runs on the control node, one command after the other, without a shell. The first that fails ends the task; the message has its name,
    its exit status and the end of its output.
  - Values of O(secrets) are masked in whatever a command says, also where they stand URL-quoted or in JSON.
  - What a command prints and does is not evidence. It changes something, as nobody can know otherwise.
options:
  hook:
    description: The hook's name in the contract, such as V(before_release).
    type: str
    required: true
  commands:
    description: The commands, each split into words as a shell would.
    type: list
    elements: str
    required: true
  directory:
    description: Folder that they run in.
    type: path
    required: true
  variables:
    description: Environment variables beside those of the control process.
    type: dict
    default: {}
  secrets:
    description: Secrets that must not be shown, by any name; mappings in it are gone through. The commands do not get them.
    type: dict
    default: {}
  timeout_s:
    description: Limit for each command in seconds; then it and what it has started in its session are ended.
    type: int
    default: 600
author: Greenroom
attributes:
  check_mode:
    support: full
    description: Runs nothing.
"""

EXAMPLES = r"""
- name: Run the hooks before the release
  service_hooks:
    hook: before_release
    commands: ["./notify.sh starting"]
    directory: "{{ playbook_dir }}"
    variables: {GREENROOM_SERVICE: "{{ service.name }}", GREENROOM_VERSION: "{{ release.version }}"}
    secrets: "{{ vault }}"
  delegate_to: localhost
  become: false
"""

RETURN = r"""
hooks:
  description: Each command that was run, with C(command), C(seconds) and C(output) (the end of both streams), secrets masked.
  type: list
  elements: dict
  returned: always
  sample: [{command: ./notify.sh starting, seconds: 0.1, output: told 3 people}]
"""

from collections.abc import Iterator

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom.hooks import HookError, run_hooks
from ansible.module_utils.greenroom.masking import SHORTEST


def texts(tree: object) -> Iterator[str]:
    """Every text in a tree of mappings and lists."""
    if isinstance(tree, dict):
        for value in tree.values():
            yield from texts(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from texts(value)
    elif isinstance(tree, str):
        yield tree


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "hook": {"type": "str", "required": True},
            "commands": {"type": "list", "elements": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "variables": {"type": "dict", "default": {}},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "timeout_s": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    p = module.params
    # A short one ("on", "app") would blank ordinary words of Ansible's own.
    module.no_log_values = {value for value in module.no_log_values if len(value) >= SHORTEST}
    if module.check_mode:
        module.exit_json(changed=False, hooks=[])
    variables = {str(key): str(value) for key, value in p["variables"].items()}
    try:
        done = run_hooks(p["hook"], p["commands"], p["directory"], variables, texts(p["secrets"]), limit_s=p["timeout_s"])
    except HookError as error:
        module.fail_json(msg=str(error), hooks=error.done)
    module.exit_json(changed=True, hooks=done)


if __name__ == "__main__":
    main()
