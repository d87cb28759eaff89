#!/usr/bin/python
"""Ansible module: the report of a rollback (logic in module_utils/greenroom/rollback_report.py)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rollback_report
short_description: Report a rollback
description:
  - Runs on the gateway. Tells from the ledger and the gateway's own log of requests who went back from what to what, why, how long it
    took, what users felt of it, and which questions are open. Changes nothing.
options:
  service:
    description: The service's name.
    type: str
    required: true
  environment:
    description: The environment, for the heading.
    type: str
    required: true
  directory:
    description: Folder of the state. By default C(/var/lib/greenroom/<service>).
    type: path
  run_id:
    description: The run.
    type: str
    required: true
  plan:
    description: The C(plan) that M(release) returned with C(state=rollback_planned).
    type: dict
    required: true
  reason:
    description: Why.
    type: str
    required: true
  approved_by:
    description: Who approved it.
    type: str
  access_log:
    description: The gateway's log of requests, one JSON object a line.
    type: path
    default: /var/log/nginx/access.log
  slow_s:
    description: From how many seconds on a request counts as delayed.
    type: float
    default: 1
author: Greenroom (@greenroom)
attributes:
  check_mode:
    support: full
    description: Changes nothing anyway.
"""

EXAMPLES = r"""
- name: Report the rollback
  rollback_report:
    service: example-service
    environment: staging
    run_id: "{{ run_id }}"
    plan: "{{ planned.plan }}"
    reason: error rate 6 %
  register: rollback
"""

RETURN = r"""
impact:
  description: What users felt of it. C(requests), C(failed), C(delayed), C(worst_s), C(by_slot), or C(unknown) with the reason.
  type: dict
  returned: success
report:
  description: The report, as Markdown.
  type: str
  returned: success
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom.rollback_report import report
from ansible.module_utils.greenroom.state import StateError


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "service": {"type": "str", "required": True},
            "environment": {"type": "str", "required": True},
            "directory": {"type": "path"},
            "run_id": {"type": "str", "required": True},
            "plan": {"type": "dict", "required": True},
            "reason": {"type": "str", "required": True},
            "approved_by": {"type": "str"},
            "access_log": {"type": "path", "default": "/var/log/nginx/access.log"},
            "slow_s": {"type": "float", "default": 1},
        },
        supports_check_mode=True,
    )
    p = module.params
    about = {key: p[key] for key in ("service", "environment", "reason", "approved_by")}
    try:
        felt, text = report(
            p["directory"] or f"/var/lib/greenroom/{p['service']}", p["service"], run_id=p["run_id"], plan=p["plan"], about=about,
            log=p["access_log"], slow_s=p["slow_s"],
        )  # fmt: skip
    except StateError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, impact=felt, report=text)


if __name__ == "__main__":
    main()
