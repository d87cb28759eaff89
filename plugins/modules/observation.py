#!/usr/bin/python
"""Ansible module: start an observation period on the monitoring host, and judge the days it has recorded."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: observation
short_description: Start the observation period after a deployment, and judge what its days recorded
description:
  - O(state=begun) starts the period of a release, or finds it started; another release begins anew. The first record is due the day after.
  - O(state=judged) reads the records that the timer wrote, one a day, and judges them. A day without a record, or on which something could
    not be measured, makes the verdict V(incomplete).
  - Before the end of the period there is no evidence for what only the end decides; RV(partial) then says how far it is.
version_added: "0.2.0"
options:
  state:
    description: What to do.
    type: str
    choices: [begun, judged]
    default: judged
  config:
    description: The file C(observation-<service>.json) on the host, which the timer reads as well.
    type: path
    required: true
attributes:
  check_mode:
    support: full
    description: With O(state=begun) nothing is written in check mode; judging changes nothing anyway.
author:
  - The Greenroom authors
"""

EXAMPLES = r"""
- name: Judge the observation period
  observation:
    config: /etc/greenroom/observation-example-service.json
  register: observation
"""

RETURN = r"""
evidence:
  description: The records of the phase observe.
  returned: with state judged
  type: list
  elements: dict
  sample: [{id: observe.period, status: pass, observed: 14 of 14 days measured since 2026-11-21}]
verdict:
  description: C(running), C(incomplete), C(fail) or C(pass).
  returned: with state judged
  type: str
partial:
  description: How far the period is; empty when it is over.
  returned: with state judged
  type: str
days:
  description: By date, the C(state) (C(good), C(red), C(empty), C(missed)) of the day, and C(why).
  returned: with state judged
  type: dict
greenroom:
  description: Plots of the trends for the run's report.
  returned: with state judged
  type: dict
first:
  description: Date of the first record.
  returned: with state begun
  type: str
"""

import json
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom import observation
from ansible.module_utils.greenroom import records as rec

ARGUMENTS = {
    "state": {"type": "str", "choices": ["begun", "judged"], "default": "judged"},
    "config": {"type": "path", "required": True},
}


def main() -> None:
    """Begin or judge."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        config = json.loads(Path(module.params["config"]).read_text(encoding="utf-8"))
        start, now = observation.started(config), time.time()
        if module.params["state"] == "begun":
            changed = start is None
            if changed and not module.check_mode:
                start = observation.begin(config, now)
            module.exit_json(changed=changed, first=start["first"] if start else "")
        if start is None:
            raise ValueError(f"{config['folder']}: no observation of release {config['release']} was begun. Run playbooks/observe.yml")
        found = observation.judge(config, start, observation.read_days(config["folder"]), now)
    except (OSError, ValueError, KeyError) as error:
        reason = f"the observation cannot be judged: {error}"
        module.fail_json(msg=reason, evidence=[rec.record("observe.period", rec.ERROR, reason=reason)])
    partial = "" if found["over"] else f"the observation runs: day {found['day']} of {config['days']}"
    module.exit_json(
        changed=False, evidence=found["evidence"], verdict=found["verdict"], partial=partial, days=found["states"],
        greenroom={"plots": found["plots"]},
    )  # fmt: skip


if __name__ == "__main__":
    main()
