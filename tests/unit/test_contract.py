"""The service contract: schema and rules. Each kind of bad input is seen red, with path, message and a fix."""

import copy
import json
import re

import pytest
from ansible.module_utils.greenroom import contract
from ansible.module_utils.greenroom.problems import Places

ENV = [
    {"key": "LOG_LEVEL", "type": "enum", "choices": ["DEBUG", "INFO"], "value": "INFO"},
    {"key": "DATABASE_URL", "type": "url", "secret": True},
    {"key": "AMQP_URL", "type": "url", "secret": True},
]
BASE = {
    "name": "example-service",
    "package": "example_service",
    "source": {"git": "https://git.example.internal/example.git", "ref": "v1.2.0"},
    "processes": [
        {"name": "web", "kind": "web", "command": "uvicorn example:app --port ${PORT}"},
        {"name": "worker", "kind": "worker", "command": "example-worker", "count": 2},
        {"name": "refresh", "kind": "scheduled", "command": "example-cli refresh", "every": "60s"},
    ],
    "ports": {"blue": 8101, "green": 8102},
    "metrics": {"ports": {"blue": 9090, "green": 9091}},
    "env": ENV,
    "dependencies": {
        "database": {"name": "example_staging", "owner": "example_owner", "user": "example_app", "url_key": "DATABASE_URL"},
        "broker": {"vhost": "/example-staging", "user": "example", "url_key": "AMQP_URL"},
    },
    "health": {},
    "migration": {"tool": "alembic"},
    "gateway": {"server_names": ["example.staging.internal"]},
}
GROUPS = {"gateway": ["g1"], "app": ["a1", "a2"], "database": ["d1"], "broker": ["d1"], "restore": ["m1"]}
MISSING = object()
ARTEFACT = {"archive": "archives/example-1.2.0.tar.gz", "sha256": "d" * 64, "version": "1.2.0"}


def changed(path, value, base=BASE):
    """A copy of the contract with the value at `path` set, or removed (MISSING); path: dots and numbers."""
    made = copy.deepcopy(base)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    node = made
    for part in parents:
        node = node[part]
    if value is MISSING:
        del node[last]
    else:
        node[last] = value
    return made


def test_a_prebuilt_archive_takes_the_place_of_a_repository():
    for archive in ("/srv/x.tar.gz", "x y.tar.gz", "~/x.tar.gz", "https://files.example.internal:8443/a/x.tar.gz"):
        made = {**changed("source", MISSING), "artefact": {**ARTEFACT, "archive": archive}}
        assert problems_of(made, groups=GROUPS) == []
    assert "source" not in contract.normalized(made)


def test_an_installed_cache_has_a_port_of_its_own_on_its_host():
    made = changed("dependencies.cache", {"mode": "installed", "url_key": "CACHE_URL", "port": 5671})
    made["env"] = [*ENV, {"key": "CACHE_URL", "type": "url", "secret": True}]
    (problem,) = problems_of(made, groups={**GROUPS, "cache": ["d1"]})
    assert problem["path"] == "service.dependencies.cache.port" and "dependencies.broker.port" in problem["message"]
    assert problems_of(made, groups={**GROUPS, "cache": ["c1"]}) == []


def problems_of(value, **context):
    return contract.validate(value, **context)


def test_a_sound_contract_has_no_problems():
    assert problems_of(BASE, groups=GROUPS) == []


