"""Hooks of the contract, run by Ansible on the control node: environment, order, what a failing one stops, and that no secret shows."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PHASES = ("prepare", "release", "database", "configure", "verify")
HOOKS = [f"{moment}_{phase}" for phase in PHASES for moment in ("before", "after")]
SECRET = "s3cret/7Kq2Zx9Lm4 &é"
VAULT = {"vault_service_env": {"API_KEY": SECRET}, "vault_postgresql_app_password": "another-7Kq2Zx9Lm4"}
TELL = """#!/bin/sh
echo "$1 $GREENROOM_HOOK $GREENROOM_SERVICE $GREENROOM_ENVIRONMENT $GREENROOM_RELEASE $GREENROOM_VERSION $(id -u) $PWD" >> "$TOLD"
"""
# Prints a secret in the forms that tools print one in, then ends with status 7.
FAIL = f"""#!/usr/bin/env python3
import json, sys, urllib.parse
print("asking the pager"); print({SECRET!r}, urllib.parse.quote({SECRET!r}, safe=""), json.dumps({SECRET!r}), file=sys.stderr)
print("the pager said no"); sys.exit(7)
"""


@pytest.fixture
def site(tmp_path):
    """Runs a playbook with hooks as a deploy does: site(playbook, hooks, *arguments) -> (status, output, what the hooks told)."""
    told = tmp_path / "told"
    for name, text in (("tell", TELL), ("fail", FAIL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    inventory = tmp_path / "hosts.yml"
    here = {"ansible_connection": "local", "ansible_become": False}
    inventory.write_text(yaml.safe_dump({"all": {"vars": here, "children": {
        "app": {"hosts": {"app1": {}, "app2": {}}}, "gateway": {"hosts": {"gateway1": {}}}}}}))  # fmt: skip

    def run(playbook, hooks, *arguments):
        variables = {
            "deployment_contract": {"name": "example", "environment": "testing", "hooks": {**{hook: [] for hook in HOOKS}, **hooks}},
            "deployment_release": {"version": "1.2.0"}, "deployment_name": "4-1.2.0", "deployment_noop": False,
            "deployment_phases": list(PHASES), "deployment_slot": "blue", **VAULT,
        }  # fmt: skip
        (tmp_path / "variables.json").write_text(json.dumps(variables))
        environment = {
            **os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "NO_COLOR": "1", "ANSIBLE_FORCE_COLOR": "0", "TOLD": str(told),
            "GREENROOM_REPORTS": str(tmp_path / "reports"), "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}",
        }  # fmt: skip
        done = subprocess.run(
            ["ansible-playbook", str(playbook), "-i", str(inventory), "-e", f"@{tmp_path / 'variables.json'}", *arguments], cwd=ROOT,
            env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        output = done.stdout + done.stderr
        assert "7Kq2Zx9Lm4" not in output, "a secret is shown"
        return done.returncode, output, told.read_text().splitlines() if told.exists() else []

    return run


@pytest.fixture
def every_hook(tmp_path):
    """A playbook that runs the hooks of all phases in their order, and tells when it got to its end."""
    role = {"ansible.builtin.include_role": {"name": "deployment", "tasks_from": "run_hooks"}}
    tasks = [{"name": f"Run {hook}", **role, "vars": {"deployment_hook": hook}} for hook in HOOKS]
    end = {"name": "The end", "ansible.builtin.debug": {"msg": "got to the end"}}
    book = tmp_path / "book.yml"
    book.write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "any_errors_fatal": True, "tasks": [*tasks, end]}]))
    return book


def test_hooks_of_every_phase_run_once_with_the_documented_environment(site, every_hook, tmp_path):
    hooks = {hook: [f"{tmp_path}/tell first", f'{tmp_path}/tell "second one"'] for hook in HOOKS}
    status, output, told = site(every_hook, hooks, "-vvv")
    assert status == 0, output[-3000:]
    end = f"testing 4-1.2.0 1.2.0 {os.getuid()} {ROOT}"
    assert told == [f"{which} {hook} example {end}" for hook in HOOKS for which in ("first", "second one")]


def test_nothing_runs_in_check_mode(site, every_hook, tmp_path):
    status, output, told = site(every_hook, {hook: [f"{tmp_path}/tell x"] for hook in HOOKS}, "--check")
    assert status == 0, output[-3000:]
    assert told == []


@pytest.mark.parametrize("phase", PHASES)
def test_a_failing_hook_stops_its_phase_by_name_and_with_its_output(site, phase, tmp_path):
    """The project's own playbook of the phase: its first step is the hook, and nothing comes after one that fails."""
    hooks = {f"before_{phase}": [f"{tmp_path}/tell good", f"{tmp_path}/fail", f"{tmp_path}/tell never"]}
    status, output, told = site(ROOT / "playbooks" / f"{phase}.yml", hooks, "-vv")
    assert status != 0
    assert [line.split()[:2] for line in told] == [["good", f"before_{phase}"]]
    said = " ".join(output.split())
    assert f"hook before_{phase}, command 2 of 3 ({tmp_path}/fail) ended with status 7" in said
    for words in ("asking the pager", "the pager said no", "***"):
        assert words in said
    ran = [line for line in output.splitlines() if line.startswith("TASK [")]
    assert "Run the hooks" in ran[-1], "the hook is the last thing that happened"
    report = next((tmp_path / "reports").glob("*/report.json"))
    found = report.read_text()
    assert json.loads(found)["verdict"] == "fail"
    assert f"before_{phase}" in found
    assert "7Kq2Zx9Lm4" not in found


def test_a_hook_after_verify_that_fails_leaves_the_confirmed_release(load_book):
    """It is no part of the block whose rescue takes users back."""
    switch = next(play for play in load_book("verify") if play["name"] == "The switch")
    (block, after) = switch["tasks"]
    assert "rescue" in block and after["vars"] == {"deployment_hook": "after_verify"}


@pytest.fixture
def load_book():
    return lambda phase: yaml.safe_load((ROOT / "playbooks" / f"{phase}.yml").read_text())


@pytest.mark.parametrize("phase", PHASES)
def test_hooks_after_a_phase_come_when_it_is_proven(load_book, phase):
    def steps(tasks):
        for task in tasks:
            yield from steps(task["block"]) if "block" in task else [task]

    listed = [task for play in load_book(phase) for task in steps([*play.get("pre_tasks", []), *play.get("tasks", [])])]
    hooks = [index for index, task in enumerate(listed) if "deployment_hook" in task.get("vars", {})]
    assert [listed[index]["vars"]["deployment_hook"] for index in hooks] == [f"before_{phase}", f"after_{phase}"]
    proof = next(index for index, task in enumerate(listed) if task.get("vars", {}).get("deployment_gate_phase") == phase)
    assert hooks[0] == 0 and hooks[1] == len(listed) - 1 > proof
