#!/usr/bin/python
"""Ansible module: whether monitoring works (logic in module_utils/greenroom/monitoring/inspection.py)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: prometheus_check
short_description: Prove that targets, rules and dashboards of Prometheus work
description:
  - Every target is up and was scraped a moment ago. Of the service's own targets, those of the live slot count.
  - Every rule is loaded, evaluated without an error, and about metrics that exist.
  - Every panel of a dashboard shows data, and the service's page offers the series that the contract names.
options:
  url:
    description: Address of Prometheus.
    type: str
    default: http://127.0.0.1:9090
  targets:
    description: The targets there must be, by job, as the filters scrape_targets and probe_targets make them.
    type: dict
    required: true
  fresh_s:
    description: Seconds since its last scrape after which a target is not fresh.
    type: int
    default: 45
  rules:
    description: The rules there must be, as the filter alert_rules makes them.
    type: dict
    required: true
  late_metrics:
    description: Metrics of rules that are not there before something has happened.
    type: list
    elements: str
    default: []
  requirements:
    description: Evidence ids and the alert that meets each of them.
    type: dict
    default: {}
  gaps:
    description: Gaps between what is accepted and what raises an alert, for the report.
    type: list
    elements: dict
    default: []
  series:
    description: Series that the service's page must offer.
    type: list
    elements: str
    default: []
  dashboards:
    description: The panels of each dashboard, with C(title) and C(query).
    type: dict
    required: true
  within_s:
    description: Seconds to wait for what was started just now.
    type: float
    default: 0
  fail:
    description: Fail if something is not as it must be.
    type: bool
    default: true
attributes:
  check_mode:
    description: The module only reads, so it does the same in check mode.
    support: full
author: Greenroom
"""

EXAMPLES = r"""
- name: Prove targets, rules and dashboards
  prometheus_check:
    targets: "{{ service | scrape_targets(groups, addresses) }}"
    rules: "{{ lookup('file', 'alerts.yml') | from_yaml | alert_rules(service, groups) }}"
    dashboards: {hosts.json: [{title: Load, query: node_load1}]}
"""

RETURN = r"""
evidence:
  description: Records of targets, rules, dashboards and the service's series.
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom.monitoring import inspection
from ansible.module_utils.greenroom.monitoring.prometheus import Prometheus
from ansible.module_utils.greenroom.records import red


def main():
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "default": "http://127.0.0.1:9090"},
            "targets": {"type": "dict", "required": True},
            "fresh_s": {"type": "int", "default": 45},
            "rules": {"type": "dict", "required": True},
            "late_metrics": {"type": "list", "elements": "str", "default": []},
            "requirements": {"type": "dict", "default": {}},
            "gaps": {"type": "list", "elements": "dict", "default": []},
            "series": {"type": "list", "elements": "str", "default": []},
            "dashboards": {"type": "dict", "required": True},
            "within_s": {"type": "float", "default": 0},
            "fail": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    evidence = inspection.inspect(Prometheus(module.params["url"]), module.params)
    if module.params["fail"] and red(evidence):
        module.fail_json(msg=red(evidence), evidence=evidence)
    module.exit_json(changed=False, evidence=evidence)


if __name__ == "__main__":
    main()
