#!/usr/bin/python
"""Ansible module: installs an archive on a host, offline, and proves it; removes old releases (logic in module_utils/greenroom)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_install
short_description: Install a release from its archive, or remove old ones
description:
  - With O(state=installed) the archive's checksum is verified before anything is unpacked; a virtual environment is made and filled
    with uv from the wheels of the archive only; what then stands on the disk is measured against the lock and the commit;
    C(release.json) is written last.
  - A folder without C(release.json) is unfinished and made anew. On any failure (a full disk among them) the folder is removed again.
  - With O(kind=tools) O(dest) is the folder of Greenroom's own tools; C(bin), C(venv), C(lib) in it are links that move with one
    rename each.
  - With O(state=pruned) old releases are removed, never one that is protected or that a slot leads to.
  - With O(state=target) it tells which wheels the host takes, for M(release_build).
options:
  state:
    description: What to do.
    type: str
    choices: [installed, pruned, target]
    default: installed
  kind:
    description: What the archive must hold.
    type: str
    choices: [service, tests, tools]
    default: service
  archive:
    description: Path of the archive on the host. Needed with O(state=installed).
    type: path
  sha256:
    description: Checksum the archive must have. Needed with O(state=installed).
    type: str
  size:
    description: Size in bytes the archive must have; a cut archive is then named as such.
    type: int
  dest:
    description:
      - With O(kind=service) the release's folder, C(/opt/<service>/releases/<number>-<version>); with O(kind=tests) a folder of the
        test run's own; with O(kind=tools) C(/opt/greenroom).
    type: path
  number:
    description: The release's number. Needed with O(kind=service).
    type: int
  version:
    description: The release's version, compared with the archive's. Needed with O(kind=service).
    type: str
  releases:
    description: With O(state=pruned), the folder of the releases.
    type: path
  slots:
    description: The folder of the slot links. What a slot leads to is neither replaced nor removed. Needed with O(state=pruned).
    type: path
  keep:
    description: With O(state=pruned), how many of the newest finished releases stay.
    type: int
    default: 5
  protected:
    description: With O(state=pruned), numbers that stay whatever their age, as M(release) returns them.
    type: list
    elements: int
    default: []
  uv:
    description: The uv program on the host. The archive of the tools brings its own.
    type: path
    default: /opt/greenroom/bin/uv
  python:
    description: The Python that the virtual environment is made from.
    type: path
    default: /usr/bin/python3
  owner:
    description: Owner of the files. The service itself must not be able to write them.
    type: str
    default: root
  group:
    description: Group of the files.
    type: str
    default: root
  run_as:
    description: Unix user for the import of the package, so that its code does not run as root.
    type: str
  timeout_s:
    description: Limit for each step of uv, in seconds.
    type: int
    default: 300
author: Greenroom
attributes:
  check_mode:
    support: full
    description: The archive, the host and the room are judged, and what is installed is measured; nothing is written.
"""

EXAMPLES = r"""
- name: Ask which wheels the host takes
  release_install:
    state: target
  register: target

- name: Install the release
  release_install:
    archive: /var/tmp/example-service.tar.gz
    sha256: "{{ built.sha256 }}"
    size: "{{ built.size }}"
    dest: "/opt/example-service/releases/{{ number }}-{{ version }}"
    number: "{{ number }}"
    version: "{{ version }}"
    slots: /opt/example-service/slots
    run_as: example-service

- name: Keep the five newest releases and whatever is needed
  release_install:
    state: pruned
    releases: /opt/example-service/releases
    slots: /opt/example-service/slots
    keep: 5
    protected: "{{ ledger.protected }}"
"""

RETURN = r"""
dest:
  description: The folder.
  type: str
  returned: with state installed
manifest:
  description: The archive's manifest; of an installed release what C(release.json) says.
  type: dict
  returned: with state installed
checks:
  description: The measurements of an archive of kind tests or tools, shaped as evidence, but about no release.
  type: list
  elements: dict
  returned: with state installed
target:
  description: C(python), C(machine) and C(glibc) of the host.
  type: dict
  returned: with state target
removed:
  description: Names of the folders that were (or would be) removed.
  type: list
  elements: str
  returned: with state pruned
kept:
  description: Names of the releases that stay.
  type: list
  elements: str
  returned: with state pruned
unknown:
  description: Folders among the releases whose names are no release's; they are left alone.
  type: list
  elements: str
  returned: with state pruned
evidence:
  description:
    - C(release.venv), C(release.deps.installed), C(release.deps.verified), C(release.deps.no_editable), C(release.deps.import) and
      C(release.code.cloned), measured on the disk. Also on failure. Empty for kinds tests and tools, and in check mode for what is
      not there.
  type: list
  elements: dict
  returned: with state installed
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom.archive import ArchiveError
from ansible.module_utils.greenroom.durable import DurableError
from ansible.module_utils.greenroom.install import InstallError, host_target, install, install_tools
from ansible.module_utils.greenroom.prune import PruneError, prune


def installed(module: AnsibleModule) -> dict:
    """Install or prove one archive."""
    p = module.params
    common = {key: p[key] for key in ("archive", "sha256", "size", "dest", "python", "timeout_s")} | {"dry": module.check_mode}
    if p["kind"] == "tools":
        result = install_tools(**common)
    else:
        names = ("kind", "number", "version", "uv", "slots", "owner", "group", "run_as")
        result = install(**common, **{key: p[key] for key in names})
    measured = result.pop("evidence")
    service = p["kind"] == "service"
    return {**result, "evidence": measured if service else [], "checks": [] if service else measured}


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["installed", "pruned", "target"], "default": "installed"},
            "kind": {"type": "str", "choices": ["service", "tests", "tools"], "default": "service"},
            "archive": {"type": "path"},
            "sha256": {"type": "str"},
            "size": {"type": "int"},
            "dest": {"type": "path"},
            "number": {"type": "int"},
            "version": {"type": "str"},
            "releases": {"type": "path"},
            "slots": {"type": "path"},
            "keep": {"type": "int", "default": 5},
            "protected": {"type": "list", "elements": "int", "default": []},
            "uv": {"type": "path", "default": "/opt/greenroom/bin/uv"},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "owner": {"type": "str", "default": "root"},
            "group": {"type": "str", "default": "root"},
            "run_as": {"type": "str"},
            "timeout_s": {"type": "int", "default": 300},
        },
        required_if=[
            ("state", "installed", ["archive", "sha256", "dest"]),
            ("state", "pruned", ["releases", "slots"]),
        ],
        supports_check_mode=True,
    )
    p = module.params
    try:
        if p["state"] == "target":
            result = {"changed": False, "target": host_target(p["python"])}
        elif p["state"] == "pruned":
            result = prune(p["releases"], p["slots"], p["keep"], p["protected"], dry=module.check_mode)
        else:
            if p["kind"] == "service" and (p["number"] is None or not p["version"]):
                module.fail_json(msg="kind service needs number and version", evidence=[])
            result = installed(module)
    except (InstallError, ArchiveError, PruneError, DurableError) as error:
        evidence = getattr(error, "evidence", []) if p["kind"] == "service" else []
        module.fail_json(msg=str(error), evidence=evidence, checks=[] if evidence else getattr(error, "evidence", []))
    except OSError as error:
        module.fail_json(msg=f"{error.filename or p['dest'] or p['releases']}: {error.strerror or error}", evidence=[])
    module.exit_json(**result)


if __name__ == "__main__":
    main()
