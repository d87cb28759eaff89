"""From a git ref to a commit that may be released: its lock, its version, and that nothing of it contradicts what was released before.

Runs on the control node. Sources of the rules: 001 §2.1 and §2.2 (branch, clean tree, exact commit, exact pins).
"""

from __future__ import annotations

import hashlib
import os
import re

from .git import COMMIT, GIT_LIMIT_S, SourceError, check_clean, fetch, ref_at_source, resolve_ref, run_git, safe_path
from .lock_file import read_lock
from .masking import redact
from .project import project_table, static_version
from .records import measured
from .tree import tree_entries
from .versions import VERSION, check_known, decide_version, normalize


def resolve(
    *,
    git: str,
    ref: str,
    lock: str,
    package: str,
    work_dir: str | os.PathLike,
    tests_lock: str | None = None,
    known_versions: dict | None = None,
    timeout_s: float = GIT_LIMIT_S,
) -> dict:
    """Everything about the release that `ref` means, before anything is built.

    Returns {version, package_version, commit, tree, commit_time (epoch s), ref, ref_kind, git (redacted), repository (cache path),
    package, lock, lock_sha256, requirements (count), requires_python, tests_lock, tests_lock_sha256, work_tree}.
    Raises SourceError.
    """
    work_tree = "none"
    if os.path.isdir(git.removeprefix("file://")):
        git = os.path.abspath(git.removeprefix("file://"))
        check_clean(git)
        work_tree = "clean"
    elif git.startswith(("/", "./", "../", "~")):
        raise SourceError(f"{git}: no such folder on the control node")
    repository = fetch(git, work_dir, ref=ref, timeout_s=timeout_s)
    commit, ref_kind = resolve_ref(repository, ref)
    content, requirements = read_lock(repository, commit, lock)
    project = project_table(repository, commit)
    locked_names = {one["name"] for one in requirements}
    needed = [re.match(r"[A-Za-z0-9._-]+", one)[0] for one in project.get("dependencies", []) if ";" not in one]
    missing = [name for name in needed if normalize(name) not in locked_names]
    if missing:
        raise SourceError(
            f"{lock} at commit {commit[:12]} lacks {', '.join(missing)}, which pyproject.toml depends on. Make the lock again."
        )
    if not requirements and (not project or "dependencies" in project.get("dynamic", [])):
        raise SourceError(f"{lock} at commit {commit[:12]} holds no requirement, and pyproject.toml does not say that there are none.")
    version, stated = decide_version(ref, ref_kind, commit, static_version(repository, commit, package))
    lock_sha256 = hashlib.sha256(content).hexdigest()
    check_known(version, commit, lock_sha256, known_versions or {})
    tests_sha256 = None
    if tests_lock:
        tests_content, _requirements = read_lock(repository, commit, tests_lock)
        tests_sha256 = hashlib.sha256(tests_content).hexdigest()
    tree_entries(repository, commit)
    return {
        "version": version,
        "package_version": stated,
        "package": package,
        "commit": commit,
        "tree": run_git(["rev-parse", f"{commit}^{{tree}}"], cwd=repository).strip(),
        "commit_time": int(run_git(["show", "-s", "--format=%ct", commit], cwd=repository).strip()),
        "ref": ref,
        "ref_kind": ref_kind,
        "git": redact(git),
        "repository": str(repository),
        "lock": safe_path(lock, "lock"),
        "lock_sha256": lock_sha256,
        "requirements": len(requirements),
        "requires_python": project.get("requires-python"),
        "tests_lock": safe_path(tests_lock, "tests lock") if tests_lock else None,
        "tests_lock_sha256": tests_sha256,
        "work_tree": work_tree,
    }


def evidence_resolved(resolved: dict, git: str) -> list[dict]:
    """Evidence of a resolved source: a version and its commit, and that the repository itself says so of the ref."""
    found: list[dict] = []
    with measured("release.version", expected=f"one version and commit for {resolved['ref_kind']} {resolved['ref']}", into=found) as check:
        check.detail = {key: resolved[key] for key in ("commit", "lock_sha256", "package_version", "requirements")}
        check.judge(
            bool(VERSION.match(resolved["version"]) and COMMIT.match(resolved["commit"])),
            f"{resolved['version']} = commit {resolved['commit']}",
        )
    with measured(
        "release.code.ref", expected=f"{resolved['ref_kind']} {resolved['ref']} is commit {resolved['commit']}", into=found
    ) as check:
        check.detail = {"repository": resolved["git"]}
        said = ref_at_source(git, resolved["ref"], resolved["ref_kind"])
        if resolved["ref_kind"] == "commit":
            check.judge(resolved["commit"].startswith(resolved["ref"]), f"commit {resolved['commit']}")
        else:
            check.judge(
                said == resolved["commit"], f"{resolved['ref_kind']} {resolved['ref']} is commit {said or 'unknown'} in the repository"
            )
    return found
