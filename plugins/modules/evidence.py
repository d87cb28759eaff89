#!/usr/bin/python
"""Ansible module: makes evidence out of values that a playbook has, and judges a run's evidence (logic in module_utils/greenroom)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: evidence
short_description: Record evidence, or judge the evidence of a run
description:
  - With O(state=record) it compares values that a playbook already has and returns evidence records. The callback C(greenroom) keeps them.
  - With O(state=gate) it reads C(evidence.jsonl) of the run back, on the control node, and fails with all blockers if anything that the
    selected phases require is not proven.
  - With O(state=times) it compares how long the phases of the run took so far with O(budget), on the control node.
  - With O(state=facts) it hands facts of the run (service, version, environment, catalogues) to the report.
options:
  state:
    description: What to do.
    type: str
    choices: [record, gate, times, facts]
    default: record
  records:
    description: With O(state=record), what to record. One of C(compare), C(ok), C(declared) and C(status) decides each of them.
    type: list
    elements: dict
    suboptions:
      id: {description: "Id of the catalogue.", type: str, required: true}
      expected: {description: "What was expected.", type: raw}
      observed: {description: "What was observed. Without it nothing passes.", type: raw}
      compare:
        description:
          - How O(records[].observed) has to meet O(records[].expected). V(equal) keeps texts and numbers apart.
          - V(at_least) and V(at_most) compare numbers. V(contains) looks for one or all of O(records[].expected) in a text, list, mapping.
          - V(matches) wants the whole text to match a regular expression. V(in) wants one of a list.
        type: str
        choices: [equal, at_least, at_most, contains, matches, in]
      ok: {description: "The verdict itself, a real boolean.", type: raw}
      declared: {description: "What a person stated, for entries of kind declared. Empty or placeholder text fails.", type: raw}
      status:
        description: The status itself, for what was not measured.
        type: str
        choices: [fail, error, no_evidence, not_applicable, not_run]
      reason: {description: "Why it does not pass. Needed with O(records[].status), otherwise made from the values.", type: str}
      unit: {description: "Unit of the observed number.", type: str}
      detail: {description: "Raw figures, never a secret. C(target) names what was measured where a host has several.", type: dict}
      host: {description: "The host it is about, if it is not the one the task runs for.", type: str}
  fail:
    description: With O(state=record), whether a record that does not pass fails the task. With V(false) the gate decides later.
    type: bool
    default: true
  phases:
    description: With O(state=gate), the phases whose requirements must be proven.
    type: list
    elements: str
  catalogues:
    description: With O(state=gate), the files of the catalogue, the project's own and the service's.
    type: list
    elements: path
  not_applicable:
    description: With O(state=gate), id to reason, from the contract, for what does not apply. It never excuses a measured failure.
    type: dict
    default: {}
  earlier:
    description: With O(state=gate), phase to run id, for phases that the ledger proves for the same release and configuration.
    type: dict
    default: {}
  hosts:
    description: With O(state=gate), id to the list of hosts that must each have evidence of it.
    type: dict
    default: {}
  id:
    description: With O(state=gate) the id that stands for this gate itself, such as C(prep.gate); with O(state=times) the id of the result.
    type: str
  partial:
    description:
      - With O(state=gate), why not everything can be measured in this run, such as hosts that a limit leaves out; empty if everything can.
      - What nobody measured is then no blocker, and the verdict V(incomplete).
    type: str
    default: ""
  budget:
    description: With O(state=times), phase to the most seconds it may take. A phase that did not run in this run is left out.
    type: dict
  facts:
    description:
      - With O(state=facts), what the report tells about the run. Known names are C(service), C(version), C(release), C(commit),
        C(environment), C(approved_by), C(reason), C(users_on), C(no_op_of), C(earlier), C(not_applicable), C(hosts), C(catalogues).
    type: dict
  run_dir:
    description: Folder of the run. The callback states it in the environment.
    type: path
  lines:
    description: How many records the callback has written. A different number of lines means that evidence was lost.
    type: int
attributes:
  check_mode:
    description: >-
      The module changes nothing, so it does the same in check mode, with one exception. What check mode could not measure is no blocker
      there, and the verdict is then V(incomplete) instead of V(pass), as with O(partial).
    support: full
notes:
  - O(state=gate) and O(state=times) need PyYAML and the run's folder, so they run on the control node, with C(ansible_playbook_python).
  - O(run_dir) and O(lines) are taken from E(GREENROOM_RUN_DIR) and E(GREENROOM_EVIDENCE_LINES) if they are not given.
author: Greenroom (@greenroom)
"""

