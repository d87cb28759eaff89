#!/usr/bin/python
"""Leaves or undoes a schema's revisions; thin over ansible.module_utils.greenroom.db_downgrade."""

from __future__ import annotations

DOCUMENTATION = r"""
module: db_downgrade
short_description: Leave a service's schema as it is, or take it back to a named revision
description:
  - Decides by the manifest of the rehearsal that travels with the release (docs/migrations.md). A way that it closes is refused, whoever
    asks; without a manifest nothing is undone.
  - Runs the migration tool of the release that holds the revisions, as C(db_migrate) does; in its named transient unit, under the advisory
    lock of migrations, with its limits. The owner's password travels on standard input only.
  - What a downgrade would drop is copied aside first where the manifest says so, into schemas C(_rb_<revision>) of the same database.
  - Run it on one app host (C(run_once)), with Greenroom's own Python, which has psycopg.
options:
  state:
    description:
      - V(left) proves that the release to go back to works on the schema as it is, and changes nothing.
      - V(downgraded) undoes the revisions above O(target).
    type: str
    choices: [left, downgraded]
    required: true
  target:
    description: The revision that the release to go back to expects; V(base) for none.
    type: str
    required: true
  manifest:
    description: File of the rehearsal's manifest on this host. Not needed where nothing is to be undone.
    type: path
  expected:
    description: The revisions that the plan found. Anything else in the database is refused.
    type: list
    elements: str
  service:
    description: Name of the service; names the unit C(greenroom-migration-<service>).
    type: str
    required: true
  user:
    description: Unix user the migration runs as; the service's name if left out.
    type: str
  release:
    description: Folder of the installed release that holds the revisions to be undone, with C(venv) and C(src).
    type: path
    required: true
  tool:
    description: The migration tool.
    type: str
    choices: [alembic]
    default: alembic
  config:
    description: The tool's configuration file, relative to the release's C(src).
    type: str
    default: alembic.ini
  host:
    description: Address of the database server.
    type: str
    required: true
  port:
    description: Its TCP port.
    type: int
    default: 5432
  database:
    description: Name of the database.
    type: str
    required: true
  owner:
    description: Role that owns the schema.
    type: str
    required: true
  password:
    description: That role's password.
    type: str
    required: true
  sslmode:
    description: As libpq's C(sslmode).
    type: str
    choices: [disable, allow, prefer, require, verify-ca, verify-full]
    default: verify-full
  ca_file:
    description: File of the authorities that may have signed the server's certificate.
    type: path
  url_key:
    description: Environment variable in which the project's C(env.py) expects the database's URL.
    type: str
    default: DATABASE_URL
  service_url:
    description: The URL the service itself uses; its scheme and query are kept.
    type: str
  env_files:
    description: Environment files that the project's C(env.py) needs beside the URL.
    type: list
    elements: path
    default: []
  run_id:
    description: Id of the run; part of the name under which the lock's connection shows itself.
    type: str
    default: ""
  lock_wait_s:
    description: How long a migration that runs already is awaited (seconds).
    type: float
    default: 60
  lock_timeout_s:
    description: How long a statement waits for a lock (seconds).
    type: int
    default: 5
  statement_timeout_s:
    description: How long one statement may take (seconds).
    type: int
    default: 60
  time_limit_s:
    description: How long the whole downgrade may take (seconds).
    type: int
    default: 600
attributes:
  check_mode:
    description: V(downgraded) then only says which way it would go, what would be undone, lost and kept, and how long the rehearsal took.
    support: full
author: Greenroom
"""

EXAMPLES = r"""
- name: The release to go back to works on this schema
  db_downgrade:
    state: left
    target: a1b2
    manifest: /opt/example-service/releases/12-1.4.0/rehearsal.json
    service: example-service
    release: /opt/example-service/releases/12-1.4.0
    host: db.example.internal
    database: example_staging
    owner: example_owner
    password: "{{ vault_postgresql_owner_password }}"
  run_once: true

- name: Take the schema back
  db_downgrade:
    state: downgraded
    target: a1b2
    expected: [c3d4]
    manifest: /opt/example-service/releases/12-1.4.0/rehearsal.json
    service: example-service
    release: /opt/example-service/releases/12-1.4.0
    host: db.example.internal
    database: example_staging
    owner: example_owner
    password: "{{ vault_postgresql_owner_password }}"
  run_once: true
"""

