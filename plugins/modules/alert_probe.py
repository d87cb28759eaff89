#!/usr/bin/python
"""Ansible module: proof that alerts arrive (logic in module_utils/greenroom/monitoring/proof.py)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: alert_probe
short_description: Prove that alerts of each severity arrive
description:
  - Posts a synthetic alert of each severity to Alertmanager, waits until it is received by the channel, and ends it.
  - The receipt is the evidence. Without a page to read the channel back from, delivery is C(no_evidence), not a pass.
options:
  alertmanager_url:
    description: Address of Alertmanager.
    type: str
    default: http://127.0.0.1:9093
  relay_url:
    description: Address of the relay that hands alerts on to the channel.
    type: str
    default: http://127.0.0.1:9094
  receipts_url:
    description: A page whose text holds the messages that the channel got. C({proof}) in it stands for the mark that is looked for.
    type: str
  ca_file:
    description: File of the authorities to trust for O(receipts_url) instead of the system's.
    type: path
  severities:
    description: The severities to prove.
    type: list
    elements: str
    default: [critical, warning, info]
  within_s:
    description: Seconds in which the alerts must arrive.
    type: float
    default: 60
  fail:
    description: Fail if something does not arrive.
    type: bool
    default: true
attributes:
  check_mode:
    description: Nothing is sent and nothing is proved.
    support: none
author: Greenroom
"""

EXAMPLES = r"""
- name: Alerts arrive
  alert_probe:
    receipts_url: "https://monitor:8086/received?contains={proof}"
    ca_file: /etc/greenroom/ca.crt
"""

RETURN = r"""
evidence:
  description: One record for the channel, and one for each severity with the seconds from raised to received.
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom.monitoring import proof
from ansible.module_utils.greenroom.monitoring.rules import SEVERITIES
from ansible.module_utils.greenroom.records import red


def main():
    module = AnsibleModule(
        argument_spec={
            "alertmanager_url": {"type": "str", "default": "http://127.0.0.1:9093"},
            "relay_url": {"type": "str", "default": "http://127.0.0.1:9094"},
            "receipts_url": {"type": "str"},
            "ca_file": {"type": "path"},
            "severities": {"type": "list", "elements": "str", "default": list(SEVERITIES)},
            "within_s": {"type": "float", "default": 60},
            "fail": {"type": "bool", "default": True},
        },
        supports_check_mode=False,
    )
    asked = module.params
    if not asked["severities"]:
        module.fail_json(msg="severities is empty: nothing would be proved", evidence=[])
    evidence = proof.prove(
        asked["alertmanager_url"], asked["relay_url"], asked["receipts_url"], asked["severities"], asked["within_s"], asked["ca_file"]
    )
    if asked["fail"] and red(evidence):
        module.fail_json(msg=red(evidence), evidence=evidence)
    module.exit_json(changed=True, evidence=evidence)


if __name__ == "__main__":
    main()
