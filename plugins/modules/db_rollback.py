#!/usr/bin/python
"""Ways back of a database, one act a call; thin over ansible.module_utils.greenroom.db_rollback."""

from __future__ import annotations

DOCUMENTATION = r"""
module: db_rollback
short_description: Plan and go the ways back of a service's database
description:
  - Runs on the database host, V(cloned) on the host that restores, as root with Greenroom's own Python. Each act runs as C(postgres) in the
    transient unit C(greenroom-rollback-<service>.service), with a limit; a second one is refused by systemd, and by an advisory lock.
  - An act is refused where server, database or revision are not those of O(plan), and where no O(safety) was made before it.
  - Blocked connections are allowed again whatever happens; after a kill by the unit's C(ExecStopPost), or by the next act.
  - Nothing is ever restored over the live database. What is restored lies beside it, equal to its source, and comes in by its name; what
    was live before is kept. See docs/restore.md.
options:
  state:
    description:
      - V(planned) says what it is about, what would be lost, and how long it takes; changes nothing.
      - V(secured) makes a restore point and waits until every repository hands it back; without O(config) a copy.
      - V(blocked) keeps everybody out, ends all sessions, and opens again.
      - V(copied) makes the copy O(name), for a swap back; nobody may work meanwhile.
      - V(keyed) makes a key in O(folder) that seals what comes from the clone.
      - V(cloned) restores the moment that O(plan) names as a throw-away cluster, and dumps the database from it into O(folder).
      - V(carried) loads that dump into the new database O(name) and proves it equal.
      - V(swapped) brings the database O(name) in by its name.
      - V(copied_back) copies rows of O(tables) from O(name) into the live database, and removes O(name).
      - V(forgotten) removes kept databases whose time is over.
    type: str
    choices: [planned, secured, blocked, copied, keyed, cloned, carried, swapped, copied_back, forgotten]
    required: true
  service:
    description: Name of the service.
    type: str
    required: true
  database:
    description: Name of the live database.
    type: str
    required: true
  id:
    description: What this operation is called; the same in each act of it, and again when it is repeated.
    type: str
    required: true
  socket:
    description: Folder of the server's socket.
    type: path
    default: /var/run/postgresql
  port:
    description: The server's port.
    type: int
    default: 5432
  config:
    description: C(/etc/greenroom/<service>/backup.json) of this host. Without it nothing is archived.
    type: path
  to:
    description: For V(planned), where to go back to - C(backup:<label or id>), C(time:<ISO 8601 with zone>), C(lsn:<x/y>), C(point:<name>).
    type: str
  copy:
    description: For V(planned), the copy that would be swapped in.
    type: str
  drill:
    description: For V(planned), the record of the last restore drill.
    type: dict
  plan:
    description: What V(planned) returned as RV(plan).
    type: dict
  safety:
    description: What V(secured) returned as RV(safety).
    type: dict
  name:
    description: The database that is made, comes in, or is copied from; for V(forgotten) a certain kept one.
    type: str
  folder:
    description: Folder of this operation on this host, of the user C(postgres).
    type: path
  recipient:
    description: For V(cloned), the key of V(keyed). Without it the dump is not sealed, for it stays on this host.
    type: str
  part:
    description: For V(carried), size and hashes of the sealed file, as V(cloned) returned them.
    type: dict
  point_file:
    description: For V(cloned), the known restore point of a drill; its content is then compared.
    type: path
  repo:
    description: For V(cloned), the number of a repository; the first that is configured by default.
    type: int
  tables:
    description: For V(copied_back), what to copy rows of.
    type: list
    elements: dict
    default: []
    suboptions:
      table: {description: "Table; with its schema, unless that is public.", type: str, required: true}
      where: {description: "SQL condition on its rows at that moment.", type: str}
  rows:
    description: For V(copied_back), V(missing) puts back only rows that are gone, V(all) also gives changed ones their old values.
    type: str
    choices: [missing, all]
    default: missing
  deadline_s:
    description: How long sessions may take to end (seconds).
    type: float
    default: 10
  wait_s:
    description: How long a restore point may take until every repository hands it back (seconds).
    type: float
    default: 120
  keep_s:
    description: How long what was live before is kept (seconds).
    type: int
    default: 604800
  limit_s:
    description: How long the act may take (seconds).
    type: float
    default: 14400
  library:
    description: Folder of Greenroom's library on this host.
    type: path
    default: /opt/greenroom/lib
attributes:
  check_mode:
    description: V(planned) plans as always; each other act does nothing and says what it would do.
    support: full
author: Greenroom
"""

