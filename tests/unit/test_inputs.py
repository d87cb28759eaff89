"""The command line: tags, limits, variables, version and configuration that are refused, and the phases a run selects."""

import pytest
from ansible.module_utils.greenroom import contract, inputs

CONTRACT = {"dependencies": {"database": {"mode": "installed"}, "broker": {"mode": "provided"}}}
GROUPS = {"gateway": ["g"], "app": ["a1", "a2"], "database": ["d"], "broker": ["b"], "monitoring": ["m"]}
GOOD = {
    "run_tags": ["all"], "skip_tags": [], "limit": None, "selected_hosts": ["g", "a1", "a2", "d", "b", "m"], "groups": GROUPS,
    "contract": CONTRACT, "variables": {}, "ansible_version": "2.19.14",
}  # fmt: skip


@pytest.fixture
def check(tmp_path):
    config = tmp_path / "ansible.cfg"
    config.write_text("")

    def run(**changes):
        given = {**GOOD, "config_file": str(config), "project_dir": str(tmp_path), **changes}
        return {problem["path"]: problem for problem in inputs.check(**given)}

    return run


def test_a_sound_command_line_has_no_problems(check):
    assert check() == {}
    assert check(run_tags=["verify", "prepare"], skip_tags=["database"]) == {}
    variables = {"run_ref": "release/v1.2.0+1", "run_id": "20260101", "run_retry_bad": True, "run_reason": "hot fix für X"}
    assert check(variables=variables) == {}


BAD = [
    ({"run_tags": ["verfy"]}, "--tags", "did you mean verify?"),
    ({"run_tags": ["verify", "postgresql"]}, "--tags", "'postgresql' is no tag"),
    ({"run_tags": ["never"]}, "--tags", "'never' is no tag"),
    ({"run_tags": ["untagged"]}, "--tags", "'untagged' is no tag"),
    ({"run_tags": ["always"]}, "--tags", "nothing is left"),
    ({"skip_tags": ["all"]}, "--tags", "nothing is left"),
    ({"run_tags": ["verify"], "skip_tags": ["verify"]}, "--tags", "nothing is left"),
    ({"skip_tags": ["databse"]}, "--skip-tags", "did you mean database?"),
    ({"skip_tags": ["always"]}, "--skip-tags", "would skip the checks"),
    ({"variables": {"run_ref": "v1"}, "contract": {**CONTRACT, "artefact": {}}}, "-e run_ref", "prebuilt archive, which has no other refs"),
    ({"limit": "app1", "selected_hosts": ["a1"]}, "--limit", "g (gateway), a2 (app), d (database)"),
    ({"limit": "!monitoring", "selected_hosts": ["g", "a1", "a2", "d"]}, "--limit", "m (monitoring)"),
    ({"limit": "x", "selected_hosts": ["a1"], "run_tags": ["verify"]}, "--limit", "fleet would be split"),
    ({"limit": "x", "selected_hosts": ["a1"], "run_tags": ["prepare", "release"]}, "--limit", "which release would need"),
    ({"limit": "x", "selected_hosts": ["g", "a1"], "contract": None}, "--limit", "a2 (app)"),
    ({"variables": {"run_reff": "x"}}, "-e run_reff", "did you mean run_ref?"),
    ({"variables": {"run_force": "x"}}, "-e run_force", "is not known"),
    ({"variables": {"run_ref": "../x"}}, "-e run_ref", "malformed"),
    ({"variables": {"run_ref": "v1 ; reboot"}}, "-e run_ref", "malformed"),
    ({"variables": {"run_ref": "v1\n"}}, "-e run_ref", "malformed"),
    ({"variables": {"run_ref": "--upload-pack=x"}}, "-e run_ref", "malformed"),
    ({"variables": {"run_ref": ""}}, "-e run_ref", "malformed"),
    ({"variables": {"run_retry_bad": "maybe"}}, "-e run_retry_bad", "malformed"),
    ({"variables": {"run_reason": "a\nb"}}, "-e run_reason", "malformed"),
    ({"ansible_version": "2.18.1"}, "ansible", "2.18.1"),
    ({"ansible_version": "2.20.0"}, "ansible", "2.20.0"),
    ({"config_file": None}, "ansible.cfg", "in force is none"),
    ({"config_file": "/etc/ansible/ansible.cfg"}, "ansible.cfg", "/etc/ansible/ansible.cfg"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "where", "words"), BAD)
def test_bad_command_lines_are_refused(check, changes, where, words):
    found = check(**changes)
    assert list(found) == [where]
    assert words in found[where]["text"]
    assert found[where]["fix"]


def test_all_problems_come_at_once(check):
    assert set(check(run_tags=["x"], variables={"run_x": 1}, ansible_version="2.9", config_file=None)) == {
        "--tags",
        "-e run_x",
        "ansible",
        "ansible.cfg",
    }


def test_a_limit_that_keeps_what_is_needed_is_let_through(check):
    assert check(limit="!broker", selected_hosts=["g", "a1", "a2", "d", "m"]) == {}  # the broker is provided
    assert check(limit="app1", selected_hosts=["a1"], run_tags=["prepare"]) == {}


@pytest.mark.parametrize(
    ("tags", "skip", "phases"),
    [
        (["all"], [], list(inputs.PHASES)),
        ([], [], list(inputs.PHASES)),
        (["tagged"], ["protect"], list(inputs.PHASES[:-1])),
        (["verify", "prepare"], [], ["prepare", "verify"]),
        (["always"], [], []),
        (["all"], ["tagged"], []),
    ],
)
def test_phases_are_selected_as_ansible_does(tags, skip, phases):
    assert inputs.selected_phases(tags, skip) == phases


def test_needed_groups_are_those_of_the_contract():
    from ansible.module_utils.greenroom.contract_rules import needed_groups

    assert set(needed_groups(contract.normalized(CONTRACT))) == {"gateway", "app", "database"}


@pytest.mark.parametrize(
    ("phases", "wanted"),
    [
        (["verify"], ["prepare", "release", "database", "configure"]),
        (["prepare"], []),
        (["release", "configure"], ["prepare", "database"]),
        ([], []),
    ],
)
def test_what_comes_before_and_is_left_out_is_named(phases, wanted):
    assert inputs.left_out(phases) == wanted
