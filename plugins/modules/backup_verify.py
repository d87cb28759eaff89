#!/usr/bin/python
"""Ansible module: the proof of a logical backup (logic in module_utils/greenroom/backup/verify.py)."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: backup_verify
short_description: Prove a logical backup by restoring it
description:
  - With O(state=verified), on a host of the group C(restore), fetches the newest logical backup from every place, checks its signed
    manifest, opens it with the key that lies on this host, restores it strictly into a throw-away cluster (unix socket only, never a live
    server) and compares it with the fingerprint that was taken in the snapshot of the dump. Then it damages what it proved, to see that its
    own checks turn red; if they do not, the verdict is V(verifier broken).
  - With O(state=remembered), on the database host, remembers that a backup was proved, so that the retention keeps it until a newer one is.
  - Runs in Greenroom's own virtual environment (boto3, psycopg, zstandard), with the programs age and PostgreSQL of the source's version.
  - What each verdict promises, and what it does not, stands in docs/backups.md.
options:
  state:
    description: What to do.
    type: str
    choices: [verified, remembered]
    default: verified
  config:
    description: The host's configuration, C(/etc/greenroom/<service>/backup.json).
    type: path
    required: true
  id:
    description: A backup. Without it O(state=verified) takes the newest; O(state=remembered) needs it.
    type: str
  max_age_s:
    description: The newest backup may show the database of at most this many seconds ago.
    type: float
    default: 93600
  key_probes:
    description: Columns that are encrypted with a key of the service; every value in them must open with it.
    type: list
    elements: dict
    default: []
    suboptions:
      table: {description: "Table with its schema.", type: str, required: true}
      column: {description: "The column.", type: str, required: true}
      key_file: {description: "File on this host with the key, one line.", type: path, required: true}
      expression: {description: "SQL that opens a value, with C(%(key)s); pgcrypto's C(pgp_sym_decrypt) by default.", type: str}
  release:
    description:
      - The deployed release, for its own checks of the restored copy. Its revision must be the copy's, its commands must read what they
        expect. They run as the service's unix user, as its database role.
    type: dict
    suboptions:
      folder: {description: "Folder of the installed release, with C(venv) and C(src).", type: path, required: true}
      user: {description: "The service's unix user on this host.", type: str, required: true}
      role: {description: "The role the service connects as.", type: str, required: true}
      url_key: {description: "Variable in which the service expects the database's URL.", type: str, required: true}
      url_scheme: {description: "Scheme of that URL; it names the driver.", type: str, default: postgresql}
      config: {description: "alembic's configuration file below C(src); left out for a service without migrations.", type: str}
      env: {description: "The rest of the service's environment.", type: dict, default: {}}
      secrets: {description: "What of it is secret. Keys that open data are needed, all others may be anything.", type: dict, default: {}}
      checks: {description: "Commands, each with C(name), C(command) and C(expect).", type: list, elements: dict, default: []}
  jobs:
    description: Connections and processes that work side by side.
    type: int
    default: 2
  scratch_dir:
    description: Folder for the throw-away cluster; the user postgres must be able to enter it. The work folder by default.
    type: path
attributes:
  check_mode:
    support: partial
    details: Manifests, signatures and ages are looked at, nothing is fetched or restored; all that needs it is C(not_run).
author: Greenroom (@greenroom)
"""

EXAMPLES = r"""
- name: Prove the newest logical backup
  backup_verify:
    config: /etc/greenroom/example-service/backup.json
    key_probes:
      - {table: public.applications, column: secret, key_file: /etc/greenroom/example-service/backup/service_key}
    release:
      folder: /opt/example-service/releases/12-1.4.0
      user: example-service
      role: example_app
      url_key: DATABASE_URL
      config: alembic.ini
      checks:
        - {name: the list of things, command: example-cli things list --json, expect: {ok: true}}
  register: backup_proof

- name: Keep it until a newer one is proved
  backup_verify:
    state: remembered
    config: /etc/greenroom/example-service/backup.json
    id: "{{ backup_proof.id }}"
"""

