#!/usr/bin/python
"""Ansible module: judges an env file, or values before they are written (logic in module_utils/greenroom/env_*.py)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: env_file_check
short_description: Judge an env file, or values before one is written
description:
  - Checks that every variable is there exactly once, has its type, is no placeholder, and that secrets are strong. Nothing of
    production may be named.
  - Reports all problems at once, each with file, line, key and what to do. A value is never part of a message.
  - Checks a file on the host (its mode and owner too), or values that are still in memory.
options:
  path:
    description: Env file on the host, in systemd's format. Give either this or I(values).
    type: path
  values:
    description:
      - Values to check before they are written, as key to value. Nothing of it is handed back.
      - Text must not hold line breaks. Numbers and truth values are judged as they would be written.
    type: dict
  declared:
    description:
      - The variables that are wanted, as in C(service.env) of the service contract.
      - A variable without C(required) is required.
    type: list
    elements: dict
    required: true
    suboptions:
      key:
        description: Name of the variable.
        type: str
        required: true
      type:
        description: What its value must be.
        type: str
        choices: [string, integer, number, boolean, url, enum, email, path]
        default: string
      choices:
        description: The values allowed.
        type: list
        elements: raw
      secret:
        description: Whether the value is a secret.
        type: bool
        default: false
      min_length:
        description: Shortest value allowed. For a secret the default is 16. Of a secret address its password is measured.
        type: int
      pattern:
        description: Regular expression that the whole value must match.
        type: str
      minimum:
        description: Smallest number allowed.
        type: float
      maximum:
        description: Largest number allowed.
        type: float
      required:
        description: Whether the variable must be there.
        type: bool
        default: true
      value:
        description: The value that the contract gives. A template's sample that equals it is no sample.
        type: raw
      description:
        description: For people.
        type: str
  allow_unknown:
    description: Accept variables that are not declared.
    type: bool
    default: false
  template:
    description: Env file on the host with sample values. A text, address or path that still equals its sample is a problem.
    type: path
  forbidden:
    description: Names that no value may hold, such as production's hosts and databases.
    type: list
    elements: dict
    default: []
    suboptions:
      marker:
        description:
          - The name, found as a whole word of a value. With a dot it is found in hosts below it as well.
          - A number is a port of an address.
        type: raw
        required: true
      why:
        description: What a message calls it, for instance C(a production host). The marker itself is not shown.
        type: str
        required: true
  owner:
    description: Who must own a file that holds secrets.
    type: str
    default: root
  fail:
    description: Fail if there is a problem.
    type: bool
    default: true
attributes:
  check_mode:
    description: The module only reads, so it does the same in check mode.
    support: full
author: Greenroom (@greenroom)
"""

EXAMPLES = r"""
- name: Judge the values before they are written
  env_file_check:
    values: "{{ dict(service.env | rejectattr('secret') | map(attribute='key') | zip(service.env | rejectattr('secret')
             | map(attribute='value'))) | combine(vault_service_env) }}"
    declared: "{{ service.env }}"
    forbidden: "{{ production_markers.hosts | map('community.general.dict_kv', 'marker') | map('combine', {'why': 'a production host'}) }}"

- name: Judge the file of credentials on the host
  env_file_check:
    path: /etc/example-service/credentials.env
    declared: "{{ service.env | selectattr('secret') }}"
"""

RETURN = r"""
evidence:
  description: One record for each of the checks, on success and on failure.
  returned: always
  type: list
  elements: dict
  sample: [{id: config.required, status: pass, expected: 7 required variables, observed: 7 present}]
problems:
  description: Everything that is wrong.
  returned: always
  type: list
  elements: dict
  sample: [{file: /etc/example-service/credentials.env, line: 3, key: API_KEY, code: short_secret,
            message: "the secret is 8 characters long, 16 are wanted", fix: "make a new one, for instance with `openssl rand -hex 32`"}]
keys:
  description: The names of the variables that were found.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom import env_check

DECLARED = {
    "key": {"type": "str", "required": True, "no_log": False},
    "type": {"type": "str", "choices": ["string", "integer", "number", "boolean", "url", "enum", "email", "path"], "default": "string"},
    "choices": {"type": "list", "elements": "raw"},
    "secret": {"type": "bool", "default": False, "no_log": False},
    "min_length": {"type": "int"},
    "pattern": {"type": "str"},
    "minimum": {"type": "float"},
    "maximum": {"type": "float"},
    "required": {"type": "bool", "default": True},
    "value": {"type": "raw"},
    "description": {"type": "str"},
}
FORBIDDEN = {"marker": {"type": "raw", "required": True}, "why": {"type": "str", "required": True}}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path"},
            "values": {"type": "dict", "no_log": True},
            "declared": {"type": "list", "elements": "dict", "required": True, "options": DECLARED},
            "allow_unknown": {"type": "bool", "default": False},
            "template": {"type": "path"},
            "forbidden": {"type": "list", "elements": "dict", "default": [], "options": FORBIDDEN},
            "owner": {"type": "str", "default": "root"},
            "fail": {"type": "bool", "default": True},
        },
        mutually_exclusive=[("path", "values")],
        required_one_of=[("path", "values")],
        supports_check_mode=True,
    )
    params = module.params
    # Ansible would blot out every value in the whole result: with LOG_LEVEL=INFO or WORKERS=1 no message could be read.
    # Here no message ever holds a value (the library's rule, tested with sentinels), and the arguments are not handed back at all.
    secret = {item["key"] for item in params["declared"] if item["secret"]}
    plain = {str(value) for key, value in (params["values"] or {}).items() if key not in secret or len(str(value)) < 4}
    module.no_log_values = {value for value in module.no_log_values if value not in plain}
    shown = {key: value for key, value in params.items() if key not in ("values", "declared")}

    report = env_check.check(
        params["declared"], path=params["path"], values=params["values"], template=params["template"],
        forbidden=params["forbidden"], allow_unknown=params["allow_unknown"], owner=params["owner"],
    )  # fmt: skip
    result = {
        "changed": False, "evidence": report.evidence, "problems": [problem._asdict() for problem in report.problems],
        "keys": report.keys, "invocation": {"module_args": shown},
    }  # fmt: skip
    if report.problems and params["fail"]:
        module.fail_json(msg=f"{len(report.problems)} problems:\n" + "\n".join(map(str, report.problems)), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
