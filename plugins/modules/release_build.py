#!/usr/bin/python
"""Ansible module: from a git ref to a checked commit, and to the archive that goes to the hosts (logic in module_utils/greenroom)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_build
short_description: Resolve a git ref to a release, and build its archive
description:
  - Runs on the control node. With O(state=resolved) it only reads (its own cache of clones apart) - the repository is fetched, the
    ref becomes a commit, a local work tree must be clean, the lock file of that commit must pin and hash everything, and the version
    must be well formed and not belong to other content.
  - With O(state=built) it then builds the archive for the hosts - the tree of exactly that commit, the service's own wheel and every
    wheel of the lock, downloaded with hashes required for the hosts' platform. The same inputs again give the cached archive, if its
    checksum is right.
  - With O(state=tools) it builds the archive of Greenroom's own tools for hosts in the same way - the wheels of a lock file in a plain
    folder, the uv program and this library.
options:
  state:
    description: How far to go.
    type: str
    choices: [resolved, built, tools]
    default: resolved
  name:
    description: The service's name. Needed with O(state=built).
    type: str
  kind:
    description:
      - With O(state=built), what the archive is for. V(service) is a release. V(tests) also holds the wheels of O(tests_lock), for the
        service's own test run.
    type: str
    choices: [service, tests]
    default: service
  git:
    description: Address of the git repository, or the path of one on the control node. A credential in it is never printed.
    type: str
  ref:
    description: Tag, branch or commit.
    type: str
  commit:
    description: The full commit that O(ref) must be. Give the one of the first call, so that a ref that moved meanwhile is refused.
    type: str
  lock:
    description: Lock file with hashes, a path inside the repository (with O(state=tools) inside O(path)).
    type: str
    default: requirements.txt
  tests_lock:
    description: Lock file of the service's tests, a path inside the repository.
    type: str
  package:
    description: The Python package that must import and say its version.
    type: str
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
    default: {}
  work_dir:
    description: Folder of the clones, wheels and archives. It is made with mode 0700.
    type: path
    required: true
  path:
    description: With O(state=tools), the folder that holds the lock file.
    type: path
  library:
    description: With O(state=tools), the folder of this library, C(plugins/module_utils/greenroom).
    type: path
  uv:
    description: With O(state=tools), the uv program. By default the one beside the Python that runs this module, or on PATH.
    type: path
  timeout_s:
    description: Limit for each git, pip and build step, in seconds.
    type: int
    default: 600
author: Greenroom
attributes:
  check_mode:
    support: full
    description: The repository is fetched into the cache and judged; no archive is built.
"""

EXAMPLES = r"""
- name: Resolve the ref, before anything is changed
  release_build:
    git: "{{ service.source.git }}"
    ref: "{{ service.source.ref }}"
    lock: "{{ service.source.lock }}"
    package: "{{ service.package }}"
    known_versions: "{{ ledger.known_versions }}"
    work_dir: "{{ playbook_dir }}/.greenroom/build"
  delegate_to: localhost
  register: resolved

- name: Build the archive for the application hosts
  release_build:
    state: built
    name: "{{ service.name }}"
    git: "{{ service.source.git }}"
    ref: "{{ service.source.ref }}"
    commit: "{{ resolved.release.commit }}"
    lock: "{{ service.source.lock }}"
    package: "{{ service.package }}"
    requires_python: "{{ service.python }}"
    target: {python: "3.11", machine: x86_64, glibc: "2.36"}
    work_dir: "{{ playbook_dir }}/.greenroom/build"
  delegate_to: localhost
  register: built

- name: Build the archive of Greenroom's own tools
  release_build:
    state: tools
    path: requirements
    lock: hosts.txt
    library: plugins/module_utils/greenroom
    target: {python: "3.11", machine: x86_64, glibc: "2.36"}
    work_dir: "{{ playbook_dir }}/.greenroom/build"
  delegate_to: localhost
"""

RETURN = r"""
release:
  description:
    - What the ref means. C(version), C(package_version), C(commit), C(tree), C(commit_time) in seconds, C(ref), C(ref_kind) (V(tag),
      V(branch) or V(commit)), C(git) without credentials, C(repository) (the clone in the cache), C(lock), C(lock_sha256), C(requirements)
      (how many), C(requires_python), C(tests_lock), C(tests_lock_sha256), C(work_tree).
  type: dict
  returned: with state resolved or built
archive:
  description: Path of the archive on the control node; null in check mode if it is not built yet.
  type: str
  returned: with state built or tools
sha256:
  description: Checksum of the archive.
  type: str
  returned: with state built or tools
size:
  description: Size of the archive in bytes.
  type: int
  returned: with state built or tools
manifest:
  description: The manifest inside the archive, with C(wheels), C(installed_bytes) and C(needed_bytes) among others.
  type: dict
  returned: with state built or tools
rebuilt_because:
  description: Why a cached archive could not be used; null if it was.
  type: str
  returned: with state built or tools
evidence:
  description: C(release.version), C(release.code.ref) and, with state built, C(release.code.integrity). Also on failure.
  type: list
  elements: dict
  returned: with state resolved or built
greenroom_exit:
  description: Exit status the run should end with; the source was refused and no host was touched.
  type: int
  returned: when the source cannot be released or the archive not be built
  sample: 3
"""

