#!/usr/bin/python
"""Ansible module: thresholds over a window of Prometheus' data (logic in module_utils/greenroom/monitoring/gate.py)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prometheus_gate
short_description: Hold thresholds over a window of Prometheus' data
description:
  - Asks Prometheus for the newest window of each query and compares every series with what is expected.
  - Each check leaves an evidence record.
  - A series that is absent, not a number, or has too few samples is C(no_evidence) and fails the gate. It is never a pass.
options:
  url:
    description: Address of Prometheus.
    type: str
    default: http://127.0.0.1:9090
  ca_file:
    description: File of the authorities to trust instead of the system's, for https.
    type: path
  checks:
    description: The thresholds.
    type: list
    elements: dict
    required: true
    suboptions:
      id:
        description: Evidence id of the catalogue.
        type: str
        required: true
      name:
        description: What is measured, for people. It becomes C(detail.target).
        type: str
        required: true
      query:
        description: PromQL that gives a value for each series.
        type: str
        required: true
      expect:
        description: What every series must meet, a value or operators (C(eq), C(ne), C(gt), C(ge), C(lt), C(le)).
        type: raw
        required: true
      judged:
        description: Which value of the window is compared.
        type: str
        choices: [max, min, mean, last]
        default: max
      unit:
        description: Unit of the value, for the report.
        type: str
      samples_min:
        description: Samples that are numbers and that every series must have.
        type: int
        default: 4
      series_min:
        description: Series that the query must give.
        type: int
        default: 1
      step_s:
        description: Seconds between two samples.
        type: float
        default: 15
  window_s:
    description: Length of the window in seconds.
    type: float
    default: 120
  since:
    description: No sample is older than this moment (seconds since 1970), such as the switch.
    type: float
  wait_s:
    description: Seconds to wait for the end of a window that began at O(since), and for missing samples.
    type: float
    default: 0
  timeout_s:
    description: Limit of one request in seconds.
    type: float
    default: 10
  fail:
    description: Fail if a check does not pass.
    type: bool
    default: true
attributes:
  check_mode:
    description: The module only reads, so it does the same in check mode.
    support: full
author: Greenroom
"""

EXAMPLES = r"""
- name: Watch the new release for two minutes
  prometheus_gate:
    since: "{{ switched_at }}"
    wait_s: 150
    checks:
      - {id: load.error_rate, name: failed requests, query: "gateway:errors:percent", expect: {le: 0.1}, unit: "%"}
      - {id: load.p95, name: 95th percentile, query: "1000 * gateway:latency:p95_seconds", expect: {le: 500}, unit: ms}
"""

RETURN = r"""
evidence:
  description: One record for each check.
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom.monitoring import gate
from ansible.module_utils.greenroom.monitoring.prometheus import Prometheus
from ansible.module_utils.greenroom.records import red


def main():
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "default": "http://127.0.0.1:9090"},
            "ca_file": {"type": "path"},
            "checks": {
                "type": "list", "elements": "dict", "required": True,
                "options": {
                    "id": {"type": "str", "required": True},
                    "name": {"type": "str", "required": True},
                    "query": {"type": "str", "required": True},
                    "expect": {"type": "raw", "required": True},
                    "judged": {"type": "str", "choices": list(gate.JUDGED), "default": "max"},
                    "unit": {"type": "str"},
                    "samples_min": {"type": "int", "default": 4},
                    "series_min": {"type": "int", "default": 1},
                    "step_s": {"type": "float", "default": 15},
                },
            },
            "window_s": {"type": "float", "default": 120},
            "since": {"type": "float"},
            "wait_s": {"type": "float", "default": 0},
            "timeout_s": {"type": "float", "default": 10},
            "fail": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )  # fmt: skip
    asked = module.params
    if not asked["checks"]:
        module.fail_json(msg="checks is empty: a gate without a threshold proves nothing", evidence=[])
    prometheus = Prometheus(asked["url"], asked["ca_file"], asked["timeout_s"])
    evidence = gate.run(prometheus, asked["checks"], asked["window_s"], asked["since"], asked["wait_s"])
    if asked["fail"] and red(evidence):
        module.fail_json(msg=red(evidence), evidence=evidence)
    module.exit_json(changed=False, evidence=evidence)


if __name__ == "__main__":
    main()