BAD = [
    # a missing, unknown or malformed variable
    ("name", MISSING, "service.name", "missing"),
    ("processes", MISSING, "service.processes", "missing"),
    ("source.ref", MISSING, "service.source.ref", "missing"),
    ("health", MISSING, "service.health", "missing"),
    ("helth", {}, "service.helth", "did you mean health?"),
    ("source.branch", "main", "service.source.branch", "not a key"),
    ("processes.0.comand", "x", "service.processes[0].comand", "did you mean command?"),
    ("name", "Example Service", "service.name", "malformed"),
    ("name", "example-service\n", "service.name", "malformed"),
    ("name", "a" * 29, "service.name", "28 characters"),
    ("name", "postgres", "service.name", "system uses itself"),
    ("name", "greenroom", "service.name", "system uses itself"),
    ("environment", "Staging!", "service.environment", "malformed"),
    ("package", "example-service", "service.package", "malformed"),
    ("source.ref", "v1..2", "service.source.ref", "malformed"),
    ("source.ref", "v1 2", "service.source.ref", "malformed"),
    ("source.ref", "v1;reboot", "service.source.ref", "malformed"),
    ("source.ref", "$(reboot)", "service.source.ref", "malformed"),
    ("source.git", "--upload-pack=x", "service.source.git", "malformed"),
    ("source.lock", "../requirements.txt", "service.source.lock", "malformed"),
    ("python", "3.11", "service.python", "malformed"),
    ("ports", {"blue": 8101}, "service.ports.green", "missing"),
    ("ports.blue", "8101", "service.ports.blue", "must be integer, but is a text"),
    ("ports.blue", 80, "service.ports.blue", "at least 1024"),
    ("ports.blue", 70000, "service.ports.blue", "at most 65535"),
    ("pool_max", 0, "service.pool_max", "at least 1"),
    ("pool_max", True, "service.pool_max", "must be integer, but is a boolean"),
    ("keep_releases", 1, "service.keep_releases", "at least 3"),
    ("stateless", "yes", "service.stateless", "must be boolean, but is a text"),
    ("health", {"path": "health"}, "service.health.path", "malformed"),
    ("gateway.server_names", [], "service.gateway.server_names", "at least 1"),
    ("gateway.server_names", ["a b"], "service.gateway.server_names[0]", "malformed"),
    ("gateway.headers", {"X-A": "a\nServer: b"}, "service.gateway.headers.X-A", "malformed"),
    ("gateway.headers", {"X-A": "$host"}, "service.gateway.headers.X-A", "malformed"),
    ("gateway.headers", {"X A": "b"}, "service.gateway.headers", "malformed"),
    ("gateway.body_limit", "1 MB", "service.gateway.body_limit", "malformed"),
    ("tests", {}, "service.tests.unit", "missing"),
    ("migration.tool", "flyway", "service.migration.tool", "none of the known values"),
    ("source", MISSING, "service.source", "there is no `artefact` either"),
    ("artefact", ARTEFACT, "service.artefact", "given beside `source`"),
    ("artefact", {**ARTEFACT, "archive": "http://files.internal/x.tar.gz"}, "service.artefact.archive", "malformed"),
    ("artefact", {**ARTEFACT, "archive": "https://user:geheim@files.internal/x.tar.gz"}, "service.artefact.archive", "malformed"),
    ("artefact", {**ARTEFACT, "archive": "https://files.internal/x.tar.gz?token=geheim"}, "service.artefact.archive", "malformed"),
    ("artefact", {**ARTEFACT, "sha256": "d" * 63}, "service.artefact.sha256", "malformed"),
    ("artefact", {**ARTEFACT, "version": "1..2"}, "service.artefact.version", "malformed"),
    ("artefact", {**ARTEFACT, "version": "1.2;reboot"}, "service.artefact.version", "malformed"),
    ("artefact", {"archive": "x.tar.gz", "version": "1.2.0"}, "service.artefact.sha256", "missing"),
    ("dependencies.cache", {"mode": "rented", "url_key": "X"}, "service.dependencies.cache.mode", "none of the known values"),
    ("dependencies.cache", {"mode": "installed", "url_key": "LOG_LEVEL"}, "service.dependencies.cache.url_key", "secret of type url"),
    ("dependencies.cache", {"mode": "installed", "url_key": "AMQP_URL"}, "groups.cache", "at least 1"),
    ("dependencies.kafka", {}, "service.dependencies.kafka", "not a key"),
    ("catalogue", "/etc/passwd", "service.catalogue", "malformed"),
    ("contacts", None, "service.contacts", "must be array, but is empty"),
    # processes
    ("processes", [], "service.processes", "at least 1"),
    ("processes.0.kind", "worker", "service.processes", "exactly one process must be of kind web, there is none"),
    ("processes.1", {"name": "api", "kind": "web", "command": "api ${PORT}"}, "service.processes", "there are 2: web, api"),
    ("processes.0.kind", "server", "service.processes[0].kind", "none of the known values"),
    ("processes.0.name", "Web", "service.processes[0].name", "malformed"),
    ("processes.1.name", "web", "service.processes[1].name", "would also be that of process web"),
    ("processes.2.name", "worker-2", "service.processes[2].name", "would also be that of process worker"),
    ("processes.1.name", "slot-agent", "service.processes[1].name", "the slot agent"),
    ("processes.2.every", MISSING, "service.processes[2].every", "is missing: refresh is scheduled"),
    ("processes.2.every", "soon", "service.processes[2].every", "malformed"),
    ("processes.1.every", "60s", "service.processes[1].every", "runs all the time"),
    ("processes.0.count", 2, "service.processes[0].count", "one copy"),
    ("processes.0.command", "x\nExecStartPost=y", "service.processes[0].command", "malformed"),
    ("processes.0.command", "uvicorn x --port 8101", "service.processes[0].command", "port 8101 is written out"),
    ("processes.0.command", "gunicorn x -b 0.0.0.0:8000", "service.processes[0].command", "port 8000 is written out"),
    ("processes.0.command", "gunicorn x --bind=[::]:8000", "service.processes[0].command", "port 8000 is written out"),
    ("processes.0.command", "uvicorn x --port ${PROT}", "service.processes[0].command", "did you mean PORT?"),
    ("processes.0.command", "x ${PORT} ${DATABASE_URL}", "service.processes[0].command", "process list"),
    # ports
    ("ports.green", 8101, "service.ports.green", "also that of service.ports.blue"),
    ("metrics.ports.green", 9090, "service.metrics.ports.green", "also that of service.metrics.ports.blue"),
    ("metrics.ports.blue", 8102, "service.metrics.ports.blue", "also that of service.ports.green"),
    ("gateway.https_port", 8079, "service.gateway.https_port", "internal address"),
    # env
    ("env.1.key", "LOG_LEVEL", "service.env[1].key", "already entry 0"),
    ("env.0.key", "LOG-LEVEL", "service.env[0].key", "malformed"),
    ("env.0.key", "PORT", "service.env[0].key", "set by Greenroom"),
    ("env.0.key", "GREENROOM_SLOT", "service.env[0].key", "set by Greenroom"),
    ("env.0.type", "text", "service.env[0].type", "none of the known values"),
    ("env.0.choices", MISSING, "service.env[0].choices", "enum"),
    ("env.0.value", MISSING, "service.env[0].value", "has no value"),
    ("env.0.value", "https://user:geheim@host/", "service.env[0].value", "holds a password"),
    ("env.1.value", "postgresql://u:geheim@h/d", "service.env[1].value", "must not stand in the contract"),
    ("env.0", {"key": "N", "type": "integer", "value": 1, "minimum": 5, "maximum": 2}, "service.env[0].minimum", "above maximum"),
    ("env.0", {"key": "N", "type": "string", "value": "x", "pattern": "("}, "service.env[0].pattern", "no regular expression"),
    ("env.0.value", "LOUD", "service.env[0].value", "one of DEBUG, INFO"),
    ("env.0", {"key": "N", "type": "integer", "value": "ten"}, "service.env[0].value", "a whole number"),
    ("env.0", {"key": "N", "type": "integer", "value": "9", "maximum": 8}, "service.env[0].value", "8 or less"),
    ("env.0", {"key": "N", "type": "url", "value": "nowhere"}, "service.env[0].value", "an address"),
    ("env.0", {"key": "N", "type": "string", "value": "a\nB=1"}, "service.env[0].value", "line break"),
    ("env.0", {"key": "N", "type": "string", "value": "<your name>"}, "service.env[0].value", "placeholder"),
    ("env.0", {"key": "N", "type": "string", "value": "x1", "pattern": "[a-z]+"}, "service.env[0].value", "does not match"),
    # functional checks
    ("checks", [{"id": "verify.api.basic"}], "service.checks[0].type", "missing"),
    ("checks", [{"id": "Verify", "type": "http"}], "service.checks[0].id", "malformed"),
    ("checks", [{"id": "verify.api.basic", "type": "htpp"}], "service.checks[0]", "unknown type"),
    ("checks", [{"id": "verify.api.basic", "type": "http", "path": "/", "statsu": 200}], "service.checks[0]", "statsu: unknown"),
    ("checks", [{"id": "verify.api.basic", "type": "http"}], "service.checks[0]", "path: missing"),
    ("checks", [{"id": "verify.api.basic", "type": "http", "path": "/", "bearer_key": "KEY"}], "service.checks[0]", "KEY"),
    # dependencies
    ("dependencies.database.mode", "provided", "service.dependencies.database.host", "mode is provided"),
    ("dependencies.database.host", "db.internal", "service.dependencies.database.host", "mode is installed"),
    ("dependencies.database.user", "example_owner", "service.dependencies.database.user", "also the owner"),
    ("dependencies.database.name", "x; DROP", "service.dependencies.database.name", "malformed"),
    ("dependencies.database.url_key", "DATABASE_ULR", "service.dependencies.database.url_key", "did you mean DATABASE_URL?"),
    ("dependencies.broker.url_key", "LOG_LEVEL", "service.dependencies.broker.url_key", "not declared as a secret"),
    ("dependencies.cache", {"url_key": "REDIS_URL"}, "service.dependencies.cache.url_key", "not declared in `env`"),
    # statements of people
    ("not_applicable", {"sec.cors": ""}, "service.not_applicable.sec.cors", "no reason"),
    ("not_applicable", {"sec.cors": "n/a"}, "service.not_applicable.sec.cors", "no reason"),
    ("not_applicable", {"sec.cors": "[reason]"}, "service.not_applicable.sec.cors", "no reason"),
    ("contacts", [{"role": "technical", "name": "[name]", "reach": "+1"}], "service.contacts[0].name", "placeholder"),
    ("contacts", [{"role": "technical", "name": "A", "reach": "TODO"}], "service.contacts[0].reach", "placeholder"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "where", "words"), BAD)