import re
import urllib.parse

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom.bundle import build, build_tools, evidence_built
from ansible.module_utils.greenroom.durable import DurableError
from ansible.module_utils.greenroom.git import SourceError
from ansible.module_utils.greenroom.masking import redact
from ansible.module_utils.greenroom.records import record, red
from ansible.module_utils.greenroom.source import evidence_resolved, resolve
from ansible.module_utils.greenroom.wheels import BundleError


def hide_credential(module: AnsibleModule) -> None:
    """Make Ansible censor a password or token that stands in the git address, wherever it would be printed."""
    found = re.match(r"[a-z][a-z0-9+.-]*://([^/@]*)@", module.params["git"] or "")
    if found:
        user, colon, password = found[1].rpartition(":")
        for secret in {password, urllib.parse.unquote(password), user if colon else "", found[1]} - {"", "git"}:
            module.no_log_values.add(secret)


def make_tools(module: AnsibleModule) -> dict:
    """Build the archive of Greenroom's own tools."""
    p = module.params
    return build_tools(
        path=p["path"], lock=p["lock"], library=p["library"], uv=p["uv"], target=p["target"], work_dir=p["work_dir"],
        timeout_s=p["timeout_s"], dry=module.check_mode,
    )  # fmt: skip


def make_release(module: AnsibleModule, evidence: list[dict]) -> dict:
    """Resolve the ref and, with state built, build the archive; `evidence` is filled on the way."""
    p = module.params
    release = resolve(
        git=p["git"], ref=p["ref"], lock=p["lock"], package=p["package"], work_dir=p["work_dir"], tests_lock=p["tests_lock"],
        known_versions=p["known_versions"], timeout_s=p["timeout_s"],
    )  # fmt: skip
    if p["commit"] and p["commit"] != release["commit"]:
        raise SourceError(f"ref {p['ref']!r} is commit {release['commit']} now, it was {p['commit']}: it moved during the run. Run again.")
    evidence += evidence_resolved(release, p["git"])
    result: dict = {"changed": False, "release": release}
    if p["state"] == "built" and not red(evidence):
        result |= build(
            kind=p["kind"], name=p["name"], resolved=release, target=p["target"], work_dir=p["work_dir"],
            requires_python=p["requires_python"], timeout_s=p["timeout_s"], dry=module.check_mode,
        )  # fmt: skip
        if result["archive"]:
            evidence.append(evidence_built(release, result["archive"]))
    return {**result, "evidence": evidence}


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["resolved", "built", "tools"], "default": "resolved"},
            "name": {"type": "str"},
            "kind": {"type": "str", "choices": ["service", "tests"], "default": "service"},
            "git": {"type": "str"},
            "ref": {"type": "str"},
            "commit": {"type": "str"},
            "lock": {"type": "str", "default": "requirements.txt"},
            "tests_lock": {"type": "str"},
            "package": {"type": "str"},
            "requires_python": {"type": "str"},
            "known_versions": {"type": "dict", "default": {}},
            "target": {"type": "dict", "default": {}},
            "work_dir": {"type": "path", "required": True},
            "path": {"type": "path"},
            "library": {"type": "path"},
            "uv": {"type": "path"},
            "timeout_s": {"type": "int", "default": 600},
        },
        required_if=[
            ("state", "resolved", ["git", "ref", "package"]),
            ("state", "built", ["git", "ref", "package", "name", "target"]),
            ("state", "tools", ["path", "library", "target"]),
        ],
        supports_check_mode=True,
    )
    hide_credential(module)
    evidence: list[dict] = []
    try:
        result = make_tools(module) if module.params["state"] == "tools" else make_release(module, evidence)
    except (SourceError, BundleError, DurableError) as error:
        if not evidence and module.params["state"] != "tools":
            evidence = [
                record(key, "fail", expected=f"ref {module.params['ref']} can be released", observed="refused", reason=str(error))
                for key in ("release.version", "release.code.ref")
            ]
        module.fail_json(msg=str(error), evidence=evidence, greenroom_exit=3)
    except OSError as error:
        module.fail_json(msg=f"{error.filename or module.params['work_dir']}: {error.strerror}. {redact(str(error))}", evidence=evidence)
    reasons = red(result.get("evidence", []))
    if reasons:
        module.fail_json(msg=reasons, **{**result, "changed": False})
    module.exit_json(**result)


if __name__ == "__main__":
    main()
