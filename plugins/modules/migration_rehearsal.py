#!/usr/bin/python
"""Rehearses a release's migrations on scratch copies, or judges a rehearsal; thin over ansible.module_utils.greenroom.rehearsal."""

from __future__ import annotations

DOCUMENTATION = r"""
module: migration_rehearsal
short_description: Rehearse a release's migrations on scratch copies, and judge what was found
description:
  - Walks every pending revision on scratch databases, in throw-away PostgreSQL clusters that only a unix socket leads to. Every table and
    column is seeded, the revision goes up as production runs it, down, up again, down after writes of the new release, and each state
    is compared with the one before. The serving release's statements are tried on the new schema. Locks, rewrites, WAL and times are
    measured at two sizes.
  - The result is a manifest with a verdict for each revision (LOSSLESS, LOSSY_AFTER_WRITES, FAILS_AFTER_WRITES, DESTRUCTIVE, BROKEN,
    UNPROVEN), flags, and what exactly would be lost. It is written to O(manifest) and travels with the release.
  - In every run some migrations that are bad on purpose are walked too. If one is not caught, the rehearsal calls itself broken.
  - Runs on a host of the group C(restore) with Greenroom's own Python (psycopg), PostgreSQL's programs and the installed release. It never
    connects to a live server. See docs/migrations.md.
options:
  state:
    description:
      - V(rehearsed) walks the revisions, writes the manifest and judges it.
      - V(judged) only reads a manifest and judges it, e.g. before the live migration.
      - V(observed), on the database host as the server's user, reads what a rehearsal wants to know of the live database, RV(rows) and
        RV(statements). Where the server has loaded pg_stat_statements, it makes its view in the database C(postgres).
    type: str
    choices: [rehearsed, judged, observed]
    default: rehearsed
  manifest:
    description: File of the manifest. Required for V(rehearsed) and V(judged).
    type: path
  database:
    description: For V(observed), the live database.
    type: str
  socket:
    description: For V(observed), the folder of the server's socket.
    type: path
    default: /var/run/postgresql
  port:
    description: For V(observed), the server's port.
    type: int
    default: 5432
  superuser:
    description: For V(observed), the cluster's superuser.
    type: str
    default: postgres
  service_role:
    description: For V(observed), the role whose statements are wanted, the one the service connects as.
    type: str
  release:
    description: Folder of the installed release, with C(venv) and C(src). Required for V(rehearsed) with alembic.
    type: path
  tool:
    description: The migration tool. V(command) is any tool that O(commands) describes.
    type: str
    choices: [alembic, command]
    default: alembic
  config:
    description: alembic's configuration file, relative to the release's C(src).
    type: str
    default: alembic.ini
  commands:
    description:
      - For V(command), argument lists by name. C(list) prints all revisions, oldest first, one a line; C(current) the newest applied one;
        C(up) and C(down) apply and undo C({revision}). The URL is in the environment under O(url_key).
    type: dict
  version_tables:
    description: For V(command), the tool's own tables, which are nobody's data.
    type: list
    elements: str
    default: []
  url_key:
    description: Environment variable in which the project expects the database's URL.
    type: str
    default: DATABASE_URL
  url_scheme:
    description: Scheme of that URL, as the service has it (it names the driver).
    type: str
    default: postgresql
  env:
    description: Further environment variables that the project's migrations need. No secret of the service is needed for a scratch copy.
    type: dict
    default: {}
  user:
    description: Unix user the release's code runs as, on this host. Never root on a real host.
    type: str
  folder:
    description: Where the scratch clusters are made and removed again. Every user must be able to enter the folders above it.
    type: path
    default: /var/lib/greenroom/rehearsal
  bin_dir:
    description: Folder of PostgreSQL's programs; the newest installed by default. Use the version of the live server.
    type: path
  whole_history:
    description: Rehearse every revision, not only the pending ones.
    type: bool
    default: false
  newest:
    description: When nothing is pending, rehearse the newest revisions all the same, which a way back would undo first.
    type: bool
    default: false
  current:
    description:
      - The live database's revisions, as C(db_migrate) with C(state=planned) gives them; what is not among their ancestors is pending.
    type: list
    elements: str
    default: []
  depth:
    description: V(default) is steps 0 to 9; V(full) adds interrupted runs, the downgrade under load and the whole chain.
    type: str
    choices: [default, full]
    default: default
  owner:
    description: Role that migrates.
    type: str
    default: owner
  roles:
    description: Further roles that migrations name.
    type: list
    elements: str
    default: []
  extensions:
    description: Extensions that an administrator makes beforehand.
    type: list
    elements: str
    default: []
  reasons:
    description: Why a table or a C(table.column) has no row or value after seeding. Without a reason that is a failure.
    type: dict
    default: {}
  volatile:
    description: Columns (C(table.column)) whose values may differ from run to run.
    type: list
    elements: str
    default: []
  fixtures:
    description: Files with SQL that is run before seeding, by revision; V(*) is run for each.
    type: dict
    default: {}
  statements:
    description: The serving release's statements, as V(observed) returns them.
    type: list
    elements: str
    default: []
  rows:
    description: Rows of the live tables, by name, for the prediction of lock times.
    type: dict
    default: {}
  lock_budget_s:
    description: How long a revision may keep writers or readers waiting (seconds).
    type: float
    default: 1.0
  lock_timeout_s:
    description: How long a statement of a migration waits for a lock (seconds); as in production.
    type: int
    default: 5
  statement_timeout_s:
    description: How long one statement of a migration may take (seconds); as in production.
    type: int
    default: 60
  time_limit_s:
    description: How long one way up or down may take (seconds).
    type: int
    default: 600
  released:
    description: The newest revision of each deployed release, by its name; each must still exist.
    type: dict
    default: {}
  about:
    description: What else the manifest says, e.g. the release's version and commit.
    type: dict
    default: {}
  waivers:
    description: Exceptions, as data. One takes one code of one revision out, until it expires.
    type: list
    elements: dict
    default: []
    suboptions:
      revision:
        description: The revision, or the name of a check of the chain.
        type: str
        required: true
      code:
        description: The code of the blocker.
        type: str
        required: true
      reason:
        description: Why it is all right.
        type: str
        required: true
      owner:
        description: Who answers for it.
        type: str
        required: true
      expiry:
        description: Its last day, C(YYYY-MM-DD).
        type: str
        required: true
  pending:
    description: For V(judged), the revisions that will be run; each must have been rehearsed. Left out, those of the manifest.
    type: list
    elements: str
  side_copies:
    description: Whether the side copies that the manifest names are made before the live migration.
    type: bool
    default: false
attributes:
  check_mode:
    description: A rehearsal touches scratch copies only, so it runs in check mode too; the manifest is not written then.
    support: full
author: Greenroom
"""

