#!/usr/bin/python
"""Ansible module: the backups of a database host (logic in module_utils/greenroom/backup)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: db_backup
short_description: Set up, make and measure the backups of a database host
description:
  - Runs on the database host as root, from the configuration that the role C(db_backup) writes there (docs/backups_configuration.md).
  - V(ready) makes pgBackRest's stanza in every repository that lacks it, and proves that the server archives into each of them.
  - V(made) runs jobs now, as the units that their timers start, and returns evidence of what they left in every place.
  - V(measured) changes nothing. It looks at what is there, and returns evidence of places, timers, and the WAL archive.
options:
  state:
    description: What to do.
    type: str
    choices: [ready, made, measured]
    required: true
  config:
    description: The configuration, C(/etc/greenroom/<service>/backup.json).
    type: path
    required: true
  jobs:
    description: With O(state=made), what to make, in this order. With O(state=measured), what must have been made.
    type: list
    elements: str
    choices: [full, incremental, logical]
    default: [full, logical]
attributes:
  check_mode:
    description: V(ready) and V(made) then say what they would do.
    support: full
author: Greenroom
"""

EXAMPLES = r"""
- name: Make the stanza, and prove that the server archives
  db_backup:
    state: ready
    config: /etc/greenroom/example-service/backup.json

- name: Back up now
  db_backup:
    state: made
    config: /etc/greenroom/example-service/backup.json
    jobs: [incremental, logical]
"""

RETURN = r"""
created:
  description: Places whose repository got its stanza, or would.
  returned: for state ready
  type: list
  elements: str
made:
  description: The newest result of each job, with the places, sizes in bytes and times in seconds since 1970.
  returned: for state made, not in check mode, also on failure
  type: dict
evidence:
  description: >-
    Records protect.backup.run, protect.backup.file and protect.backup.size of every job and place, protect.backup.job of every timer,
    backup.wal.archive and backup.page_checksums.
  returned: for states made and measured, also on failure
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom.backup import job_evidence
from ansible.module_utils.greenroom.backup.errors import BackupError
from ansible.module_utils.greenroom.backup.job import read_config, read_result
from ansible.module_utils.greenroom.backup.repositories import Repositories


def ready(module: AnsibleModule, config: dict) -> None:
    """Make what is missing, and prove it."""
    repositories = Repositories(config)
    missing = repositories.missing()
    if missing and not module.check_mode:
        repositories.create_stanza()
        repositories.check()
        if left := repositories.missing():
            raise BackupError(f"pgbackrest stanza-create ended with 0, but {', '.join(left)} lacks its stanza. Look at /var/log/pgbackrest")
    module.exit_json(changed=bool(missing), created=sorted(missing))


def made(module: AnsibleModule, config: dict) -> None:
    """Run the units, one after the other, and prove what they left."""
    if module.check_mode:
        module.exit_json(changed=True, msg=f"would make {', '.join(module.params['jobs'])}")
    evidence, results = [], {}
    for job in module.params["jobs"]:
        before = read_result(config, job).get("started")
        unit = job_evidence.unit(config, job, "service")
        code, _out, err = module.run_command(["systemctl", "start", unit])
        results[job] = read_result(config, job)
        evidence += job_evidence.of_result(config, job, results[job], since=before, ended=f"{unit}: {err.strip()}" if code else "")
    finish(module, evidence, made=results, changed=True)


def measured(module: AnsibleModule, config: dict) -> None:
    """Look at what is there."""
    evidence = [one for job in module.params["jobs"] for one in job_evidence.of_result(config, job, read_result(config, job))]
    code, out, err = module.run_command(["systemctl", "show", "--property=Id,ActiveState,UnitFileState", *job_evidence.timers(config)])
    evidence += job_evidence.of_timers(config, out if code == 0 else err)
    evidence += job_evidence.of_archive(config)
    finish(module, evidence)


def finish(module: AnsibleModule, evidence: list, **result: object) -> None:
    """End with the evidence, red or green."""
    red = [one for one in evidence if one["status"] != "pass"]
    if red or not evidence:
        text = (
            "; ".join(f"{one['id']} {one.get('detail', {}).get('target', '')}: {one.get('reason')}" for one in red)
            or "nothing was measured"
        )
        module.fail_json(msg=text, evidence=evidence, **result)
    module.exit_json(evidence=evidence, **{"changed": False, **result})


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["ready", "made", "measured"], "required": True},
            "config": {"type": "path", "required": True},
            "jobs": {"type": "list", "elements": "str", "choices": ["full", "incremental", "logical"], "default": ["full", "logical"]},
        },
        supports_check_mode=True,
    )
    try:
        config = {**read_config(module.params["config"]), "file": module.params["config"]}
        {"ready": ready, "made": made, "measured": measured}[module.params["state"]](module, config)
    except BackupError as error:
        where = ". In the inventory these are vault_db_backup_store_key_id and vault_db_backup_store_secret"
        module.fail_json(msg=f"{error}{where if 'refuses the key' in str(error) else ''}", evidence=[])


if __name__ == "__main__":
    main()
