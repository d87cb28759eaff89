#!/usr/bin/python
"""Plans or runs the migration of a service's schema; thin over ansible.module_utils.greenroom.migration."""

from __future__ import annotations

DOCUMENTATION = r"""
module: db_migrate
short_description: Plan or run the migration of a service's database, once and under a lock
description:
  - Runs the migration tool from the virtual environment of an installed release, as the service's user, in a named transient
    systemd unit, with the URL of the role that owns the schema. That role's password travels on standard input only; it is never
    on disk, in a command line or in a property of the unit, and is masked in what the tool prints.
  - While it runs it holds a PostgreSQL advisory lock on a connection of its own. A migration that runs already is awaited up to
    O(lock_wait_s).
  - Afterwards the database's revision must equal the release's newest, and the declared tables and indexes must exist, the indexes valid.
  - Run it on one app host (C(run_once)), with Greenroom's own Python, which has psycopg.
options:
  state:
    description:
      - V(planned) finds out where the database is and which revisions are pending, and changes nothing.
      - V(migrated) brings the database to the release's newest revision.
    type: str
    choices: [planned, migrated]
    required: true
  service:
    description: Name of the service; names the unit C(greenroom-migration-<service>).
    type: str
    required: true
  user:
    description: Unix user the migration runs as; the service's name if left out.
    type: str
  release:
    description: Folder of the installed release, with C(venv) and C(src).
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
    description: Role that owns the schema and migrates it.
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
    description:
      - The URL the service itself uses. Its scheme and query are kept for the owner's URL, so that the project finds the driver it knows.
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
    description: How long the whole migration may take (seconds).
    type: int
    default: 600
  tables:
    description: Tables that must exist afterwards.
    type: list
    elements: str
    default: []
  indexes:
    description: Indexes that must exist and be valid afterwards.
    type: list
    elements: str
    default: []
  copies:
    description:
      - By revision the SQL that copies aside what its upgrade destroys, as M(migration_rehearsal) returns it.
        It runs right before that revision, on the same connection and in the same transaction.
    type: dict
    default: {}
attributes:
  check_mode:
    description: V(migrated) then only plans, and says whether it would change the database.
    support: full
author: Greenroom
"""

EXAMPLES = r"""
- name: Say what is pending
  db_migrate:
    state: planned
    service: example-service
    release: /opt/example-service/releases/12-1.4.0
    host: db.example.internal
    database: example_staging
    owner: example_owner
    password: "{{ vault_postgresql_owner_password }}"
    ca_file: /etc/greenroom/ca.crt
  run_once: true

- name: Migrate
  db_migrate:
    state: migrated
    service: example-service
    release: /opt/example-service/releases/12-1.4.0
    host: db.example.internal
    database: example_staging
    owner: example_owner
    password: "{{ vault_postgresql_owner_password }}"
    ca_file: /etc/greenroom/ca.crt
    tables: [things]
    indexes: [things_pkey]
  run_once: true
"""

RETURN = r"""
plan:
  description: Where the database was, where the release wants it, and the pending revisions, oldest first.
  returned: when the release's revisions could be read
  type: dict
  sample: {current: [a1b2], heads: [c3d4], pending: [{revision: c3d4, message: add a column}], unknown: []}
applied:
  description: The revisions that were applied, with the seconds each took.
  returned: for state migrated, not in check mode
  type: list
  elements: dict
after:
  description: The plan as it is afterwards.
  returned: for state migrated, not in check mode
  type: dict
lock:
  description: How long the advisory lock was awaited (C(waited_s)), and who held it when it could not be had (C(holder)).
  returned: for state migrated, not in check mode
  type: dict
output:
  description: The end of what the tool printed, without secrets.
  returned: for state migrated, not in check mode
  type: str
evidence:
  description: Records db.migration.state_before and, for state migrated, db.migration.applied, db.migration.head, db.tables and db.indexes.
  returned: always, also on failure
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom.migration import Database, Job, MigrationError, migrated, planned
from ansible.module_utils.greenroom.migration_evidence import names

ARGUMENTS = {
    "state": {"type": "str", "choices": ["planned", "migrated"], "required": True},
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
    "tables": {"type": "list", "elements": "str", "default": []},
    "indexes": {"type": "list", "elements": "str", "default": []},
    "copies": {"type": "dict", "default": {}},
}


def job_of(params: dict, python: str) -> Job:
    """The library's job of the module's parameters."""
    database = Database(
        host=params["host"], port=params["port"], name=params["database"], user=params["owner"], password=params["password"],
        sslmode=params["sslmode"], ca_file=params["ca_file"],
    )  # fmt: skip
    same = ("service", "release", "tool", "config", "url_key", "service_url", "run_id")
    limits = ("lock_wait_s", "lock_timeout_s", "statement_timeout_s", "time_limit_s")
    return Job(
        user=params["user"] or params["service"], database=database, python=python,
        env_files=tuple(params["env_files"]), tables=tuple(params["tables"]), indexes=tuple(params["indexes"]),
        copies=params["copies"], **{key: params[key] for key in same + limits},
    )  # fmt: skip


def main() -> None:
    """Run the module."""
    import sys

    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    job = job_of(module.params, sys.executable)
    try:
        if module.params["state"] == "planned" or module.check_mode:
            plan, evidence = planned(job)
            would = module.params["state"] == "migrated" and bool(plan["pending"])
            pending = f"pending: {names(plan['pending'])}" if plan["pending"] else "nothing is pending"
            module.exit_json(changed=would, plan=plan, evidence=evidence, msg=pending)
        result, evidence = migrated(job)
        done = (
            f"applied {names(result['applied'])}"
            if result["applied"]
            else "nothing is pending, the database is at head"
        )
        module.exit_json(evidence=evidence, msg=done, **result)
    except MigrationError as error:
        module.fail_json(msg=str(error), **{"evidence": [], "changed": False, **error.result})


if __name__ == "__main__":
    main()
