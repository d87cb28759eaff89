"""The inventories and the documented contracts are sound; services without a broker or a database are as welcome."""

import copy
import importlib.util
import json
import re
import subprocess
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.greenroom import contract

ROOT = Path(__file__).resolve().parents[2]
INVENTORIES = ["sandbox", "staging"]


@pytest.fixture(scope="module")
def templated():
    """Reads variables of an inventory's first app host as Ansible templates them."""
    from ansible.inventory.manager import InventoryManager
    from ansible.parsing.dataloader import DataLoader
    from ansible.template import Templar
    from ansible.vars.manager import VariableManager

    def read(name):
        loader = DataLoader()
        inventory = InventoryManager(loader=loader, sources=[str(ROOT / "inventories" / name)])
        manager = VariableManager(loader=loader, inventory=inventory)
        host = inventory.get_hosts("app")[0]
        variables = manager.get_vars(host=host)
        variables |= {"inventory_dir": str(ROOT / "inventories" / name), "playbook_dir": str(ROOT)}
        templar = Templar(loader=loader, variables=variables)
        groups = {group: [str(member) for member in members] for group, members in inventory.get_groups_dict().items()}
        addresses = {str(member): str(member.vars.get("ansible_host", member)) for member in inventory.get_hosts()}
        plain = {
            key: json.loads(json.dumps(templar.template(variables[key]))) for key in ("service", "production_markers") if key in variables
        }
        return plain, groups, addresses

    return read


@pytest.mark.parametrize("name", INVENTORIES)
def test_the_inventorys_contract_is_sound(templated, name):
    plain, groups, addresses = templated(name)
    assert "service" in plain, f"inventories/{name} defines no service"
    folder = ROOT / "inventories" / name
    found = contract.validate(
        plain["service"], markers=plain.get("production_markers"), groups=groups, addresses=addresses, inventory_dir=folder
    )
    assert [problem["text"] for problem in found] == []
    records = contract.evidence(plain["service"], plain.get("production_markers"), found)
    assert [record["id"] for record in records if record["status"] != "pass"] == []
    catalogue = contract.normalized(plain["service"])["catalogue"]
    assert catalogue is None or (ROOT / catalogue).is_file()


@pytest.mark.parametrize("part", ["broker", "database"])
def test_a_contract_without_a_part_is_sound_and_normalises(load, part):
    service = copy.deepcopy(load("inventories/staging/group_vars/all/service.yml")["service"])
    key = service["dependencies"].pop(part)["url_key"]
    service["env"] = [item for item in service["env"] if item["key"] != key]
    if part == "database":
        service.pop("migration")
    groups = {"gateway": ["g1"], "app": ["a1"], "database": ["d1"], "broker": ["b1"], part: []}
    assert contract.validate(service, groups=groups) == []
    full = contract.normalized(service)
    assert part not in full["dependencies"]
    assert contract.connections_required(full, 2)["required"] > 0


def test_the_contracts_shown_in_documents_are_sound():
    shown = 0
    for document in [ROOT / "README.md", ROOT / "docs" / "contract.md", *sorted(ROOT.glob("examples/*/README.md"))]:
        text = document.read_text(encoding="utf-8")
        for block in re.findall(r"^```yaml\n(.*?)^```", text, flags=re.M | re.S):
            data = yaml.safe_load(block)
            if isinstance(data, dict) and "service" in data:
                assert contract.validate(data["service"]) == [], document
                shown += 1
    assert shown >= 1


def test_the_reference_tables_are_those_of_schema_and_argument_specs(capsys):
    loader = SourceFileLoader("make_docs", str(ROOT / "scripts" / "make_docs"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("make_docs", loader))
    loader.exec_module(module)
    assert module.main(["--check"]) == 0, capsys.readouterr().err
    assert module.with_text(f"a{module.BEGIN}old{module.END}b", "new") == f"a{module.BEGIN}\n\nnew\n\n{module.END}b"


def test_every_key_of_the_schema_is_described_and_closed():
    schema = contract.load_schema()
    faults = []

    def walk(node, path):
        node = contract.resolve(node, schema)
        if "description" not in node and path not in ("", "service"):
            faults.append(f"{path} has no description")
        if "properties" in node and "additionalProperties" not in node and path != "service.checks[]":
            faults.append(f"{path} lets unknown keys through")
        for key, child in node.get("properties", {}).items():
            leaf = contract.resolve(child, schema)
            if not leaf.get("properties") and "items" not in leaf and "examples" not in leaf and "slot" not in leaf.get("description", ""):
                faults.append(f"{path}.{key} has no example")
            walk(child, f"{path}.{key}")
        if isinstance(node.get("items"), dict) and "properties" in contract.resolve(node["items"], schema):
            walk({"description": "an entry", **node["items"]}, f"{path}[]")

    walk(schema, "service")
    assert faults == []


# --- the example for real hosts, with Ansible's own programs ---------------------------------------------------------


def call(environment, *command):
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180, check=False)


def test_staging_is_an_inventory(ansible_environment):
    done = call(ansible_environment, "ansible-inventory", "-i", "inventories/staging", "--list")
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    assert {"gateway", "app", "database", "broker", "monitoring", "restore"} <= set(listed)


def test_deploy_passes_the_syntax_check_with_staging(ansible_environment):
    done = call(ansible_environment, "ansible-playbook", "deploy.yml", "-i", "inventories/staging", "--syntax-check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_stagings_sample_secrets_are_refused_before_any_host_is_touched(ansible_environment, load):
    done = call(ansible_environment, "ansible-playbook", "deploy.yml", "-i", "inventories/staging", "-vv")
    output = done.stdout + done.stderr
    assert done.returncode == 3, output[-3000:]
    assert "UNREACHABLE" not in output
    vault = load("inventories/staging/group_vars/all/vault.yml")
    for key in ("ENCRYPTION_KEY", "API_KEY"):
        assert key in output
        assert vault["vault_service_env"][key] not in output
