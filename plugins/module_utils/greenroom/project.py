"""What a commit says of itself: its pyproject.toml and the version that its package states, without running anything of it."""

from __future__ import annotations

import ast
import contextlib
import os
import tomllib

from .git import SourceError, read_blob


def project_table(repository: str | os.PathLike, commit: str) -> dict:
    """The `[project]` table of pyproject.toml at a commit, {} if there is none. Raises SourceError if it is no TOML."""
    raw = read_blob(repository, commit, "pyproject.toml")
    if raw is None:
        return {}
    try:
        return tomllib.loads(raw.decode("utf-8")).get("project", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SourceError(f"pyproject.toml at commit {commit[:12]}: {error}") from error


def static_version(repository: str | os.PathLike, commit: str, package: str) -> tuple[str, str] | None:
    """(version, file it stands in) if it can be known without running anything: `project.version`, else a literal `__version__`.

    Raises SourceError when the two differ: then one of them lies to whoever asks the running service.
    """
    found: dict[str, str] = {}
    declared = project_table(repository, commit).get("version")
    if declared is not None:
        found["pyproject.toml"] = str(declared)
    for root in ("", "src/"):
        for name in ("__init__.py", "_version.py", "__about__.py", "version.py"):
            path = f"{root}{package.replace('.', '/')}/{name}"
            raw = read_blob(repository, commit, path)
            literal = _literal_version(raw) if raw else None
            if literal is not None:
                found.setdefault(path, literal)
    if len(set(found.values())) > 1:
        raise SourceError(
            "the package states different versions: " + ", ".join(f"{version!r} in {path}" for path, version in found.items())
        )
    return next(((version, path) for path, version in found.items()), None)


def _literal_version(source: bytes) -> str | None:
    """The string that a module assigns to `__version__` at its top level, if it is a literal."""
    with contextlib.suppress(SyntaxError, ValueError):
        for node in ast.parse(source).body:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
            named = any(isinstance(target, ast.Name) and target.id == "__version__" for target in targets)
            if named and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
                return node.value.value
    return None
