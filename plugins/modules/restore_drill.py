#!/usr/bin/python
"""Restore drills of physical backups; thin over ansible.module_utils.greenroom.backup.physical_evidence."""

from __future__ import annotations

DOCUMENTATION = r"""
module: restore_drill
short_description: Prove physical backups by restoring them, and measure RTO and RPO
description:
  - A drill has two hosts. V(point) on the database host makes a restore point whose content is known. V(drill) on the restore host
    restores to that point into a throw-away cluster, compares row for row, writes, and damages the copy to see whether the checks notice.
  - The throw-away cluster can never be the live one. It has a marker, a Unix socket only, archiving switched off; it is gone afterwards.
  - Run it with Greenroom's own Python, which has psycopg, as the user that runs PostgreSQL (C(become_user)).
options:
  state:
    description:
      - V(point) (database host) makes a locked restore point with the fingerprint of O(database), waits until it reads back from every
        repository, and writes it to O(point_file).
      - V(before) (database host), before a database is changed, makes a plain restore point and waits until it reads back from every
        repository, each of which must hold a good backup from before it. It is a name to go back to, not a proof.
      - V(drill) (restore host) restores O(point_file) from every repository and proves it.
      - V(mark) (database host) writes into the repositories which backups O(drills) proved; retention keeps the last of those.
      - V(wal) (database host) looks at the backups and at every WAL segment from the newest backup to now, and at the RPO of this moment.
      - V(rpo) (restore host) measures the RPO by experiment. A throw-away server with O(archive_timeout_s) is lost with its disk. It
        archives into a folder; what a push to a distant store takes longer is in the RPO of V(wal).
    type: str
    choices: [point, before, drill, mark, wal, rpo]
    required: true
  stanza:
    description: pgBackRest's stanza.
    type: str
    default: main
  config:
    description: pgBackRest's configuration file on this host.
    type: path
    default: /etc/pgbackrest/pgbackrest.conf
  repositories:
    description: Numbers of the repositories in that file.
    type: list
    elements: int
    default: [1]
  socket:
    description: Folder of the server's socket (V(point), V(before), V(wal)).
    type: path
    default: /var/run/postgresql
  port:
    description: The server's port.
    type: int
    default: 5432
  superuser:
    description: The cluster's superuser.
    type: str
    default: postgres
  database:
    description: The service's database (V(point)).
    type: str
    default: postgres
  name:
    description: What the restore point's name begins with; time and a random part are added.
    type: str
    default: drill
  point_file:
    description: Where the point is written (V(point)) or read (V(drill)).
    type: path
  folder:
    description: A new or empty folder for throw-away clusters (V(drill), V(rpo)), on a disk with 1.2 times the cluster's size.
    type: path
  role:
    description: The application's database role; the drill's clock stops when a row that it wrote reads back.
    type: str
  label:
    description: A certain backup instead of the newest before the point.
    type: str
  max_age_s:
    description: How old the newest backup may be (seconds).
    type: float
  rto_limit_s:
    description: How long a restore may take, from go to the first verified write (seconds).
    type: float
    default: 14400
  rpo_limit_s:
    description: How much may be lost (seconds). Without it V(wal) does not look at the RPO.
    type: float
  margin_s:
    description: How much longer than archive_timeout the archive may be behind (seconds).
    type: float
    default: 60
  wait_s:
    description: How long V(point) and V(before) wait until the point reads back from every repository (seconds).
    type: float
    default: 120
  archive_timeout_s:
    description: For V(rpo), the archive_timeout of the real server (seconds).
    type: int
    default: 30
  drills:
    description: For V(mark), what V(drill) returned as RV(drills).
    type: list
    elements: dict
    default: []
  workers:
    description: Connections that read rows side by side.
    type: int
    default: 2
  bin_dir:
    description: Folder of PostgreSQL's programs; by default the newest version installed.
    type: path
attributes:
  check_mode:
    description: V(wal) measures as always, save for its heartbeat of one row; the other states do nothing and say so.
    support: partial
author: Greenroom
"""

EXAMPLES = r"""
- name: Make a restore point of known content
  become: true
  become_user: postgres
  restore_drill:
    state: point
    repositories: [1, 2]
    database: example_staging
    point_file: /var/lib/greenroom/example-service/point.json

- name: Drill, on the restore host
  become: true
  become_user: postgres
  restore_drill:
    state: drill
    repositories: [1]
    point_file: /var/lib/greenroom/example-service/point.json
    folder: /var/lib/greenroom/example-service/drill
    role: example_app
    max_age_s: 86400
    rto_limit_s: 14400
  register: drill

- name: Keep what was proved
  become: true
  become_user: postgres
  restore_drill:
    state: mark
    drills: "{{ drill.drills }}"

- name: Look at the archive
  become: true
  become_user: postgres
  restore_drill:
    state: wal
    repositories: [1, 2]
    max_age_s: 86400
    rpo_limit_s: 3600
"""

