#!/usr/bin/python
"""Ansible module: many small files, links and folders in one call (logic in module_utils/greenroom/file_set.py)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: file_set
short_description: Make many small files, links and folders in one call
description:
  - What already is as wanted is not touched; everything else is written beside and renamed in. Every entry is understood before
    the first one is carried out.
  - One call instead of a task for each file keeps a run short.
options:
  files:
    description: The files, links and folders, folders before what lies in them.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      content:
        description: Text of a file.
        type: str
      env:
        description: Variables of a file in systemd's format of env files; each value arrives byte for byte.
        type: dict
      header:
        description: Comment at the beginning of such a file.
        type: str
      link:
        description: Target of a symbolic link.
        type: str
      directory:
        description: Whether it is a folder.
        type: bool
        default: false
      mode:
        description: Mode in octal digits. By default C(0755) for a folder, C(0644) for a file.
        type: str
      owner:
        description: Owner.
        type: str
        default: root
      group:
        description: Group.
        type: str
        default: root
  secrets:
    description: Env files whose values are secrets, as path to variables. They are root's, mode C(0600), and never shown.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Nothing is written.
    support: full
  diff_mode:
    description: Shows the texts of files, not those of O(secrets).
    support: full
author: Greenroom
"""

EXAMPLES = r"""
- name: Write the service's configuration
  file_set:
    files:
      - {path: /etc/example-service, directory: true}
      - {path: /etc/example-service/slot-blue.env, env: {PORT: 8101, GREENROOM_SLOT: blue}}
    secrets:
      /etc/example-service/credentials.env: "{{ vault_service_env }}"
"""

RETURN = r"""
written:
  description: Paths that changed, or would.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom.file_set import FileSetError, ensure_all

ENTRY = {
    "path": {"type": "path", "required": True},
    "content": {"type": "str"},
    "env": {"type": "dict"},
    "header": {"type": "str"},
    "link": {"type": "str"},
    "directory": {"type": "bool", "default": False},
    "mode": {"type": "str"},
    "owner": {"type": "str", "default": "root"},
    "group": {"type": "str", "default": "root"},
}


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "dict", "required": True, "options": ENTRY},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    secrets = [{"path": path, "env": values, "mode": "0600"} for path, values in module.params["secrets"].items()]
    hidden = set(module.params["secrets"])
    try:
        changes = ensure_all([*module.params["files"], *secrets], dry=module.check_mode)
    except (FileSetError, KeyError) as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename or 'a file'}: {error.strerror or error}")
    diff = [
        {"before_header": path, "after_header": path, "before": before, "after": after}
        for path, before, after in changes
        if path not in hidden
    ]
    module.exit_json(changed=bool(changes), written=[path for path, _before, _after in changes], diff=diff)


if __name__ == "__main__":
    main()
