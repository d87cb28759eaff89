"""The modules service_contract and run_inputs as Ansible runs them: result, exit status, and what never shows."""

import importlib.util
import json
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args

ROOT = Path(__file__).resolve().parents[2]
CONTRACT = {
    "name": "example-service",
    "package": "example_service",
    "source": {"git": "https://git.example.internal/example.git", "ref": "v1.2.0"},
    "processes": [{"name": "web", "kind": "web", "command": "uvicorn example:app --port ${PORT}"}],
    "ports": {"blue": 8101, "green": 8102},
    "env": [{"key": "SIGNING_KEY", "type": "string", "secret": True}],
    "health": {},
    "gateway": {"server_names": ["example.staging.example.internal"]},
}
SECRET = "Sign-7Kq2Zx9Lm4-vW3"


@pytest.fixture
def run(capsys):
    """Runs a module in this process with arguments as Ansible passes them: (exit status, result, all it printed)."""

    def call(name, arguments, check=False):
        spec = importlib.util.spec_from_file_location(f"module_{name}", ROOT / "plugins" / "modules" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        with patch_module_args({**arguments, "_ansible_check_mode": check, "_ansible_verbosity": 4}), pytest.raises(SystemExit) as ended:
            module.main()
        printed = capsys.readouterr()
        return ended.value.code, json.loads(printed.out), printed.out + printed.err

    return call


def arguments(**changes):
    given = {
        "contract": CONTRACT,
        "secrets": {"vault_service_env": {"SIGNING_KEY": SECRET}},
        "groups": {"gateway": ["g1"], "app": ["a1", "a2"]},
        "schema": str(ROOT / "schemas" / "service.json"),
    }
    return {**given, **changes}


@pytest.mark.parametrize("check", [False, True])
def test_a_sound_contract_comes_back_with_its_defaults(run, check):
    status, result, printed = run("service_contract", arguments(), check)
    assert status == 0
    assert result["changed"] is False
    assert result["problems"] == []
    assert result["contract"]["pool_max"] == 10
    assert result["connections_required"] == result["connections"]["required"] == 50
    assert [record["id"] for record in result["evidence"]] == ["prep.isolation.database", "prep.services.inventory"]
    assert SECRET not in printed


def test_a_refused_contract_ends_with_exit_3_and_every_problem(run):
    bad = {**CONTRACT, "ports": {"blue": 8101, "green": 8101}, "surprise": 1}
    status, result, _ = run("service_contract", arguments(contract=bad, groups={"app": []}))
    assert status == 1
    assert result["failed"] is True
    assert result["greenroom_exit"] == 3
    assert {problem["path"] for problem in result["problems"]} >= {
        "service.surprise",
        "service.ports.green",
        "groups.app",
        "groups.gateway",
    }
    assert result["msg"].count("\n") == len(result["problems"])


@pytest.mark.parametrize("short", ["a", "in", "on", "app"])
def test_a_short_secret_neither_shows_nor_blanks_ordinary_words(run, short):
    status, result, printed = run("service_contract", arguments(secrets={"vault_service_env": {"SIGNING_KEY": short}}))
    assert status == 1
    assert "vault_service_env.SIGNING_KEY: is shorter than 8 characters" in result["msg"]
    assert "*****" not in printed
    assert "SIGNING_KEY" not in json.dumps(result["invocation"])


def test_a_secret_written_into_the_contract_does_not_show(run):
    env = [{"key": "SIGNING_KEY", "type": "string", "secret": True, "value": "geheim-7Kq2Zx9"}]
    status, result, printed = run("service_contract", arguments(contract={**CONTRACT, "env": env}))
    assert status == 1
    assert "must not stand in the contract" in result["msg"]
    assert "geheim" not in printed


@pytest.mark.parametrize("contract", [None, [], "text"])
def test_no_contract_at_all_is_refused(run, contract):
    status, result, _ = run("service_contract", arguments(contract=contract))
    assert status == 1
    assert result["greenroom_exit"] == 3


def test_a_schema_that_cannot_be_read_is_an_error(run):
    status, result, _ = run("service_contract", arguments(schema="/nowhere/service.json"))
    assert status == 1
    assert "cannot be read" in result["msg"]


def command_line(**changes):
    given = {
        "run_tags": ["all"], "selected_hosts": ["g1", "a1"], "groups": {"gateway": ["g1"], "app": ["a1"]}, "ansible_version": "2.19.14",
        "config_file": str(ROOT / "ansible.cfg"), "project_dir": str(ROOT),
    }  # fmt: skip
    return {**given, **changes}


def test_a_sound_command_line_says_what_will_run(run):
    status, result, _ = run("run_inputs", command_line(run_tags=["verify", "prepare"]))
    assert (status, result["phases"], result["changing"]) == (0, ["prepare", "verify"], True)


def test_check_mode_changes_nothing(run):
    status, result, _ = run("run_inputs", command_line(), check=True)
    assert (status, result["changing"]) == (0, False)


def test_a_bad_command_line_ends_with_exit_3(run):
    status, result, _ = run("run_inputs", command_line(run_tags=["verfy"], limit="a1", selected_hosts=["a1"], variables={"run_reff": "x"}))
    assert status == 1
    assert result["greenroom_exit"] == 3
    assert {problem["path"] for problem in result["problems"]} == {"--tags", "-e run_reff"}  # no known phase, so no fleet to split