EXAMPLES = r"""
- name: Look at the live database
  become: true
  become_user: postgres
  migration_rehearsal:
    state: observed
    database: example_staging
    service_role: example_app
  register: observed

- name: Rehearse what is pending
  migration_rehearsal:
    manifest: /var/lib/greenroom/rehearsal.json
    release: /opt/example-service/releases/12-1.4.0
    user: example-service
    current: "{{ planned.plan.current }}"
    owner: example_owner
    roles: [example_app]
    extensions: [pgcrypto]
    rows: "{{ observed.rows }}"
    statements: "{{ observed.statements }}"
    waivers:
      - {revision: c3d4, code: OLD_APP_BREAKS, reason: the old worker is stopped first, owner: Anna, expiry: "2027-01-31"}

- name: Judge the rehearsal again before the live migration
  migration_rehearsal:
    state: judged
    manifest: /var/lib/greenroom/rehearsal.json
    pending: [c3d4]
    side_copies: true
"""

RETURN = r"""
blockers:
  description: All reasons not to migrate the live database, each with its revision, code, reason and fix.
  returned: when a manifest was made or read
  type: list
  elements: dict
verdicts:
  description: The verdict of each revision.
  returned: when a manifest was made or read
  type: dict
  sample: {a1b2: LOSSLESS, c3d4: LOSSY_AFTER_WRITES}
side_copy:
  description: What has to be copied aside before the revision is undone, or before it is run, by revision.
  returned: when a manifest was made or read
  type: dict
copy_before:
  description: By revision the SQL that copies aside what its upgrade destroys, for M(db_migrate); it was seen to bring everything back.
  returned: when a manifest was made or read
  type: dict
rows:
  description: Estimated rows of the live tables, by name; of those of which the server knows none yet, 0.
  returned: for state observed
  type: dict
statements:
  description: Distinct statements of the role, from pg_stat_statements, without values; empty where the server has not loaded it.
  returned: for state observed
  type: list
  elements: str
digest:
  description: sha256 of the manifest's content.
  returned: when a manifest was made or read
  type: str
evidence:
  description: Records rehearsal.verdict, rehearsal.control, protect.migration_rollback.test and .data.
  returned: for states rehearsed and judged, also on failure
  type: list
  elements: dict
"""

