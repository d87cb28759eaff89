#!/usr/bin/python
"""Reads what is there on a host in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_state
short_description: Read packages, files, units and users of a host in one call
description:
  - Hands back what is there and changes nothing. A role compares it with what it wants, and runs its changing tasks only where
    something differs.
  - One call instead of a task for every fact keeps a run that finds nothing to do short.
options:
  packages:
    description: Debian packages.
    type: list
    elements: str
    default: []
  files:
    description: Paths, or patterns with C(*) for what they match.
    type: list
    elements: str
    default: []
  contents:
    description:
      - Small text files whose content is handed back.
      - Not for secrets, the content goes into the task's result.
    type: list
    elements: str
    default: []
  units:
    description: systemd units, or patterns with C(*) for the loaded units they match.
    type: list
    elements: str
    default: []
  users:
    description: Users.
    type: list
    elements: str
    default: []
  groups:
    description: Groups.
    type: list
    elements: str
    default: []
  key_pairs:
    description: Certificates and private keys that should belong together.
    type: list
    elements: dict
    default: []
    suboptions:
      cert:
        description: File of the certificate in PEM format.
        type: str
        required: true
      key:
        description: File of the private key in PEM format.
        type: str
        required: true
attributes:
  check_mode:
    description: Works the same in check mode, as it only reads.
    support: full
author: Greenroom
"""

EXAMPLES = r"""
- name: Look at the host
  host_state:
    packages: [nftables]
    files: [/etc/greenroom, "/etc/postgresql/*/main/postgresql.conf"]
    contents: [/etc/greenroom/tls/host.crt]
    units: [ssh.service]
    users: [postgres]
  register: found
"""

RETURN = r"""
packages:
  description: Version of each package that is installed, null for the others.
  returned: always
  type: dict
files:
  description:
    - State of each path that was asked for, and of each that a pattern matched.
    - Keys are exists, type (file, directory, link, other), mode (for example 0640), owner, group, access (for example C(root:root 0640)),
      size in bytes, mtime (seconds since 1970), sha256 of a file, target of a link.
  returned: always
  type: dict
contents:
  description: Text of each file, null where there is none.
  returned: always
  type: dict
units:
  description: State of each unit, with the keys loaded, active, enabled, needs_reload, pid, started (seconds since 1970).
  returned: always
  type: dict
users:
  description: Each user with uid, gid, group, groups, home and shell; null where there is none.
  returned: always
  type: dict
groups:
  description: Number of each group, null where there is none.
  returned: always
  type: dict
key_pairs:
  description: Whether key and certificate belong together, by the certificate's path. False also where one of them is missing.
  returned: always
  type: dict
memory_bytes:
  description: Memory that the host may use, the control group's limit where that is lower than the machine's memory.
  returned: always
  type: int
cpus:
  description: Processors that the host may use.
  returned: always
  type: int
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom import host_state


def main():
    names = {"type": "list", "elements": "str", "default": []}
    pair = {"cert": {"type": "str", "required": True}, "key": {"type": "str", "required": True, "no_log": False}}
    module = AnsibleModule(
        argument_spec={
            "packages": names, "files": names, "contents": names, "units": names, "users": names, "groups": names,
            "key_pairs": {"type": "list", "elements": "dict", "default": [], "options": pair, "no_log": False},
        },
        supports_check_mode=True,
    )  # fmt: skip
    result = {"changed": False}
    for name, value in module.params.items():
        try:
            result[name] = getattr(host_state, name)(value)
        except (OSError, RuntimeError, ValueError) as error:
            module.fail_json(msg=f"{name}: {error}", **result)
    result["memory_bytes"] = host_state.memory_bytes()
    result["cpus"] = len(os.sched_getaffinity(0))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
