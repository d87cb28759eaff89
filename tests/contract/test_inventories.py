"""The inventories and the documented contracts are sound; services without a broker or a database are as welcome."""

import copy
import importlib.util
import json
import os
import re
import subprocess
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.greenroom import catalogue, check_plan, contract, health_check, preflight_plan, topology, units

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


def without(service, *parts):
    """The contract without these dependencies, and without what of it speaks of them."""
    keys = [service["dependencies"].pop(part)["url_key"] for part in parts]
    service["env"] = [item for item in service["env"] if item["key"] not in keys]
    if "database" in parts:
        service.pop("migration")
        service.pop("backup", None)


def with_cache(service):
    service["dependencies"]["cache"] = {"mode": "installed", "url_key": "CACHE_URL"}
    service["env"].append({"key": "CACHE_URL", "type": "url", "secret": True})


def from_artefact(service):
    del service["source"]
    service["artefact"] = {"archive": "https://files.staging.example.internal/example-1.2.0.tar.gz", "sha256": "d" * 64, "version": "1.2.0"}


EDGES = {
    "no broker": lambda service: without(service, "broker"),
    "no database": lambda service: without(service, "database"),
    "nothing beside": lambda service: without(service, "broker", "database"),
    "a cache": with_cache,
    "prebuilt": from_artefact,
}
SERVERS = {"database": ["d1"], "broker": ["d1"], "cache": ["c1"]}
GROUPS = {"gateway": ["g1"], "app": ["a1", "a2"], **SERVERS, "monitoring": ["m1"], "restore": ["m1"]}
ADDRESSES = {name: f"10.0.0.{number}" for number, name in enumerate(dict.fromkeys(host for hosts in GROUPS.values() for host in hosts), 11)}


@pytest.fixture(params=EDGES)
def edge(request, load):
    """(normalized contract at one edge of what is allowed, the groups that it needs), from the example for real hosts."""
    service = copy.deepcopy(load("inventories/staging/group_vars/all/service.yml")["service"])
    EDGES[request.param](service)
    groups = {group: hosts for group, hosts in GROUPS.items() if group not in SERVERS or group in service["dependencies"]}
    assert contract.validate(service, groups=groups) == []
    return contract.normalized(service), groups


def test_every_plan_can_be_made_at_the_edges_of_the_contract(edge):
    service, groups = edge
    release = {"version": "1.2.0", "release": "4-1.2.0"}
    settings = {
        name.removeprefix("preflight_"): value
        for name, value in yaml.safe_load((ROOT / "roles/preflight/defaults/main.yml").read_text()).items()
    } | {"uv": "uv", "max_connections": 500, "role_limit": 400, "wheel_tag": "", "check_packages": False}
    secrets = {item["key"]: "https://x.internal" for item in service["env"] if item["secret"]}
    used = set(service["dependencies"])
    assert contract.connections_required(service, 2)["required"] > 0
    for host in ADDRESSES:
        health_check.plan(preflight_plan.host_probes(service, groups, host, settings, secrets, 0.0), secrets)
        rules = topology.firewall_rules(service, groups, ADDRESSES, host)
        topology.firewall_probes(service, groups, ADDRESSES, host)
        assert {rule["why"] for rule in rules} & {"database", "broker", "cache"} <= used
    health_check.plan(preflight_plan.control_probes(service, groups, settings), secrets)
    reached = preflight_plan.dependency_probes(service, groups, ADDRESSES, secrets, 5)
    assert {probe["name"] for probe in reached} == used
    for slot in ("blue", "green"):
        health_check.plan([*check_plan.slot_probes(service, slot, release), *check_plan.start_probes(service, slot)], secrets)
        assert units.web_unit(service, slot)
    health_check.plan(check_plan.gateway_probes(service, release, "10.0.0.11", "/ca.crt"), secrets)
    unneeded = catalogue.not_applicable_in(service, [ROOT / "catalogue/any.yml", ROOT / "examples/lark-service/catalogue.yml"])
    assert ("prep.db.user" in unneeded) == ("database" not in used) and ("prep.queue.vhost" in unneeded) == ("broker" not in used)
    assert ("sec.secrets.not_in_vcs" in unneeded) == ("artefact" in service)


def test_what_roles_are_told_can_be_computed_at_the_edges_of_the_contract(edge, ansible_environment, tmp_path):
    """playbooks/vars/servers.yml, as Ansible templates it on the hosts that the contract needs."""
    service, groups = edge
    told = {"database": "postgresql_", "broker": "rabbitmq_", "cache": "redis_", "gateway": "gateway_"}
    names = yaml.safe_load((ROOT / "playbooks/vars/servers.yml").read_text())
    plays = [
        {"hosts": group, "gather_facts": False, "vars_files": [str(ROOT / "playbooks/vars/servers.yml")], "tasks": [
            {"ansible.builtin.debug": {"msg": {name: "{{ " + name + " }}" for name in names if name.startswith(prefix)}}}]}
        for group, prefix in told.items() if group in groups
    ]  # fmt: skip
    variables = {
        "deployment_contract": service, "deployment_addresses": ADDRESSES, "deployment_connections": 100, "ansible_connection": "local",
        **dict.fromkeys(("vault_postgresql_owner_password", "vault_postgresql_app_password", "vault_rabbitmq_password"), "of the vault"),
        "vault_redis_password": "of the vault",
    }  # fmt: skip
    inventory = {"all": {"vars": variables, "children": {group: {"hosts": dict.fromkeys(hosts)} for group, hosts in groups.items()}}}
    for name, content in (("book.yml", plays), ("hosts.yml", inventory)):
        (tmp_path / name).write_text(yaml.safe_dump(content))
    done = call(ansible_environment, "ansible-playbook", str(tmp_path / "book.yml"), "-i", str(tmp_path / "hosts.yml"))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert ("redis_addresses" in done.stdout) == ("cache" in service["dependencies"])


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


@pytest.mark.parametrize("folder", [".", "playbooks"])
def test_the_control_node_works_as_whoever_started_the_run(ansible_environment, tmp_path, folder):
    """An ordinary user has no sudo there, and an inventory's `ansible_become` is about its hosts."""
    (tmp_path / "hosts.yml").write_text("all: {hosts: {app1: {}}, vars: {ansible_become: true, ansible_become_user: nobody}}\n")
    task = ["localhost", "-i", str(tmp_path / "hosts.yml"), "--playbook-dir", folder, "-m", "command", "-a", "id -u"]
    done = call(ansible_environment, "ansible", *task, "-e", "ansible_become_exe=/nonexistent/sudo")
    assert done.returncode == 0 and str(os.getuid()) in done.stdout, done.stdout + done.stderr
