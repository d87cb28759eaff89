#!/usr/bin/python
"""Ansible module: load a service with locust, sample every host beside it, and judge the result."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: load_test
short_description: Load a service with its own locust file, and judge latency, throughput, errors, CPU and memory
description:
  - O(state=sampling) starts a sampler of CPU, memory and connections on a host; it ends by itself. O(state=sampled) returns what it wrote.
  - O(state=started) starts locust without a screen, in a hardened transient unit with time and memory limits, distributed over processes.
    O(state=awaited) waits for its end for at most O(patience_s) and tells how far it is; call it again until RV(finished) is true.
  - O(state=judged) reads the raw samples of every request, leaves the warm-up out, and judges. Percentiles are those of raw samples.
  - The generator is judged first. One that was starved, killed, or whose processes were the limit makes the result V(invalid), which is
    neither pass nor fail; its figures are then C(no_evidence).
  - A good result is kept as the baseline of its release; the last good release's is what it is compared with.
  - O(state=absent) ends both units of the run, wherever it stopped, and removes O(folder).
version_added: "0.2.0"
options:
  state:
    description: What to do.
    type: str
    choices: [sampling, sampled, started, awaited, judged, absent]
    required: true
  run_id:
    description: Id of the run; part of the units' names C(greenroom-load-<run_id>-generator) and C(-sampler).
    type: str
    required: true
  folder:
    description: The run's own folder on the host; O(state=started) removes what it holds. Samples lie beside it, in C(<folder>-samples).
    type: path
    required: true
  seconds:
    description: With O(state=sampling), how long to sample.
    type: int
  library:
    description: With O(state=sampling), the folder that holds the Python package of Greenroom on the host.
    type: path
    default: /opt/greenroom/lib
  user:
    description: With O(state=started), the unix user that locust runs as.
    type: str
  directory:
    description: With O(state=started) and O(state=judged), the folder with C(venv/) and C(src/) of the generator's environment.
    type: path
  recorder:
    description: With O(state=started), the extension of locust that keeps raw samples (C(record_samples.py) of the role load_test).
    type: path
  url:
    description: With O(state=started), what is loaded, scheme and name, as users see it.
    type: str
  connect:
    description: With O(state=started), the address behind the name; the generator alone sees it. Without it the name is resolved.
    type: str
  ca_file:
    description: With O(state=started), the authority of the gateway's certificate, on the host.
    type: path
  profile:
    description: The section C(load) of the service contract, with its defaults filled in.
    type: dict
  thresholds:
    description: With O(state=judged), the section C(thresholds) of the service contract.
    type: dict
  rate_limit:
    description: With O(state=judged), the gateway's limit for one client, C(gateway.rate_limit) of the contract.
    type: dict
  env:
    description: With O(state=started), environment of locust, values that may be seen.
    type: dict
    default: {}
  secrets:
    description: With O(state=started) and O(state=judged), environment of locust, values that must not be seen.
    type: dict
    default: {}
  hidden:
    description: With O(state=started), paths that the generator cannot see.
    type: list
    elements: path
    default: []
  memory_mb:
    description: With O(state=started), memory limit of the generator, in MiB.
    type: int
    default: 1024
  patience_s:
    description: With O(state=awaited), how long one call waits.
    type: float
    default: 15
  service:
    description: With O(state=judged), name of the service.
    type: str
  release:
    description: With O(state=judged), C(<number>-<version>) of the release that is loaded.
    type: str
  hosts:
    description: >-
      With O(state=judged), by host what O(state=sampled) returned there, C(samples) and C(clock). The hosts that have a part in serving.
    type: dict
    default: {}
  clock:
    description: With O(state=judged), RV(clock) of the generator's own host.
    type: float
  baselines:
    description: With O(state=judged), the file on the host that keeps good results.
    type: path
  fail:
    description: With O(state=judged), whether the module fails unless everything passed. A gate that reads the evidence wants it false.
    type: bool
    default: true
attributes:
  check_mode:
    support: full
    description: Starts and judges nothing in check mode, and returns no evidence.
author:
  - The Greenroom authors
"""

EXAMPLES = r"""
- name: Start the load
  load_test:
    state: started
    run_id: "{{ run_id }}"
    folder: "/var/lib/greenroom/load/{{ run_id }}"
    user: greenroom-load
    directory: /opt/greenroom-load/4f5e6d7c8b9a
    recorder: /opt/greenroom-load/record_samples.py
    url: https://example.staging.internal
    connect: 10.0.0.11
    ca_file: /etc/greenroom/ca.crt
    profile: "{{ contract.load }}"

- name: Wait for its end
  load_test:
    state: awaited
    run_id: "{{ run_id }}"
    folder: "/var/lib/greenroom/load/{{ run_id }}"
    profile: "{{ contract.load }}"
  register: load
  until: load.finished
  retries: 60
  delay: 0
"""