def test_bad_contract_is_refused_with_path_and_fix(path, value, where, words):
    found = problems_of(changed(path, value), groups=GROUPS)
    matching = [problem for problem in found if problem["path"] == where and words in problem["message"] + problem["fix"]]
    assert matching, found
    assert matching[0]["fix"].strip()
    assert "geheim" not in json.dumps(found)


def test_a_functional_check_may_name_a_secret_and_the_base_url():
    good = [
        {"id": "verify.api.basic", "type": "http", "path": "/v1", "bearer_key": "DATABASE_URL", "json": {"ok": True}},
        {"id": "verify.api.basic", "type": "http", "url": "{base_url}/v1/x", "status": [200, 204]},
    ]
    assert problems_of(changed("checks", good)) == []


def test_migration_needs_a_database():
    found = problems_of(changed("dependencies", {}))
    assert [problem["path"] for problem in found] == ["service.migration"]


@pytest.mark.parametrize("value", [None, [], "x"])
def test_a_contract_that_is_no_mapping_is_refused(value):
    found = problems_of(value, groups=GROUPS, secrets={}, markers={"hosts": ["x"]})
    assert "service" in [problem["path"] for problem in found]


def test_all_problems_come_at_once():
    bad = changed("name", "Bad Name", changed("ports.green", 8101, changed("env.0.value", MISSING)))
    assert {problem["path"] for problem in problems_of(bad, groups={**GROUPS, "app": []})} == {
        "service.name", "service.ports.green", "service.env[0].value", "groups.app",
    }  # fmt: skip


