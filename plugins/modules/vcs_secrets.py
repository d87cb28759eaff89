#!/usr/bin/python
"""Ansible module: no secret's value lies in version control (logic in module_utils/greenroom/vcs_secrets.py)."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vcs_secrets
short_description: Prove that no secret lies in version control
description:
  - Looks for the values of secrets in all files of a commit, and in all tracked files of a work tree, as they are and as they would be
    written in a URL, in JSON or in base64. Names of keys and files are returned, never a value.
options:
  secrets:
    description: The secrets by key; maps and lists inside are gone through.
    type: dict
    required: true
  places:
    description: Where to look.
    type: list
    elements: dict
    required: true
    suboptions:
      name: {description: "For people.", type: str, required: true}
      directory: {description: "A git repository.", type: path, required: true}
      commit: {description: "Look at this commit. Without it, at the tracked files of the work tree.", type: str}
attributes:
  check_mode:
    support: full
    description: The module only reads.
author: Greenroom (@greenroom)
"""

EXAMPLES = r"""
- name: No secret is committed
  vcs_secrets:
    secrets: {vault_service_env: "{{ vault_service_env }}"}
    places:
      - {name: example-service, directory: "{{ release.repository }}", commit: "{{ release.commit }}"}
      - {name: greenroom, directory: "{{ playbook_dir }}"}
  delegate_to: localhost
"""

RETURN = r"""
evidence:
  description: One record, C(sec.secrets.not_in_vcs).
  returned: always
  type: list
  elements: dict
  sample: [{id: sec.secrets.not_in_vcs, status: pass, expected: no secret in any file, observed: 0 hits of 9 secrets in 240 files}]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom import vcs_secrets


def main() -> None:
    """Search, return the evidence."""
    place = {"name": {"type": "str", "required": True}, "directory": {"type": "path", "required": True}, "commit": {"type": "str"}}
    module = AnsibleModule(
        argument_spec={
            "secrets": {"type": "dict", "required": True, "no_log": True},
            "places": {"type": "list", "elements": "dict", "required": True, "options": place},
        },
        supports_check_mode=True,
    )
    record = vcs_secrets.check(module.params["secrets"], module.params["places"])
    if record["status"] != "pass":
        module.fail_json(msg=f"{record['id']}: {record['reason']}", evidence=[record])
    module.exit_json(changed=False, evidence=[record])


if __name__ == "__main__":
    main()
