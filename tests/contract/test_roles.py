"""Every role states its variables once, and states them truly: argument specs equal defaults, in names and in values."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir()) if (ROOT / "roles").is_dir() else []
# What the design promises for this version; a role that is missing is a red test, not a shorter list.
PROMISED = ["host_base", "preflight", "postgresql", "rabbitmq", "gateway", "app_release", "db_migration"]
SHARED = ("service", "production_markers", "run_", "vault_", "greenroom_")  # variables that no role owns
TYPES = {"str": str, "path": str, "int": int, "float": (int, float), "bool": bool, "list": list, "dict": dict, "raw": object}


@pytest.mark.parametrize("role", PROMISED)
def test_promised_roles_are_there(role):
    assert role in ROLES


def specs_of(load, role):
    file = ROOT / "roles" / role / "meta" / "argument_specs.yml"
    assert file.is_file(), f"roles/{role}/meta/argument_specs.yml is missing"
    return load(file)["argument_specs"]


@pytest.mark.parametrize("role", ROLES)
def test_argument_specs_equal_defaults(load, role):
    file = ROOT / "roles" / role / "defaults" / "main.yml"
    assert file.is_file(), f"roles/{role}/defaults/main.yml is missing; a role without defaults has an empty one"
    defaults = load(file) or {}
    stated = {}
    for entry, spec in specs_of(load, role).items():
        for name, option in (spec.get("options") or {}).items():
            assert option.get("description"), f"{role}.{entry}.{name} has no description"
            if "default" in option:
                assert not option.get("required"), f"{role}.{entry}.{name} is required and has a default"
                assert stated.setdefault(name, option["default"]) == option["default"], f"{role}.{name} has two defaults in argument_specs"
            else:
                assert option.get("required"), f"{role}.{entry}.{name} needs `required: true` or a default that defaults/main.yml has too"
    assert stated == defaults, f"roles/{role}: argument_specs and defaults differ"


@pytest.mark.parametrize("role", ROLES)
def test_variables_carry_the_roles_name_and_their_type(load, role):
    for entry, spec in specs_of(load, role).items():
        for name, option in (spec.get("options") or {}).items():
            assert name.startswith((f"{role}_", *SHARED)), f"{role}.{entry}: {name} must begin with {role}_"
            value = option.get("default")
            templated = isinstance(value, str) and "{{" in value
            if value is not None and not templated:
                kind = option.get("type", "str")
                assert isinstance(value, TYPES[kind]), f"{role}.{entry}.{name}: {value!r} is no {kind}"
                assert kind == "bool" or value is not True, f"{role}.{entry}.{name}: {value!r} is no {kind}"


@pytest.mark.parametrize("role", ROLES)
def test_entry_points_of_the_specs_are_task_files(load, role):
    for entry in specs_of(load, role):
        assert (ROOT / "roles" / role / "tasks" / f"{entry}.yml").is_file(), f"roles/{role}/tasks/{entry}.yml is missing"


@pytest.mark.parametrize("role", [role for role in ROLES if role != "sandbox"])
def test_roles_prove_what_they_made(role):
    assert (ROOT / "roles" / role / "tasks" / "verify.yml").is_file(), f"roles/{role}/tasks/verify.yml is missing"


@pytest.mark.parametrize("role", PROMISED)
def test_roles_have_a_molecule_scenario(role):
    converges = [file for file in ROOT.glob("molecule/*/*.yml") if role in file.read_text(encoding="utf-8")]
    assert converges, f"no molecule scenario runs the role {role}"
