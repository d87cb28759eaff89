"""The library's imports: only the standard library at the top of a file, and nowhere in what runs on hosts without Ansible."""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "plugins" / "module_utils" / "greenroom"
WITHOUT_ANSIBLE = ("cli.py", "slot_agent.py", "guard.py", "guard_watch.py")  # started by units and by hand, with the system's Python


def imports(tree, *, top_only):
    """Modules that a file imports: (level of the relative import, dotted name)."""
    found = []
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append((node.level, node.module))
        elif isinstance(node, ast.ImportFrom):
            found += [(node.level, alias.name) for alias in node.names]
    return found


def foreign(tree, *, top_only):
    """Names of imports that are neither relative nor of the standard library."""
    return [name for level, name in imports(tree, top_only=top_only) if not level and name.split(".")[0] not in sys.stdlib_module_names]


def reached(start):
    """The files of the library that `start` imports, directly or not, itself included."""
    todo, seen = [LIBRARY / start], set()
    while todo:
        file = todo.pop()
        if file in seen:
            continue
        seen.add(file)
        for level, name in imports(ast.parse(file.read_text(encoding="utf-8")), top_only=False):
            if level:
                base = file.parent if level == 1 else file.parent.parent
                places = (base / f"{name.replace('.', '/')}.py", base / name.replace(".", "/") / "__init__.py")
                todo += [place for place in places if place.is_file()]
    return seen


def test_files_import_only_the_standard_library_at_their_top():
    found = {file.name: names for file in LIBRARY.rglob("*.py") if (names := foreign(ast.parse(file.read_text("utf-8")), top_only=True))}
    assert found == {}, "a library that some interpreters lack is imported inside the function that needs it"


def test_what_runs_without_ansible_needs_nothing_else():
    for start in WITHOUT_ANSIBLE:
        files = reached(start)
        assert LIBRARY / "durable.py" in files
        found = {file.name: names for file in files if (names := foreign(ast.parse(file.read_text("utf-8")), top_only=False))}
        assert found == {}, start


def test_the_search_sees_foreign_imports_at_the_top_and_inside():
    tree = ast.parse("import os, yaml\nfrom . import slots\nfrom .state import x\ndef f():\n    from packaging.version import Version\n")
    assert foreign(tree, top_only=True) == ["yaml"]
    assert foreign(tree, top_only=False) == ["yaml", "packaging.version"]
    assert imports(tree, top_only=True)[2:] == [(1, "slots"), (1, "state")]


def test_the_architecture_lists_every_file_of_the_library():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    missing = [file.name for file in LIBRARY.glob("*.py") if file.name != "__init__.py" and f"`{file.name}`" not in page]
    assert missing == [], "docs/architecture.md, table of the library"