RETURN = r"""
point:
  description: The restore point, without its fingerprint.
  returned: for states point and before
  type: dict
  sample: {name: drill_20261120T101010Z_a1b2c3, lsn: 0/518A4C0, segment: "000000010000000000000005", waited_ms: 1.2, held_ms: 3.7}
drills:
  description:
    - One entry a repository, with C(verdict) (V(verified), V(failed), V(verifier broken)), C(statement), C(backup), C(seconds) by step,
      C(rto_s), C(differences), C(expires) and C(sha256).
  returned: for state drill
  type: list
  elements: dict
marked:
  description: Labels of the backups that were marked as verified.
  returned: for state mark
  type: list
  elements: str
wal:
  description: What the server said (C(state)), and of each repository the segments needed, missing and newest (C(repositories)).
  returned: for state wal
  type: dict
rpo:
  description: Rows acknowledged, recovered and lost, seconds lost, and the latency of a commit.
  returned: for state rpo
  type: dict
evidence:
  description: Records backup.physical.*, protect.backup.before_deploy, protect.restore.*, protect.rto and protect.rpo, by state.
  returned: always, also on failure
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom.backup import physical_evidence
from ansible.module_utils.greenroom.backup.errors import BackupError
from ansible.module_utils.greenroom.backup.pgbackrest import PgBackRest
from ansible.module_utils.greenroom.backup.scratch_cluster import find_bin_dir
from ansible.module_utils.greenroom.records import red

ARGUMENTS = {
    "state": {"type": "str", "choices": ["point", "before", "drill", "mark", "wal", "rpo"], "required": True},
    "stanza": {"type": "str", "default": "main"},
    "config": {"type": "path", "default": "/etc/pgbackrest/pgbackrest.conf"},
    "repositories": {"type": "list", "elements": "int", "default": [1]},
    "socket": {"type": "path", "default": "/var/run/postgresql"},
    "port": {"type": "int", "default": 5432},
    "superuser": {"type": "str", "default": "postgres"},
    "database": {"type": "str", "default": "postgres"},
    "name": {"type": "str", "default": "drill"},
    "point_file": {"type": "path"},
    "folder": {"type": "path"},
    "role": {"type": "str"},
    "label": {"type": "str"},
    "max_age_s": {"type": "float"},
    "rto_limit_s": {"type": "float", "default": 14400},
    "rpo_limit_s": {"type": "float"},
    "margin_s": {"type": "float", "default": 60},
    "wait_s": {"type": "float", "default": 120},
    "archive_timeout_s": {"type": "int", "default": 30},
    "drills": {"type": "list", "elements": "dict", "default": []},
    "workers": {"type": "int", "default": 2},
    "bin_dir": {"type": "path"},
}
CHANGING = ("point", "before", "mark")
NEEDED = [
    ("state", "point", ["point_file"]),
    ("state", "drill", ["point_file", "folder"]),
    ("state", "mark", ["drills"]),
    ("state", "rpo", ["folder", "rpo_limit_s"]),
]


def act(params: dict) -> dict:
    """Do what the state says; the module's result with evidence."""
    pgbackrest, repos = PgBackRest(params["stanza"], params["config"]), tuple(params["repositories"])
    dsn = {"host": params["socket"], "port": str(params["port"]), "user": params["superuser"], "dbname": params["database"]}
    if params["state"] == "mark":
        return physical_evidence.mark_verified(pgbackrest, params["drills"])
    if params["state"] == "before":
        limits = {key: params[key] for key in ("name", "wait_s", "max_age_s")}
        return physical_evidence.protect(pgbackrest, repos, dsn, **limits)
    if params["state"] == "wal":
        limits = {key: params[key] for key in ("max_age_s", "margin_s", "rpo_limit_s")}
        found = physical_evidence.check_wal(pgbackrest, repos, dsn, **limits)
        return {"evidence": found["evidence"], "wal": {key: found[key] for key in ("state", "repositories")}}
    bin_dir = params["bin_dir"] or find_bin_dir()
    if params["state"] == "rpo":
        limits = {key: params[key] for key in ("rpo_limit_s", "archive_timeout_s")}
        return physical_evidence.measure_rpo(params["folder"], bin_dir=bin_dir, **limits)
    if params["state"] == "point":
        options = {key: params[key] for key in ("name", "workers", "wait_s")}
        made = physical_evidence.make_point(pgbackrest, repos, dsn, bin_dir=bin_dir, **options)
        physical_evidence.save_point(params["point_file"], made["point"])
        return {**made, "point": {key: value for key, value in made["point"].items() if key != "fingerprint"}}
    options = {key: params[key] for key in ("rto_limit_s", "max_age_s", "label", "role", "workers", "superuser")}
    point = physical_evidence.load_point(params["point_file"])
    return physical_evidence.run_drill(pgbackrest, params["folder"], point, repos, bin_dir=bin_dir, **options)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, required_if=NEEDED, supports_check_mode=True)
    state = module.params["state"]
    if module.check_mode and state != "wal":
        module.exit_json(changed=state in CHANGING, evidence=[], msg=f"check mode: {state} was not run, nothing was measured")
    try:
        result = act(module.params)
    except BackupError as error:
        module.fail_json(msg=str(error), evidence=error.result.get("evidence", []))
    if reason := red(result["evidence"]):
        module.fail_json(msg=reason, **result)
    module.exit_json(changed=state in CHANGING, **result)


if __name__ == "__main__":
    main()