def test_ports_of_parts_on_one_host_must_not_collide():
    bad = changed("ports.blue", 5432)
    assert problems_of(bad, groups=GROUPS) == []
    found = problems_of(bad, groups={**GROUPS, "app": ["d1"]})
    assert [problem["path"] for problem in found] == ["service.dependencies.database.port"]


def test_metrics_may_be_served_by_the_web_listener():
    assert problems_of(changed("metrics.ports", BASE["ports"])) == []


HOSTS = [
    ({"app": []}, "groups.app", "has 0 hosts, but the contract needs at least 1"),
    ({"gateway": []}, "groups.gateway", "exactly 1"),
    ({"gateway": ["g1", "g2"]}, "groups.gateway", "g1, g2"),
    ({"database": []}, "groups.database", "mode: provided"),
    ({"broker": []}, "groups.broker", "mode: provided"),
    ({"restore": ["d1"]}, "groups.restore", "could overwrite live data"),
]


@pytest.mark.parametrize(("groups", "where", "words"), HOSTS)
def test_an_inventory_that_lacks_what_the_contract_needs_is_refused(groups, where, words):
    found = problems_of(BASE, groups={**GROUPS, **groups})
    assert [problem["path"] for problem in found] == [where]
    assert words in found[0]["text"]


def test_groups_that_the_contract_does_not_need_may_be_empty():
    provided = changed("dependencies.database", {**BASE["dependencies"]["database"], "mode": "provided", "host": "db.internal"})
    provided["dependencies"].pop("broker")
    assert problems_of(provided, groups={"gateway": ["g1"], "app": ["a1"]}) == []


def test_one_machine_under_two_names_is_refused():
    found = problems_of(BASE, groups=GROUPS, addresses={"a1": "10.0.0.1", "a2": "10.0.0.1"})
    assert [problem["path"] for problem in found] == ["groups.app"]