RETURN = r"""
evidence:
  description: The records of the phase load.
  returned: with state judged
  type: list
  elements: dict
  sample: [{id: load.p95, status: pass, expected: 500, observed: 61.2, unit: ms}]
verdict:
  description: C(pass), C(fail), C(error), C(no_evidence), or C(invalid) where the generator was the limit.
  returned: with state judged
  type: str
files:
  description: Page, figures, locust's own page and log, for fetching.
  returned: with state judged
  type: list
  elements: str
greenroom:
  description: Plots for the run's report.
  returned: with state judged
  type: dict
output:
  description: Last lines of locust's output, unless everything passed.
  returned: with state judged
  type: list
  elements: str
finished:
  description: Whether the generator has ended.
  returned: with state awaited
  type: bool
progress:
  description: How far the load is, in a line.
  returned: with state awaited
  type: str
  sample: 45 of 75 s, 100 users, 1,104 requests/s, 0 failed
samples:
  description: One mapping a second with C(at), C(cpu), C(memory), C(connections).
  returned: with state sampled
  type: list
  elements: dict
problem:
  description: Why there are no samples.
  returned: with state sampled
  type: str
clock:
  description: The host's time, seconds since 1970.
  returned: with state sampling and sampled
  type: float
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom import load_judgement, load_run, load_sampler, transient_unit
from ansible.module_utils.greenroom.load_samples import SamplesError
from ansible.module_utils.greenroom.masking import secret_parts

ARGUMENTS = {
    "state": {"type": "str", "choices": ["sampling", "sampled", "started", "awaited", "judged", "absent"], "required": True},
    "run_id": {"type": "str", "required": True},
    "folder": {"type": "path", "required": True},
    "seconds": {"type": "int"},
    "library": {"type": "path", "default": "/opt/greenroom/lib"},
    "user": {"type": "str"},
    "directory": {"type": "path"},
    "recorder": {"type": "path"},
    "url": {"type": "str"},
    "connect": {"type": "str"},
    "ca_file": {"type": "path"},
    "profile": {"type": "dict"},
    "thresholds": {"type": "dict"},
    "rate_limit": {"type": "dict"},
    "env": {"type": "dict", "default": {}},
    "secrets": {"type": "dict", "default": {}, "no_log": True},
    "hidden": {"type": "list", "elements": "path", "default": []},
    "memory_mb": {"type": "int", "default": 1024},
    "patience_s": {"type": "float", "default": 15},
    "service": {"type": "str"},
    "release": {"type": "str"},
    "hosts": {"type": "dict", "default": {}},
    "clock": {"type": "float"},
    "baselines": {"type": "path"},
    "fail": {"type": "bool", "default": True},
}  # fmt: skip
NEEDED = [
    ("state", "sampling", ["seconds"]),
    ("state", "started", ["user", "directory", "recorder", "url", "profile"]),
    ("state", "awaited", ["profile"]),
    ("state", "judged", ["directory", "profile", "thresholds", "service", "release", "clock", "baselines"]),
]


def sampled(params: dict) -> dict:
    """What the sampler of this host has written; it is ended, for nobody looks any more."""
    transient_unit.stop(load_run.unit_name(params["run_id"], "sampler"))
    try:
        return {"samples": load_sampler.read(load_run.samples_file(params["folder"])), "problem": ""}
    except SamplesError as error:
        return {"samples": [], "problem": f"this host was not sampled: {error}"}


def main() -> None:
    """Do one step."""
    module = AnsibleModule(argument_spec=ARGUMENTS, required_if=NEEDED, supports_check_mode=True)
    params, state = module.params, module.params["state"]
    module.no_log_values.update(secret_parts(params["secrets"].values()))
    if module.check_mode:
        module.exit_json(changed=False, evidence=[], finished=True, samples=[], files=[], msg="check mode: nothing was loaded")
    try:
        if state == "sampling":
            load_run.start_sampler(params["run_id"], params["folder"], params["seconds"], library=params["library"])
            module.exit_json(changed=False, clock=time.time())
        if state == "sampled":
            found = sampled(params)
            module.exit_json(changed=False, clock=time.time(), **found)
        if state == "absent":
            load_run.remove(params["run_id"], params["folder"])
            module.exit_json(changed=False)
        if state == "started":
            load_run.start(params)
            module.exit_json(changed=False)
        if state == "awaited":
            found = load_run.wait(params, params["patience_s"])
            module.exit_json(changed=False, finished=found["finished"], progress=found["progress"]["text"])
        result = load_judgement.conclude(params)
    except (load_run.LoadError, SamplesError, OSError, ValueError) as error:
        evidence = load_judgement.broken(str(error)) if state in ("started", "judged") else []
        module.fail_json(msg=f"load test: {error}", evidence=evidence)
    if params["fail"] and result["verdict"] != "pass":
        module.fail_json(msg=f"the load test did not pass: {result.pop('why')}", **result)
    result.pop("why")
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
