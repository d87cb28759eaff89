"""Catalogue and code agree: every id that is used exists, every id a gate requires is produced somewhere."""

import ast
import re
from pathlib import Path

import pytest
from ansible.module_utils.greenroom import catalogue as library
from ansible.module_utils.greenroom.inputs import PHASES

ROOT = Path(__file__).resolve().parents[2]
SERVICE_CATALOGUES = sorted(ROOT.glob("examples/*/catalogue.yml"))
# `id: a.b.c` and `…_id: a.b.c` in YAML; a part in {{ }} stands for anything.
YAML_ID = re.compile(r"""(?:\b|_)id['"]?:\s*['"]?([a-z][a-z0-9_]*(?:\.(?:[a-z0-9_]|\{\{[^}]*\}\})+)+)""")
FILE_ENDING = re.compile(r"\.(json|jsonl|ya?ml|py|sh|md|html|xml|txt|log|env|service|timer|conf|cfg|toml|tmp|crt|key|pem|sock|lock)$")


@pytest.fixture(scope="module")
def catalogue():
    return library.load([ROOT / "catalogue" / "any.yml", *SERVICE_CATALOGUES])


def python_ids(source, prefixes):
    """Ids in Python: whole string constants that look like one, and f-strings as patterns. Documentation is no use of an id."""
    tree = ast.parse(source)
    documentation = ("DOCUMENTATION", "EXAMPLES", "RETURN")
    assigned = [node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)]
    skip = {id(part) for node in assigned if node.targets[0].id in documentation for part in ast.walk(node)}
    found = set()
    for node in ast.walk(tree):
        if id(node) in skip:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
            if re.fullmatch(rf"({prefixes})(\.[a-z0-9_]+)+", text) and not FILE_ENDING.search(text):
                found.add(re.escape(text))
        elif isinstance(node, ast.JoinedStr):
            pattern = "".join(re.escape(part.value) if isinstance(part, ast.Constant) else "[a-z0-9_]+" for part in node.values)
            if re.match(rf"({prefixes})\\\.", pattern) and re.fullmatch(r"[a-z0-9_.\\\[\]+-]+", pattern):
                found.add(pattern)
    return found


def yaml_ids(text):
    return {re.sub(r"\\\{\\\{.*?\\\}\\\}", "[a-z0-9_.]+", re.escape(found)) for found in YAML_ID.findall(text)}


@pytest.fixture(scope="module")
def used(catalogue, files, text):
    """{pattern of an id: first file that uses it} in roles, playbooks, plugins and inventories."""
    prefixes = "|".join(sorted({entry.id.split(".")[0] for entry in catalogue}))
    found = {}
    for name in files:
        inside = name.parts[0] in ("roles", "playbooks", "plugins", "inventories") or str(name) == "deploy.yml"
        content = text(name) if inside else None
        if content is None:
            continue
        ids = (
            python_ids(content, prefixes)
            if name.suffix == ".py"
            else yaml_ids(content)
            if name.suffix in (".yml", ".yaml", ".j2")
            else set()
        )
        for pattern in ids:
            found.setdefault(pattern, str(name))
    return found


def matches(patterns, entry_id):
    return any(re.fullmatch(pattern, entry_id) for pattern in patterns)


def test_every_id_that_is_used_is_in_a_catalogue(catalogue, used):
    known = [entry.id for entry in catalogue]
    unknown = {pattern: name for pattern, name in used.items() if not any(re.fullmatch(pattern, entry_id) for entry_id in known)}
    assert not unknown, "\n".join(["in no catalogue:", *(f"{name}: {pattern}" for pattern, name in unknown.items())])


def test_every_required_id_is_produced(catalogue, used, load):
    excused = set()
    for file in ROOT.glob("inventories/*/group_vars/all/service.yml"):
        excused |= set(load(file)["service"].get("not_applicable") or {})
    required = [entry for entry in catalogue if entry.kind == "auto" and not entry.not_built and entry.gate_phase in PHASES]
    assert len(required) > 30
    missing = [f"{entry.id} ({entry.where})" for entry in required if entry.id not in excused and not matches(used, entry.id)]
    assert not missing, "\n".join(["nothing produces:", *missing])


def test_the_search_sees_ids_and_nothing_else():
    source = 'X = "prep.db.version"\nrecord(f"db.extension.{name}")\nopen("release.json")\nDOCUMENTATION = "prep.none"\ny = "preps.x"\n'
    assert python_ids(source, "prep|db|release") == {r"prep\.db\.version", r"db\.extension\.[a-z0-9_]+"}
    found = yaml_ids('- id: prep.a.b\n  x_id: "db.extension.{{ item }}"\n  uid: 10\n  name: prep.c\n')
    assert found == {r"prep\.a\.b", r"db\.extension\.[a-z0-9_.]+"}
    assert matches(found, "db.extension.pgcrypto")
    assert not matches(found, "db.tables")