def test_normalized_fills_every_default_and_nothing_else():
    full = contract.normalized(BASE)
    assert full["health"]["start_limit_s"] == 120
    assert full["source"]["lock"] == "requirements.txt"
    assert [process["count"] for process in full["processes"]] == [1, 2, 1]
    assert "every" not in full["processes"][0]
    assert full["metrics"]["path"] == "/metrics"
    assert full["dependencies"]["database"]["port"] == 5432
    assert full["env"][0]["secret"] is False
    assert len(full["hooks"]) == 12 and set(map(tuple, full["hooks"].values())) == {()}
    assert "tests" not in full
    assert "cache" not in full["dependencies"]
    assert contract.normalized(full) == full
    assert "count" not in BASE["processes"][0]
    assert problems_of(full, groups=GROUPS) == []


def test_every_default_and_example_satisfies_its_own_schema():
    from jsonschema import Draft202012Validator

    schema = contract.load_schema()
    Draft202012Validator.check_schema(schema)
    seen = 0

    def walk(node):
        nonlocal seen
        if isinstance(node, dict):
            full = {**contract.resolve(node, schema), "$defs": schema["$defs"]}
            for value in [*node.get("examples", []), *([node["default"]] if "default" in node else [])]:
                Draft202012Validator(full).validate(value)
                seen += 1
            for child in node.values():
                walk(child)
        elif isinstance(node, list):
            for child in node:
                walk(child)

    walk(schema)
    assert seen > 100


def test_connections_are_slots_times_hosts_times_processes_times_pool_and_the_rest():
    figures = contract.connections_required(contract.normalized(BASE), 3)
    assert figures == {
        "required": 252,
        "slots": 2,
        "hosts": 3,
        "processes": 4,
        "pool_max": 10,
        "application": 240,
        "migration": 2,
        "reserve": 10,
    }
    without = contract.normalized(changed("migration", MISSING))
    assert contract.connections_required(without, 1)["required"] == 90


def test_messages_name_file_and_line(tmp_path):
    folder = tmp_path / "inventories" / "staging" / "group_vars" / "all"
    folder.mkdir(parents=True)
    (tmp_path / "inventories" / "staging" / "hosts.yml").write_text("all: {}\n")
    text = "# the contract\nservice:\n  name: Bad Name\n  processes:\n    - name: web\n      kind: web\n      comand: x\n"
    (folder / "service.yml").write_text(text)
    (folder / "vault.yml").write_text("$ANSIBLE_VAULT;1.1;AES256\n6162\n")
    inventory = tmp_path / "inventories" / "staging"
    bad = {"name": "Bad Name", "processes": [{"name": "web", "kind": "web", "comand": "x"}]}
    texts = {problem["path"]: problem["text"] for problem in problems_of(bad, inventory_dir=inventory)}
    service = "inventories/staging/group_vars/all/service.yml"
    assert texts["service.name"].startswith(f"{service}:3: service.name: is malformed. ")
    assert texts["service.processes[0].comand"].startswith(f"{service}:7: ")
    assert texts["service.processes[0].command"].startswith(f"{service}:5: ")
    assert texts["service.ports"].startswith(f"{service}:2: ")
    places = Places(inventory)
    assert places.find("vault_service_env.KEY") == ("inventories/staging/group_vars/all/vault.yml", None)
    assert places.find("groups.app") == ("inventories/staging/hosts.yml", None)
    assert places.find("production_markers.hosts") == (None, None)
    assert Places(None).find("service.name") == (None, None)


def test_evidence_says_what_was_compared():
    def isolation(value, markers):
        problems = problems_of(value, markers=markers)
        return contract.evidence(value, markers, problems)[0]

    assert isolation(BASE, {"databases": ["example"]})["status"] == "pass"
    assert isolation(BASE, {"databases": ["example_staging"]})["status"] == "fail"
    assert isolation(BASE, {"databases": []})["status"] == "no_evidence"
    assert isolation(BASE, None)["status"] == "no_evidence"
    assert isolation(changed("dependencies", {}, changed("migration", MISSING)), None)["status"] == "not_applicable"
    assert isolation(changed("dependencies.database.name", MISSING), {"databases": ["x"]})["status"] == "fail"
    assert contract.evidence([], None, []) == []
    stated = contract.evidence(BASE, None, [])[1]
    assert stated["status"] == "pass"
    assert re.search(r"web \(web\).*broker \(installed\)", stated["observed"])
    assert contract.evidence(BASE, None, problems_of({}))[1]["status"] == "fail"