EXAMPLES = r"""
- name: Compare the server's version
  evidence:
    records:
      - {id: prep.db.version, expected: 13, observed: "{{ postgresql_major | int }}", compare: at_least}
      - {id: prep.services.inventory, declared: "{{ service.processes | map(attribute='name') | list }}"}

- name: Nothing is deployed before every preparation check has passed
  evidence:
    state: gate
    id: prep.gate
    phases: [prepare]
    catalogues: ["{{ playbook_dir }}/../catalogue/any.yml", "{{ playbook_dir }}/../{{ service.catalogue }}"]
    not_applicable: "{{ service.not_applicable | default({}) }}"
  delegate_to: localhost
  run_once: true
  vars:
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
    ansible_become: false

- name: Tell the report what this run is about
  evidence:
    state: facts
    facts: {service: "{{ service.name }}", environment: staging, catalogues: ["{{ service.catalogue }}"]}
"""

RETURN = r"""
evidence:
  description: The records, also when the task fails. With O(state=gate) the one of O(id), if that is given.
  returned: always
  type: list
  elements: dict
  sample: [{"id": "prep.db.version", "status": "pass", "expected": 13, "observed": 15}]
verdict:
  description: V(pass), V(fail), or V(incomplete) in check mode.
  returned: with O(state=gate)
  type: str
  sample: fail
counts:
  description: How many entries of the catalogue have each status.
  returned: with O(state=gate)
  type: dict
  sample: {"pass": 22, "fail": 1, "error": 0, "no_evidence": 0, "not_applicable": 1, "not_run": 164}
required:
  description: How many entries the gate requires.
  returned: with O(state=gate)
  type: int
  sample: 24
passed:
  description: How many of them are proven.
  returned: with O(state=gate)
  type: int
  sample: 23
blockers:
  description: Ids of what stands in the way. The message has a line for each with its reason; all figures are in the report.
  returned: with O(state=gate)
  type: list
  elements: str
  sample: [prep.server.cpu]
greenroom:
  description: Facts for the callback.
  returned: with O(state=gate) and O(state=facts)
  type: dict
  sample: {"service": "example", "environment": "staging"}
"""

import json
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule, env_fallback
from ansible.module_utils.greenroom import catalogue as catalogues
from ansible.module_utils.greenroom import gate
from ansible.module_utils.greenroom import records as rec

WORDS = {
    "equal": "expected {}", "at_least": "expected at least {}", "at_most": "expected at most {}", "contains": "expected it to contain {}",
    "matches": "expected it to match {}", "in": "expected one of {}",
}  # fmt: skip