RETURN = r"""
verdict:
  description: V(verified), V(failed), V(verifier broken), or in check mode V(looked at, not verified).
  returned: for state verified, also on failure
  type: str
statement:
  description: What was proved, in one sentence with figures; or the step that failed, and why.
  returned: for state verified, also on failure
  type: str
id:
  description: The backup.
  returned: always
  type: str
places:
  description: Of every place whether it handed out the right bytes, how many, and why not.
  returned: for state verified, also on failure
  type: dict
differences:
  description: What the restored database has otherwise, each naming the object.
  returned: for state verified, also on failure
  type: list
  elements: str
seconds:
  description: How long each step took.
  returned: for state verified, also on failure
  type: dict
total_s:
  description: Seconds from the start to the verdict, fetching and opening included.
  returned: for state verified, also on failure
  type: float
expires:
  description: When the statement is too old to be relied on (ISO 8601).
  returned: for state verified, also on failure
  type: str
sha256:
  description: Digest of the whole result.
  returned: for state verified, also on failure
  type: str
evidence:
  description: One record a step.
  returned: for state verified, also on failure
  type: list
  elements: dict
  sample: [{id: protect.restore.integrity, status: pass, expected: 0 differences from the fingerprint of the dump's snapshot, observed: 0}]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom.backup import configuration, dump, verify
from ansible.module_utils.greenroom.backup.errors import BackupError
from ansible.module_utils.greenroom.backup.release_checks import ReleaseChecks

PROBE = {
    "table": {"type": "str", "required": True},
    "column": {"type": "str", "required": True},
    "key_file": {"type": "path", "required": True},
    "expression": {"type": "str"},
}
RELEASE = {
    "folder": {"type": "path", "required": True},
    "user": {"type": "str", "required": True},
    "role": {"type": "str", "required": True},
    "url_key": {"type": "str", "required": True, "no_log": False},
    "url_scheme": {"type": "str", "default": "postgresql"},
    "config": {"type": "str"},
    "env": {"type": "dict", "default": {}},
    "secrets": {"type": "dict", "default": {}, "no_log": True},
    "checks": {"type": "list", "elements": "dict", "default": []},
}
RETURNED = ("verdict", "statement", "id", "places", "differences", "seconds", "total_s", "expires", "sha256", "evidence")


def release_checks(given: dict | None) -> ReleaseChecks | None:
    """The release's own checks, if a release is given."""
    if not given:
        return None
    environment = {**given["env"], **given["secrets"]}
    same = {"release": given["folder"], "scheme": given["url_scheme"], "commands": given["checks"]}
    return ReleaseChecks(
        **same, **{key: given[key] for key in ("user", "role", "url_key", "config")}, env=environment, secrets=list(given["secrets"])
    )


def main() -> None:
    """Prove or remember; fail with the reason and the evidence."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["verified", "remembered"], "default": "verified"},
            "config": {"type": "path", "required": True},
            "id": {"type": "str"},
            "max_age_s": {"type": "float", "default": 93600},
            "key_probes": {"type": "list", "elements": "dict", "default": [], "options": PROBE, "no_log": False},
            "release": {"type": "dict", "options": RELEASE},
            "jobs": {"type": "int", "default": 2},
            "scratch_dir": {"type": "path"},
        },
        required_if=[("state", "remembered", ["id"])],
        supports_check_mode=True,
    )
    given = module.params
    try:
        config = configuration.load(given["config"])
        if given["state"] == "remembered":
            changed = given["id"] not in dump.proved(config)[-1:]
            if changed and not module.check_mode:
                dump.mark_proved(config, given["id"])
            module.exit_json(changed=changed, id=given["id"])
        result = verify.verify(
            config,
            backup_id=given["id"],
            max_age_s=given["max_age_s"],
            key_probes=given["key_probes"],
            jobs=given["jobs"],
            scratch_dir=given["scratch_dir"],
            also=release_checks(given["release"]),
            look_only=module.check_mode,
        )
    except BackupError as error:
        module.fail_json(msg=str(error), **error.result)
    result = {key: result[key] for key in RETURNED}
    if result["verdict"] not in (verify.VERIFIED, verify.LOOKED):
        module.fail_json(msg=result["statement"], **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
