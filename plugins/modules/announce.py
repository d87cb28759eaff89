#!/usr/bin/python
"""Ansible module: tell people by way of the gateway's channel (logic in module_utils/greenroom/notify.py)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: announce
short_description: Tell people what happened
description:
  - On the gateway. Keeps the message in the spool there and tries to deliver it at once; what is not delivered waits for the timer.
  - Never fails and changes no outcome, whatever the channel, the network or the disk do; trouble is a warning beside the result. Call it
    with what was verified, after it was.
  - The channel is that of the contract's section C(notify), as the role C(guard) wrote it. Without it nothing is sent.
options:
  service:
    description: The service's name.
    type: str
    required: true
  event:
    description: What happened, in dotted words, such as V(deploy.verified).
    type: str
    required: true
  severity:
    description: How bad it is.
    type: str
    choices: [info, warning, critical]
    default: info
  title:
    description: One line for people.
    type: str
    required: true
  text:
    description: A few lines more. No secret.
    type: str
    default: ""
  facts:
    description: Facts by name, one line each; those that are V(null) are left out.
    type: dict
    default: {}
  budget_s:
    description: Seconds after which it is left to the timer.
    type: float
    default: 10
  config:
    description: The channel's configuration. By default C(/etc/greenroom/<service>/notify.json).
    type: path
attributes:
  check_mode:
    support: full
    description: Nothing is kept or sent.
  diff_mode:
    support: none
author: Greenroom
"""

EXAMPLES = r"""
- name: Tell that it went back
  announce:
    service: example-service
    event: rollback.verified
    severity: critical
    title: went back to 1.4.0, verified
    text: "{{ run_reason }}"
    facts: {run: "{{ run_id }}", seconds: 14}
"""

RETURN = r"""
sent:
  description: How many messages were delivered now, earlier ones that waited included.
  returned: always
  type: int
  sample: 1
waiting:
  description: How many wait for the timer.
  returned: always
  type: int
  sample: 0
dropped:
  description: How many waited too long and were given up.
  returned: always
  type: int
  sample: 0
problem:
  description: Why something waits, without the channel's address; V(null) if nothing does.
  returned: always
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom import notify


def main() -> None:
    """Keep, deliver, say what came of it."""
    module = AnsibleModule(
        argument_spec={
            "service": {"type": "str", "required": True},
            "event": {"type": "str", "required": True},
            "severity": {"type": "str", "choices": list(notify.SEVERITIES), "default": "info"},
            "title": {"type": "str", "required": True},
            "text": {"type": "str", "default": ""},
            "facts": {"type": "dict", "default": {}},
            "budget_s": {"type": "float", "default": 10},
            "config": {"type": "path"},
        },
        supports_check_mode=True,
    )
    p = module.params
    if module.check_mode:
        module.exit_json(changed=False, sent=0, waiting=0, dropped=0, problem=None)
    one = notify.message(p["event"], p["severity"], p["title"], p["text"], **p["facts"])
    done = notify.announce(p["config"] or f"/etc/greenroom/{p['service']}/notify.json", one, p["budget_s"])
    if done["problem"]:
        module.warn(f"announce {p['event']}: {done['problem']}")
    module.exit_json(changed=done["sent"] > 0, **done)


if __name__ == "__main__":
    main()
