"""Every module says what it takes and gives: documentation equals argument spec, examples and return values are real."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path.stem for path in (ROOT / "plugins" / "modules").glob("*.py"))
PROMISED = [
    "health_check", "env_file_check", "release", "evidence", "service_contract", "run_inputs", "db_migrate", "migration_rehearsal",
    "backup_verify", "restore_drill",
]  # fmt: skip
# Keys that Ansible itself documents for every module.
COMMON = {"changed", "failed", "msg", "warnings", "deprecations", "invocation", "diff", "exception", "skipped", "rc", "stdout", "stderr"}
COMPARED = ("type", "elements", "required", "default", "choices", "aliases")


class Captured(BaseException):
    """Carries what a module hands to AnsibleModule; no `except Exception` of the module catches it."""


@pytest.mark.parametrize("name", PROMISED)
def test_promised_modules_are_there(name):
    assert name in MODULES


@pytest.fixture(scope="module")
def documented(ansible_environment):
    """{module: what ansible-doc says}, from one call for all of them."""
    command = ["ansible-doc", "-t", "module", "--json", *MODULES]
    done = subprocess.run(command, cwd=ROOT, env=ansible_environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def spec_of(name):
    """The arguments a module passes to AnsibleModule, caught on the way."""
    spec = importlib.util.spec_from_file_location(f"greenroom_module_{name}", ROOT / "plugins" / "modules" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Spy:
        def __init__(self, argument_spec, **options):
            raise Captured(argument_spec, options)

    assert hasattr(module, "AnsibleModule"), f"{name}: `from ansible.module_utils.basic import AnsibleModule` is expected"
    module.AnsibleModule = Spy
    try:
        module.main()
    except Captured as caught:
        return caught.args
    raise AssertionError(f"{name}.main() makes no AnsibleModule")


def compare(where, options, spec):
    """Differences between documented options and an argument spec, suboptions included."""
    differences = [
        f"{where}{key}: only in the {'documentation' if key in options else 'argument spec'}" for key in set(options) ^ set(spec)
    ]
    for key in set(options) & set(spec):
        stated, real = options[key], spec[key]
        for field in COMPARED:
            absent = {"type": "str", "required": False}.get(field)
            ours, theirs = real.get(field, absent), stated.get(field, absent)
            if field in ("choices", "aliases"):
                ours, theirs = list(ours or []), list(theirs or [])
            if ours != theirs:
                differences.append(f"{where}{key}: {field} is {theirs!r} in the documentation, {ours!r} in the argument spec")
        differences += compare(f"{where}{key}.", stated.get("suboptions") or {}, real.get("options") or {})
    return differences


@pytest.mark.parametrize("name", MODULES)
def test_documentation_equals_the_argument_spec(documented, name):
    spec, options = spec_of(name)
    doc = documented[name]["doc"]
    assert compare("", doc.get("options") or {}, spec) == []
    support = doc.get("attributes", {}).get("check_mode", {}).get("support")
    assert support in ("full", "partial", "none"), f"{name} does not say `attributes: check_mode: support:`"
    assert (support != "none") == bool(options.get("supports_check_mode")), f"{name}: check mode is documented as {support}"


@pytest.mark.parametrize("name", MODULES)
def test_options_that_hold_secrets_are_hidden(name):
    def walk(spec, where):
        for key, option in spec.items():
            named = any(word in key.lower() for word in ("password", "secret", "token", "passphrase", "private_key"))
            holds = named and option.get("type", "str") in ("str", "raw", "dict") and not key.endswith(("_key", "_file", "_path", "_dir"))
            assert not holds or option.get("no_log") is True, f"{name}: {where}{key} has no `no_log: True`"
            walk(option.get("options") or {}, f"{where}{key}.")

    walk(spec_of(name)[0], "")


@pytest.mark.parametrize("name", MODULES)
def test_examples_use_the_module_with_options_it_has(documented, name):
    tasks = yaml.safe_load(documented[name]["examples"])
    assert isinstance(tasks, list) and tasks
    used = [task[name] for task in tasks if name in task]
    assert used, f"no example calls {name}"
    spec, _ = spec_of(name)
    known = set(spec) | {alias for option in spec.values() for alias in option.get("aliases") or []}
    needed = {key for key, option in spec.items() if option.get("required")}
    for arguments in used:
        assert set(arguments) <= known, f"{name}: an example has unknown options {set(arguments) - known}"
        assert needed <= set(arguments), f"{name}: an example lacks {needed - set(arguments)}"


def literal_keys(tree):
    """Keys of the results a module builds: keywords of exit_json and fail_json, and keys of dicts that are passed on with **."""
    keys, passed = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("exit_json", "fail_json"):
            keys |= {keyword.arg for keyword in node.keywords if keyword.arg}
            for keyword in node.keywords:
                if keyword.arg is None and isinstance(keyword.value, ast.Name):
                    passed.add(keyword.value.id)
                elif keyword.arg is None and isinstance(keyword.value, ast.Dict):
                    keys |= {key.value for key in keyword.value.keys if isinstance(key, ast.Constant)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name) and target.id in passed and isinstance(node.value, ast.Dict):
                    keys |= {key.value for key in node.value.keys if isinstance(key, ast.Constant)}
                named = isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name) and target.value.id in passed
                if named and isinstance(target.slice, ast.Constant):
                    keys.add(target.slice.value)
        called = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "update"
        if called and isinstance(node.func.value, ast.Name) and node.func.value.id in passed:
            keys |= {keyword.arg for keyword in node.keywords if keyword.arg}
    return keys


@pytest.mark.parametrize("name", MODULES)
def test_return_documents_every_key_and_no_other(documented, name):
    stated = documented[name]["return"] or {}
    source = (ROOT / "plugins" / "modules" / f"{name}.py").read_text(encoding="utf-8")
    tree = ast.parse(source)
    given = literal_keys(tree)
    assert given - COMMON <= set(stated), f"{name}: RETURN lacks {sorted(given - COMMON - set(stated))}"
    library = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "plugins" / "module_utils").rglob("*.py"))
    body = source.split("AnsibleModule(", 1)[-1] + library
    for key, value in stated.items():
        assert {"description", "returned", "type"} <= set(value), f"{name}: RETURN of {key} is incomplete"
        assert key in given or f'"{key}"' in body or f"{key}=" in body, f"{name}: RETURN documents {key}, which nothing makes"


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_thin_and_import_only_what_ansible_ships(name):
    tree = ast.parse((ROOT / "plugins" / "modules" / f"{name}.py").read_text(encoding="utf-8"))
    for node in tree.body:
        names = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
        for imported in names:
            first = imported.split(".")[0]
            assert first in sys.stdlib_module_names or imported.startswith("ansible.module_utils."), f"{name} imports {imported} at its top"


# --- the checks above, seen red ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "spec", "words"),
    [
        ({"a": {"type": "str"}}, {}, "only in the documentation"),
        ({}, {"a": {}}, "only in the argument spec"),
        ({"a": {"type": "int"}}, {"a": {"type": "str"}}, "type is 'int'"),
        ({"a": {"type": "str", "default": 1}}, {"a": {}}, "default is 1"),
        ({"a": {"type": "str"}}, {"a": {"required": True}}, "required is False"),
        ({"a": {"type": "str", "choices": ["x"]}}, {"a": {"choices": ["x", "y"]}}, "choices is ['x']"),
        ({"a": {"type": "list", "elements": "str"}}, {"a": {"type": "list"}}, "elements is 'str'"),
        ({"a": {"type": "dict", "suboptions": {"b": {"type": "str"}}}}, {"a": {"type": "dict"}}, "a.b: only in the documentation"),
    ],
)
def test_the_comparison_sees_each_difference(options, spec, words):
    differences = compare("", options, spec)
    assert len(differences) == 1
    assert words in differences[0]


def test_the_search_for_returned_keys_sees_each_way_to_return_one():
    source = """
result = {"a": 1, "changed": False}
result["b"] = 2
result.update(c=3)
other = {"z": 1}
module.exit_json(d=4, **result)
module.fail_json(msg="x", **{"e": 5})
"""
    assert literal_keys(ast.parse(source)) == {"a", "b", "c", "d", "e", "msg", "changed"}
