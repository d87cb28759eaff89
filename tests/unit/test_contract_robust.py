"""Whatever stands at whatever place of a contract, the answer is a list of problems, never a traceback."""

import copy
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.greenroom import contract

FILE = Path(__file__).resolve().parents[2] / "inventories" / "staging" / "group_vars" / "all" / "service.yml"
BASE = yaml.safe_load(FILE.read_text(encoding="utf-8"))["service"]
GROUPS = {"gateway": ["g1"], "app": ["a1"], "database": ["d1"], "broker": ["b1"]}
SECRETS = {"vault_service_env": {"ENCRYPTION_KEY": "x" * 40}, "vault_rabbitmq_password": 5}
MARKERS = {"hosts": ["prod.internal"], "databases": ["lark_service"], "ports": [1]}
JUNK = [None, True, -1, 1.5, "", "x\n$`", [], {}, [None], {"a": None}, [[]], "REMOVED"]


def places(tree, path=()):
    yield path
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from places(value, (*path, key))


def replaced(path, value):
    made = copy.deepcopy(BASE)
    node = made
    for part in path[:-1]:
        node = node[part]
    if value == "REMOVED":
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return made


@pytest.mark.parametrize("junk", JUNK, ids=repr)
def test_junk_at_any_place_is_a_problem_and_no_crash(junk):
    refused = 0
    for path in places(BASE):
        if path:
            found = contract.validate(replaced(path, junk), secrets=SECRETS, markers=MARKERS, groups=GROUPS)
            assert all(problem["text"] for problem in found)
            refused += bool(found)
            contract.evidence(replaced(path, junk), MARKERS, found)
    assert refused > 100


@pytest.mark.parametrize("junk", JUNK[:-1], ids=repr)
def test_junk_as_secrets_or_markers_is_no_crash(junk):
    for secrets in ({"vault_service_env": junk}, {"vault_service_env": {"ENCRYPTION_KEY": junk}}, {"vault_rabbitmq_password": junk}):
        contract.validate(BASE, secrets=secrets, groups=GROUPS)
    for markers in (junk, {"hosts": junk}, {"ports": junk}, {"databases": [junk]}):
        contract.validate(BASE, secrets=SECRETS, markers=markers, groups=GROUPS)
