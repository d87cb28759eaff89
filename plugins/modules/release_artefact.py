#!/usr/bin/python
"""Ansible module: a prebuilt archive as the source of a release (logic in module_utils/greenroom/artefact.py)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_artefact
short_description: Fetch a prebuilt archive and judge it before anything is changed
description:
  - Runs on the control node. The archive is one that M(release_build) made, for instance by C(playbooks/build.yml) on another machine.
  - It is fetched if it lies behind an https address, and must have exactly the given checksum. Then all of it is read - name, package
    and version must be the contract's, wheels, requirements, lock and source tree must be those its manifest states, every wheel must
    run on the hosts, and the version must not belong to other content.
  - What only the repository could tell is not claimed, C(release.code.ref) is not applicable.
options:
  archive:
    description: Path on the control node, or https address. Credentials for an address come from the user's C(.netrc).
    type: str
    required: true
  sha256:
    description: Checksum that the archive must have.
    type: str
    required: true
  version:
    description: Version that the archive must hold.
    type: str
    required: true
  name:
    description: The service's name.
    type: str
    required: true
  package:
    description: The Python package that must import and say its version.
    type: str
    required: true
  requires_python:
    description: The Python versions that the service runs on, such as V(>=3.11). Compared with O(target).
    type: str
  known_versions:
    description: Version to C(commit) and C(lock_sha256), from the ledger. The same version with other content is refused.
    type: dict
    default: {}
  target:
    description:
      - The hosts' platform, C(python) such as C(3.11), C(machine) such as C(x86_64), C(glibc) such as C(2.36). M(release_install) with
        C(state=target) tells it. With several kinds of hosts give the lowest glibc.
    type: dict
    required: true
  work_dir:
    description: Folder that fetched archives are kept in. It is made with mode 0700.
    type: path
    required: true
  timeout_s:
    description: Limit for the download, in seconds.
    type: int
    default: 600
author: Greenroom
attributes:
  check_mode:
    support: full
    description: The archive is fetched into the cache and judged, as always.
"""

EXAMPLES = r"""
- name: Judge the prebuilt archive, before anything is changed
  release_artefact:
    archive: "{{ service.artefact.archive }}"
    sha256: "{{ service.artefact.sha256 }}"
    version: "{{ service.artefact.version }}"
    name: "{{ service.name }}"
    package: "{{ service.package }}"
    requires_python: "{{ service.python }}"
    known_versions: "{{ ledger.known_versions }}"
    target: {python: "3.11", machine: x86_64, glibc: "2.36"}
    work_dir: "{{ playbook_dir }}/.greenroom/build"
  delegate_to: localhost
  register: found
"""

RETURN = r"""
release:
  description:
    - What the archive holds, in the words of M(release_build). C(git), C(repository), C(tests_lock) and C(tests_lock_sha256) are null.
  type: dict
  returned: success
archive:
  description: Path of the archive on the control node.
  type: str
  returned: success
sha256:
  description: Checksum of the archive.
  type: str
  returned: success
size:
  description: Size of the archive in bytes.
  type: int
  returned: success
manifest:
  description: The manifest inside the archive.
  type: dict
  returned: success
evidence:
  description: C(release.version), C(release.code.ref) (not applicable) and C(release.code.integrity). Also on failure.
  type: list
  elements: dict
  returned: always
greenroom_exit:
  description: Exit status the run should end with; the archive was refused and no host was touched.
  type: int
  returned: failure
  sample: 3
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom.archive import ArchiveError
from ansible.module_utils.greenroom.artefact import evidence_of, judge, obtain
from ansible.module_utils.greenroom.durable import DurableError
from ansible.module_utils.greenroom.git import SourceError
from ansible.module_utils.greenroom.records import NOT_APPLICABLE, record, red
from ansible.module_utils.greenroom.wheels import BundleError


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "archive": {"type": "str", "required": True},
            "sha256": {"type": "str", "required": True},
            "version": {"type": "str", "required": True},
            "name": {"type": "str", "required": True},
            "package": {"type": "str", "required": True},
            "requires_python": {"type": "str"},
            "known_versions": {"type": "dict", "default": {}},
            "target": {"type": "dict", "required": True},
            "work_dir": {"type": "path", "required": True},
            "timeout_s": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    p = module.params
    try:
        path = obtain(p["archive"], p["sha256"], p["work_dir"], p["timeout_s"])
        release = judge(
            path, name=p["name"], package=p["package"], version=p["version"], target=p["target"], requires_python=p["requires_python"],
            known_versions=p["known_versions"],
        )  # fmt: skip
        evidence = evidence_of(path, release, p["archive"])
    except (SourceError, ArchiveError, BundleError, DurableError) as error:
        about = {"expected": f"version {p['version']} in the archive that the contract names", "observed": "refused", "reason": str(error)}
        refused = [record(key, "fail", **about) for key in ("release.version", "release.code.integrity")]
        module.fail_json(msg=str(error), evidence=refused, greenroom_exit=3)
    except OSError as error:
        module.fail_json(msg=f"{error.filename or p['work_dir']}: {error.strerror}", evidence=[], greenroom_exit=3)
    reasons = red([one for one in evidence if one["status"] != NOT_APPLICABLE])
    if reasons:
        module.fail_json(msg=reasons, evidence=evidence, greenroom_exit=3)
    manifest, size = release.pop("manifest"), os.path.getsize(path)
    module.exit_json(changed=False, release=release, archive=str(path), sha256=p["sha256"], size=size, manifest=manifest, evidence=evidence)


if __name__ == "__main__":
    main()