RETURN = r"""
route:
  description: The way that was chosen, why, what is lost, the seconds it took in the rehearsal (null if nobody measured it), what follows.
  returned: when a way is open
  type: dict
  sample: {name: downgrade, reason: the rehearsal lost nothing on the way down, loss: nothing, seconds: 0.02, then: ""}
plan:
  description: Where the database is, as C(db_migrate) with C(state=planned) says it.
  returned: when it could be read, also on failure
  type: dict
revisions:
  description: What is, was or would be undone, newest first.
  returned: when a way is open
  type: list
  elements: str
side_copies:
  description: Copies that were made before, with their rows.
  returned: for state downgraded
  type: list
  elements: dict
undone:
  description: The revisions that were undone, with the seconds each took.
  returned: for state downgraded
  type: list
  elements: dict
after:
  description: The plan as it is afterwards.
  returned: for state downgraded
  type: dict
seconds:
  description: How long copies and downgrade took.
  returned: when revisions were undone
  type: float
evidence:
  description: Record rollback.db.migration.
  returned: always, also on failure
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom.db_downgrade import EVIDENCE, downgraded, left
from ansible.module_utils.greenroom.migration import Database, Job, MigrationError
from ansible.module_utils.greenroom.records import FAIL, record

ARGUMENTS = {
    "state": {"type": "str", "choices": ["left", "downgraded"], "required": True},
    "target": {"type": "str", "required": True},
    "manifest": {"type": "path"},
    "expected": {"type": "list", "elements": "str"},
    "service": {"type": "str", "required": True},
    "user": {"type": "str"},
    "release": {"type": "path", "required": True},
    "tool": {"type": "str", "choices": ["alembic"], "default": "alembic"},
    "config": {"type": "str", "default": "alembic.ini"},
    "host": {"type": "str", "required": True},
    "port": {"type": "int", "default": 5432},
    "database": {"type": "str", "required": True},
    "owner": {"type": "str", "required": True},
    "password": {"type": "str", "required": True, "no_log": True},
    "sslmode": {
        "type": "str",
        "choices": ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"],
        "default": "verify-full",
    },
    "ca_file": {"type": "path"},
    "url_key": {"type": "str", "default": "DATABASE_URL", "no_log": False},
    "service_url": {"type": "str", "no_log": True},
    "env_files": {"type": "list", "elements": "path", "default": []},
    "run_id": {"type": "str", "default": ""},
    "lock_wait_s": {"type": "float", "default": 60},
    "lock_timeout_s": {"type": "int", "default": 5},
    "statement_timeout_s": {"type": "int", "default": 60},
    "time_limit_s": {"type": "int", "default": 600},
}


def job_of(params: dict, python: str) -> Job:
    """The library's job of the module's parameters."""
    database = Database(
        host=params["host"], port=params["port"], name=params["database"], user=params["owner"], password=params["password"],
        sslmode=params["sslmode"], ca_file=params["ca_file"],
    )  # fmt: skip
    same = ("service", "release", "tool", "config", "url_key", "service_url", "run_id", "target")
    limits = ("lock_wait_s", "lock_timeout_s", "statement_timeout_s", "time_limit_s")
    return Job(
        user=params["user"] or params["service"], database=database, python=python,
        env_files=tuple(params["env_files"]), **{key: params[key] for key in same + limits},
    )  # fmt: skip


def main() -> None:
    """Run the module."""
    import sys

    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    given, job = module.params, job_of(module.params, sys.executable)
    try:
        if given["state"] == "left":
            result = left(job, given["manifest"], given["expected"])
            module.exit_json(changed=False, msg=result["route"]["reason"], **result)
        result = downgraded(job, given["manifest"], given["expected"], act=not module.check_mode)
        module.exit_json(msg=f"{result['route']['name']}: {', '.join(result['revisions']) or 'nothing'}", **result)
    except MigrationError as error:
        red = [record(EVIDENCE, FAIL, f"at {given['target']}", "refused", reason=str(error))]
        own = [one for one in error.result.get("evidence", []) if one["id"] == EVIDENCE]
        module.fail_json(msg=str(error), **{"changed": False, **error.result, "evidence": own or red})


if __name__ == "__main__":
    main()
