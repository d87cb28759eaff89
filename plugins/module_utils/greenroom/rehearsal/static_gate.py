"""Step 0: what a revision's source says about itself, before anything is run.

The walk sees what happens today; some mistakes only show on another day: an error that is swallowed, an import of the application's
settings or models that will have changed, a CASCADE that takes what nobody named.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from .adapters import Revision

CASCADE = re.compile(r"\b(DROP\s+(?!OWNED)\w[^;]*|TRUNCATE[^;]*)\bCASCADE\b", re.I)


def source_findings(revision: Revision) -> list[tuple[str, int, str]]:
    """[(code, line, text)] for a revision written in Python or SQL; nothing for one whose source is not known."""
    if not revision.path or not Path(revision.path).is_file():
        return []
    text = Path(revision.path).read_text(encoding="utf-8", errors="replace")
    if not revision.path.endswith(".py"):
        return [("CASCADE", text[: found.start()].count("\n") + 1, cascade(found.group())) for found in CASCADE.finditer(text)]
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        return [("UPGRADE_FAILS", error.lineno or 0, f"no Python: {error.msg}")]
    functions = {node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
    found = [*module_findings(tree, Path(revision.path)), *text_findings(tree)]
    for name in ("upgrade", "downgrade"):
        if name in functions:
            found += function_findings(functions[name])
    up, down = functions.get("upgrade"), functions.get("downgrade")
    if up is not None and not is_empty(up):
        if down is None or is_empty(down):
            found.append(("DOWNGRADE_EMPTY", down.lineno if down else 0, "the upgrade does something, the downgrade nothing"))
        elif isinstance(body_of(down)[-1], ast.Raise):
            found.append(("DOWNGRADE_RAISES", body_of(down)[-1].lineno, "the downgrade refuses to run"))
    return found


def cascade(text: str) -> str:
    """A CASCADE for a person."""
    return f"{' '.join(text.split())[:100]}: takes with it what is not named here"


def body_of(function: ast.FunctionDef) -> list[ast.stmt]:
    """A function's statements without docstrings and `pass`."""

    def says_nothing(node: ast.stmt) -> bool:
        constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        return constant or isinstance(node, ast.Pass) or (isinstance(node, ast.Return) and node.value is None)

    return [node for node in function.body if not says_nothing(node)]


def is_empty(function: ast.FunctionDef) -> bool:
    """Whether a function does nothing."""
    return not body_of(function)


def module_findings(tree: ast.Module, path: Path) -> list[tuple[str, int, str]]:
    """Imports of the application, at the top or inside functions: its settings and models are those of another day."""
    beside = {one.stem for one in path.parent.glob("*.py")} | {path.parent.name, path.parent.parent.name}
    found = []
    for node in ast.walk(tree):
        names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = ["." * node.level + (node.module or "")]
        for name in names:
            first = name.split(".")[0]
            if first not in beside and not is_library(first):
                found.append(("APP_IMPORT", node.lineno, f"imports {name}: the application's code will have changed when this runs again"))
    for node in tree.body:
        call = node.value if isinstance(node, (ast.Expr, ast.Assign)) else None
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and getattr(call.func.value, "id", "") == "op":
            found.append(("MODULE_STATEMENTS", node.lineno, "runs statements when it is only imported"))
    return found


def is_library(name: str) -> bool:
    """Whether a name is of the standard library or one of the drivers and helpers that revisions use."""
    return name in sys.stdlib_module_names or name.startswith(("psycopg", "asyncpg", "geoalchemy2", "pgvector", "sqlalchemy", "alembic"))


def text_findings(tree: ast.Module) -> list[tuple[str, int, str]]:
    """What SQL texts say."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += [("CASCADE", node.lineno, cascade(one.group())) for one in CASCADE.finditer(node.value)]
    return found


def function_findings(function: ast.FunctionDef) -> list[tuple[str, int, str]]:
    """Swallowed errors, and autocommit blocks beside other statements."""
    found = []
    for node in ast.walk(function):
        swallows = isinstance(node, ast.ExceptHandler) and not any(isinstance(one, ast.Raise) for one in ast.walk(node))
        suppresses = isinstance(node, ast.withitem) and "suppress" in ast.unparse(node.context_expr)
        if swallows or suppresses:
            line = getattr(node, "lineno", None) or node.context_expr.lineno
            found.append(
                ("SWALLOWS_ERRORS", line, f"{function.name} goes on after an error: half of it may be done, and nobody hears of it")
            )
    body = body_of(function)
    blocks = [node for node in body if isinstance(node, ast.With) and "autocommit_block" in ast.unparse(node.items[0].context_expr)]
    others = [node for node in body if node not in blocks and "op." in ast.unparse(node)]
    if blocks and others:
        text = f"{function.name} mixes an autocommit block with other statements: a failure leaves the first part, without the new version"
        found.append(("AUTOCOMMIT_MIXED", blocks[0].lineno, text))
    return found