import datetime
import json
import sys

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom.rehearsal import report
from ansible.module_utils.greenroom.rehearsal.errors import RehearsalError

WAIVER = {key: {"type": "str", "required": True} for key in ("revision", "code", "reason", "owner", "expiry")}
ARGUMENTS = {
    "state": {"type": "str", "choices": ["rehearsed", "judged", "observed"], "default": "rehearsed"},
    "manifest": {"type": "path"},
    "database": {"type": "str"},
    "socket": {"type": "path", "default": "/var/run/postgresql"},
    "port": {"type": "int", "default": 5432},
    "superuser": {"type": "str", "default": "postgres"},
    "service_role": {"type": "str"},
    "release": {"type": "path"},
    "tool": {"type": "str", "choices": ["alembic", "command"], "default": "alembic"},
    "config": {"type": "str", "default": "alembic.ini"},
    "commands": {"type": "dict"},
    "version_tables": {"type": "list", "elements": "str", "default": []},
    "url_key": {"type": "str", "default": "DATABASE_URL", "no_log": False},
    "url_scheme": {"type": "str", "default": "postgresql"},
    "env": {"type": "dict", "default": {}},
    "user": {"type": "str"},
    "folder": {"type": "path", "default": "/var/lib/greenroom/rehearsal"},
    "bin_dir": {"type": "path"},
    "whole_history": {"type": "bool", "default": False},
    "newest": {"type": "bool", "default": False},
    "current": {"type": "list", "elements": "str", "default": []},
    "depth": {"type": "str", "choices": ["default", "full"], "default": "default"},
    "owner": {"type": "str", "default": "owner"},
    "roles": {"type": "list", "elements": "str", "default": []},
    "extensions": {"type": "list", "elements": "str", "default": []},
    "reasons": {"type": "dict", "default": {}},
    "volatile": {"type": "list", "elements": "str", "default": []},
    "fixtures": {"type": "dict", "default": {}},
    "statements": {"type": "list", "elements": "str", "default": []},
    "rows": {"type": "dict", "default": {}},
    "lock_budget_s": {"type": "float", "default": 1.0},
    "lock_timeout_s": {"type": "int", "default": 5},
    "statement_timeout_s": {"type": "int", "default": 60},
    "time_limit_s": {"type": "int", "default": 600},
    "released": {"type": "dict", "default": {}},
    "about": {"type": "dict", "default": {}},
    "waivers": {"type": "list", "elements": "dict", "default": [], "options": WAIVER},
    "pending": {"type": "list", "elements": "str"},
    "side_copies": {"type": "bool", "default": False},
}
NEEDED = [
    ("state", "rehearsed", ["manifest"]),
    ("state", "judged", ["manifest"]),
    ("state", "observed", ["database", "service_role"]),
]


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, required_if=NEEDED, supports_check_mode=True)
    params = module.params
    try:
        if params["state"] == "observed":
            module.exit_json(changed=False, **report.observed(params, write=not module.check_mode))
        if params["state"] == "rehearsed":
            found, changed = report.rehearsed(params, write=not module.check_mode), True
        else:
            found, changed = report.manifest.read(params["manifest"]), False
        result = report.judged(found, params, datetime.datetime.now(datetime.timezone.utc).date())  # noqa: UP017
    except RehearsalError as error:
        module.fail_json(msg=str(error), **{"evidence": [report.broken_record(str(error))], "changed": False, **error.result})
    except (OSError, json.JSONDecodeError, ImportError) as error:
        where = f" ({sys.executable})" if isinstance(error, ImportError) else ""
        module.fail_json(msg=f"the rehearsal could not be carried out: {error}{where}", evidence=[report.broken_record(str(error))])
    result["changed"] = changed and not module.check_mode
    if result["blockers"]:
        module.fail_json(msg=report.refusal(result["blockers"]), **result)
    module.exit_json(msg=report.summary(found), **result)


if __name__ == "__main__":
    main()