def make_record(item: dict) -> dict:
    """One record from an item of `records`. Raises ValueError for an item that cannot be judged at all."""
    ways = [way for way in ("compare", "ok", "declared", "status") if item.get(way) is not None]
    if len(ways) != 1:
        given = ", ".join(ways) or "none"
        raise ValueError(f"{item['id']}: exactly one of compare, ok, declared and status decides a record, here: {given}")
    extra = {key: item.get(key) for key in ("unit", "detail", "host")}
    expected, observed, reason = item.get("expected"), item.get("observed"), item.get("reason")
    started = rec.utc_now()
    if item.get("status") is not None:
        return rec.record(item["id"], item["status"], expected, observed, reason=reason, started=started, **extra)
    if item.get("declared") is not None:
        observed, expected = item["declared"], expected or "stated, no placeholder"
        passed = not gate.is_placeholder(observed)
        reason = reason or f"nothing is stated, or only a placeholder: {gate.shorten(observed)}"
    elif item.get("ok") is not None:
        passed, reason = item["ok"], reason or f"expected {gate.shorten(expected)}, observed {gate.shorten(observed)}"
        if not isinstance(passed, bool):
            raise ValueError(f"{item['id']}: ok must be true or false, not {passed!r}")
    else:
        if observed is None:
            reason = reason or "nothing was observed"
            return rec.record(item["id"], rec.NO_EVIDENCE, expected, None, reason=reason, started=started, **extra)
        try:
            passed = rec.compare(item["compare"], expected, observed)
        except (TypeError, ValueError) as error:
            return rec.record(item["id"], rec.ERROR, expected, observed, reason=f"cannot be compared: {error}", started=started, **extra)
        told = f"{WORDS[item['compare']].format(gate.shorten(expected))}, observed {gate.shorten(observed)}"
        reason = f"{reason}: {told}" if reason else told
    return rec.record(
        item["id"], rec.PASS if passed else rec.FAIL, expected, observed, reason=None if passed else reason, started=started, **extra
    )


def state_record(module: AnsibleModule) -> dict:
    try:
        made = [make_record(item) for item in module.params["records"] or []]
    except ValueError as error:
        module.fail_json(msg=str(error), evidence=[])
    if not made:
        module.fail_json(msg="records is empty: there is nothing to record", evidence=[])
    result = {"changed": False, "evidence": made}
    bad = [item for item in made if item["status"] in gate.BLOCKING]
    if bad and module.params["fail"]:
        module.fail_json(msg="\n".join(f"{item['id']}: {item['reason']}" for item in bad), **result)
    return result


def state_gate(module: AnsibleModule) -> dict:
    params = module.params
    if not params["run_dir"]:
        module.fail_json(msg="run_dir is not known: switch the callback greenroom on (callbacks_enabled in ansible.cfg)", evidence=[])
    try:
        catalogue = catalogues.load(params["catalogues"])
    except ImportError:
        module.fail_json(msg="PyYAML is missing in this Python: run the gate with ansible_python_interpreter={{ ansible_playbook_python }}")
    except catalogues.CatalogueError as error:
        module.fail_json(msg=str(error), evidence=[])
    own = params["id"]
    if own is not None and own not in catalogue:
        module.fail_json(msg=f"id: no catalogue knows {own}", evidence=[])
    evidence, problems = gate.read_evidence(Path(params["run_dir"]) / "evidence.jsonl", params["lines"])
    started = rec.utc_now()
    partial = "check mode changes nothing, so it cannot be measured" if module.check_mode else params["partial"]
    try:
        judged = gate.evaluate(
            catalogue, evidence, params["phases"], problems=problems, not_applicable=params["not_applicable"], earlier=params["earlier"],
            hosts=params["hosts"], without=[own] if own else [],
            excused=dict.fromkeys(params["phases"], partial) if partial else None,
        )  # fmt: skip
    except ValueError as error:
        module.fail_json(msg=f"phases: {error}", evidence=[])
    facts = {"gated": params["phases"]}
    facts |= {key: params[key] for key in ("not_applicable", "earlier", "hosts") if params[key]}
    facts |= {"partial": params["partial"]} if params["partial"] else {}
    blockers = judged["blockers"]
    # Ansible prints the whole result of a failed task, so it holds no more than the message needs beside it.
    result = {
        "changed": False, "verdict": judged["verdict"], "counts": judged["counts"], "required": judged["required"],
        "passed": judged["passed"], "blockers": sorted({str(item["id"] or item["title"]) for item in blockers}), "greenroom": facts,
        "evidence": [],
    }  # fmt: skip
    count = f"{len(blockers)} blocker" + ("" if len(blockers) == 1 else "s")
    if own and judged["verdict"] != "incomplete":
        observed = {"required": judged["required"], "passed": judged["passed"], "blockers": len(blockers)}
        expected = f"everything that {', '.join(params['phases'])} requires is proven"
        status, reason = (rec.FAIL, f"{count}: {', '.join(result['blockers'])}") if blockers else (rec.PASS, None)
        result["evidence"] = [rec.record(own, status, expected, observed, reason=reason, started=started, detail={"gate": True})]
    if blockers:
        lines = "\n".join(f"- {line}" for line in gate.describe_all(blockers))
        module.fail_json(msg=f"gate {', '.join(params['phases'])}: {count}\n{lines}", **result)
    return result