EXAMPLES = r"""
- name: Say what would be lost
  db_rollback:
    state: planned
    service: example-service
    database: example_staging
    id: 20261120t101010z_4f2a
    to: time:2026-11-20T09:30:00Z
  register: planned

- name: Bring the restored database in
  db_rollback:
    state: swapped
    service: example-service
    database: example_staging
    id: 20261120t101010z_4f2a
    plan: "{{ planned.plan }}"
    safety: "{{ secured.safety }}"
    name: example_staging_restored_20261120t101010z_4f2a
"""

RETURN = r"""
plan:
  description:
    - C(system_identifier), C(database), C(oid), C(bytes), C(revision), C(lsn); C(at_risk) with C(seconds), C(rows) (null is unknown) and
      C(how); C(loses), whether it needs to be accepted; C(estimate) with C(seconds), C(how) and C(space); C(obstacles), C(sessions).
  returned: for state planned
  type: dict
safety:
  description: The restore point, or the copy (C(kind), C(name), C(lsn), C(repos)).
  returned: for state secured
  type: dict
result:
  description: What the act did; each act's own keys, with C(seconds).
  returned: for the other states
  type: dict
evidence:
  description: Records restore.* of the act.
  returned: always, also on failure
  type: list
  elements: dict
"""

import os
import sys

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom import db_rollback
from ansible.module_utils.greenroom.db_evidence import judged
from ansible.module_utils.greenroom.db_switch import SwitchError

TABLE = {"table": {"type": "str", "required": True}, "where": {"type": "str"}}
ARGUMENTS = {
    "state": {"type": "str", "choices": list(db_rollback.ACTS), "required": True},
    "service": {"type": "str", "required": True},
    "database": {"type": "str", "required": True},
    "id": {"type": "str", "required": True},
    "socket": {"type": "path", "default": "/var/run/postgresql"},
    "port": {"type": "int", "default": 5432},
    "config": {"type": "path"},
    "to": {"type": "str"},
    "copy": {"type": "str"},
    "drill": {"type": "dict"},
    "plan": {"type": "dict"},
    "safety": {"type": "dict"},
    "name": {"type": "str"},
    "folder": {"type": "path"},
    "recipient": {"type": "str"},
    "part": {"type": "dict"},
    "point_file": {"type": "path"},
    "repo": {"type": "int"},
    "tables": {"type": "list", "elements": "dict", "default": [], "options": TABLE},
    "rows": {"type": "str", "choices": ["missing", "all"], "default": "missing"},
    "deadline_s": {"type": "float", "default": 10},
    "wait_s": {"type": "float", "default": 120},
    "keep_s": {"type": "int", "default": 604800},
    "limit_s": {"type": "float", "default": 14400},
    "library": {"type": "path", "default": "/opt/greenroom/lib"},
}
NEEDED = [
    ("state", "secured", ["plan"]),
    ("state", "blocked", ["plan"]),
    ("state", "copied", ["plan", "name"]),
    ("state", "keyed", ["folder"]),
    ("state", "cloned", ["plan", "folder", "config"]),
    ("state", "carried", ["plan", "folder", "name"]),
    ("state", "swapped", ["plan", "safety", "name"]),
    ("state", "copied_back", ["plan", "safety", "name", "tables"]),
]


def main() -> None:
    """Run one act in its unit."""
    module = AnsibleModule(argument_spec=ARGUMENTS, required_if=NEEDED, supports_check_mode=True)
    given = module.params
    state, changes = given["state"], given["state"] != "planned"
    if problem := db_rollback.malformed(given):
        module.fail_json(msg=problem, evidence=[])
    if module.check_mode and changes:
        module.exit_json(changed=True, evidence=[], msg=f"would do {state}: {db_rollback.told(given)}")
    job = db_rollback.job_of(given)
    paths = [one for one in (given["folder"], *db_rollback.writable(given)) if one]
    how = {"service": given["service"], "python": sys.executable, "library": given["library"], "limit_s": given["limit_s"]}
    answer, evidence = judged(state, lambda: db_rollback.in_unit(job, paths=paths, pid=os.getpid(), **how))
    if isinstance(answer, SwitchError):
        module.fail_json(msg=str(answer), evidence=evidence, result=answer.result)
    key = {"planned": "plan", "secured": "safety"}.get(state, "result")
    module.exit_json(changed=changes and not answer.get("already", False), evidence=evidence, **{key: answer})


if __name__ == "__main__":
    main()
