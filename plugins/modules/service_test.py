#!/usr/bin/python
"""Ansible module: run a service's own tests in hardened units and judge their reports."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: service_test
short_description: Run a service's own tests, away from everything live, and judge their reports
description:
  - Runs each suite in a transient, hardened systemd unit as the service's user, with a time and a memory limit. The suites run side by
    side.
  - The environment goes to the tests over standard input. It stands in no argument list and on no disk.
  - The numbers come from the reports, JUnit XML and coverage (JSON of coverage.py, or Cobertura XML), not from the exit status alone.
    No test, a skipped test beyond O(suites[].allow_skipped), a missing or cut report, a process that ends with another status than 0 or
    is stopped at its limit all fail.
  - pytest is told through C(PYTEST_ADDOPTS) where to write. Another runner writes to C($GREENROOM_JUNIT) and C($GREENROOM_COVERAGE).
  - The module fails if a suite did not pass; the evidence is returned in any case.
version_added: "0.1.0"
options:
  run_id:
    description: Id of the run; part of the units' names C(greenroom-tests-<run_id>-<suite>).
    type: str
    required: true
  user:
    description: The unix user the tests run as.
    type: str
    required: true
  directory:
    description: >-
      Folder with C(venv/) (the tests' environment) and C(src/) (the tree of the commit). Tests run in the latter; both stay read-only.
    type: path
    required: true
  reports:
    description: Folder for the reports; what an earlier run has left in it is removed first.
    type: path
    required: true
  suites:
    description: What to run.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the suite, C([a-z0-9_]+); names its unit and files.
        type: str
        required: true
      command:
        description: Program of the environment and its arguments, split as a shell would, run without one.
        type: str
        required: true
      id:
        description: Evidence id of "all tests pass".
        type: str
        required: true
      time_limit_s:
        description: The suite is stopped after this time, in seconds.
        type: int
        default: 600
      allow_skipped:
        description: This many tests may be skipped.
        type: int
        default: 0
      with_secrets:
        description: Whether the suite gets O(secrets).
        type: bool
        default: true
      coverage_id:
        description: Evidence id of the coverage; without it none is asked for.
        type: str
      coverage_min:
        description: Least line coverage of O(suites[].package), in percent.
        type: float
      package:
        description: The Python package whose lines count.
        type: str
  env:
    description: Environment of the tests, values that may be seen.
    type: dict
    default: {}
  secrets:
    description: Environment of the tests, values that must not be seen (made for the run; never live ones).
    type: dict
    default: {}
  hidden:
    description: Paths on the host that the tests cannot see, such as the live credentials.
    type: list
    elements: path
    default: []
  memory_mb:
    description: Memory limit of a suite, in MiB.
    type: int
    default: 1024
attributes:
  check_mode:
    support: full
    description: Runs nothing in check mode and returns no evidence.
author:
  - The Greenroom authors
"""

EXAMPLES = r"""
- name: Run the service's tests
  service_test:
    run_id: "{{ run_id }}"
    user: example-service
    directory: /opt/example-service/tests/4f5e6d7c8b9a
    reports: /opt/example-service/tests/reports
    secrets:
      DATABASE_URL: "{{ scratch_database_url }}"
    suites:
      - name: unit
        command: pytest tests/unit
        id: verify.unit.pass
        with_secrets: false
        coverage_id: verify.unit.coverage
        coverage_min: 60
        package: example_service
      - name: integration
        command: pytest tests/integration
        id: verify.integration.pass
        time_limit_s: 300
"""

RETURN = r"""
evidence:
  description: One record for each suite, and one for its coverage where that was asked for.
  returned: always
  type: list
  elements: dict
  sample: [{id: verify.unit.pass, status: pass, expected: "every test passes, at least 1, none skipped", observed: "84 tests, 84 passed"}]
suites:
  description: What each suite did.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Name of the suite.
      type: str
    status:
      description: Exit status of its process; null if it was not started.
      type: int
    seconds:
      description: How long it ran.
      type: float
    files:
      description: Reports, and the log of a suite that did not pass; readable by root, without secrets.
      type: list
      elements: str
    output:
      description: Last lines of its output, if it did not pass.
      type: list
      elements: str
files:
  description: The files of all suites.
  returned: always
  type: list
  elements: str
"""

import re

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom import test_run
from ansible.module_utils.greenroom.masking import secret_parts

SUITE = {
    "name": {"type": "str", "required": True},
    "command": {"type": "str", "required": True},
    "id": {"type": "str", "required": True},
    "time_limit_s": {"type": "int", "default": 600},
    "allow_skipped": {"type": "int", "default": 0},
    "with_secrets": {"type": "bool", "default": True},
    "coverage_id": {"type": "str"},
    "coverage_min": {"type": "float"},
    "package": {"type": "str"},
}
ARGUMENTS = {
    "run_id": {"type": "str", "required": True},
    "user": {"type": "str", "required": True},
    "directory": {"type": "path", "required": True},
    "reports": {"type": "path", "required": True},
    "suites": {
        "type": "list", "elements": "dict", "required": True, "options": SUITE,
        "required_together": [("coverage_id", "coverage_min", "package")],
    },
    "env": {"type": "dict", "default": {}},
    "secrets": {"type": "dict", "default": {}, "no_log": True},
    "hidden": {"type": "list", "elements": "path", "default": []},
    "memory_mb": {"type": "int", "default": 1024},
}  # fmt: skip


def main() -> None:
    """Check the arguments, run the suites, return their evidence."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    params = module.params
    names = [suite["name"] for suite in params["suites"]]
    if not names or len(set(names)) != len(names) or not all(re.fullmatch(r"[a-z0-9_]+", name) for name in names):
        module.fail_json(msg=f"suites: names must be [a-z0-9_]+, each once, at least one; got {names}", evidence=[], suites=[], files=[])
    if module.check_mode:
        module.exit_json(changed=False, evidence=[], suites=[], files=[], msg="check mode: no test was run")
    # The password inside a URL is as secret as the URL.
    module.no_log_values.update(secret_parts(params["secrets"].values()))
    suites = [{**suite, "limit_s": suite["time_limit_s"]} for suite in params["suites"]]
    try:
        results = test_run.run_suites(suites, params)
    except OSError as error:
        module.fail_json(msg=f"reports: {params['reports']}: {error.strerror}", evidence=[], suites=[], files=[])
    evidence = [item for result in results for item in result.pop("evidence")]
    outcome = {"evidence": evidence, "suites": results, "files": [path for result in results for path in result["files"]]}
    red = [item for item in evidence if item["status"] != "pass"]
    if red:
        reasons = "; ".join(f"{item['id']}: {item['reason']}" for item in red)
        module.fail_json(msg=f"the service's own tests did not pass. {reasons}", changed=False, **outcome)
    module.exit_json(changed=False, **outcome)


if __name__ == "__main__":
    main()