def state_times(module: AnsibleModule) -> dict:
    params = module.params
    path = Path(params["run_dir"] or "") / "run.json"
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        phases = {phase["name"]: phase["seconds"] for phase in run["phases"]}
    except (OSError, ValueError, KeyError) as error:
        module.fail_json(msg=f"{path}: the times of the phases cannot be read: {error}", evidence=[])
    budget = {name: seconds for name, seconds in params["budget"].items() if phases.get(name)}
    observed = {name: phases[name] for name in budget}
    late = [f"{name} took {observed[name]} s of {seconds} s" for name, seconds in budget.items() if observed[name] > float(seconds)]
    status, reason = (rec.FAIL, "; ".join(late)) if late else (rec.PASS, None)
    if not budget:
        asked = set(params["budget"]) & set(run["selected"])
        status, observed = (rec.NO_EVIDENCE if asked else rec.NOT_APPLICABLE), None
        reason = f"none of {', '.join(params['budget'])} " + ("has ended in this run" if asked else "is part of this run")
    result = {"changed": False, "evidence": [rec.record(params["id"], status, budget, observed, unit="s", reason=reason)]}
    if status not in (rec.PASS, rec.NOT_APPLICABLE):
        module.fail_json(msg=reason, **result)
    return result


def state_facts(module: AnsibleModule) -> dict:
    return {"changed": False, "evidence": [], "greenroom": module.params["facts"]}


def main():
    item = {
        "id": {"type": "str", "required": True}, "expected": {"type": "raw"}, "observed": {"type": "raw"},
        "compare": {"type": "str", "choices": list(rec.COMPARISONS)}, "ok": {"type": "raw"}, "declared": {"type": "raw"},
        "status": {"type": "str", "choices": [status for status in rec.STATUSES if status != rec.PASS]}, "reason": {"type": "str"},
        "unit": {"type": "str"}, "detail": {"type": "dict"}, "host": {"type": "str"},
    }  # fmt: skip
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["record", "gate", "times", "facts"], "default": "record"},
            "records": {"type": "list", "elements": "dict", "options": item},
            "fail": {"type": "bool", "default": True},
            "phases": {"type": "list", "elements": "str"},
            "catalogues": {"type": "list", "elements": "path"},
            "not_applicable": {"type": "dict", "default": {}},
            "earlier": {"type": "dict", "default": {}},
            "hosts": {"type": "dict", "default": {}},
            "id": {"type": "str"},
            "partial": {"type": "str", "default": ""},
            "budget": {"type": "dict"},
            "facts": {"type": "dict"},
            "run_dir": {"type": "path", "fallback": (env_fallback, ["GREENROOM_RUN_DIR"])},
            "lines": {"type": "int", "fallback": (env_fallback, ["GREENROOM_EVIDENCE_LINES"])},
        },
        required_if=[
            ("state", "record", ("records",)),
            ("state", "gate", ("phases", "catalogues")),
            ("state", "times", ("id", "budget")),
            ("state", "facts", ("facts",)),
        ],
        supports_check_mode=True,
    )
    states = {"record": state_record, "gate": state_gate, "times": state_times, "facts": state_facts}
    module.exit_json(**states[module.params["state"]](module))


if __name__ == "__main__":
    main()
