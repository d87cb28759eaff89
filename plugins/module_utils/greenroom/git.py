"""Calls git and reads a repository: fetch it into a cache, resolve a ref, read a file of a commit. Changes nothing but its cache.

Runs on the control node. Sources of the rules: 001 §2.1 (branch, clean tree, exact commit).
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import re
import subprocess
import time
from pathlib import Path, PurePosixPath

from .durable import locked
from .masking import redact

REF = re.compile(r"[0-9A-Za-z][0-9A-Za-z._/+-]{0,199}\Z")
COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")
GIT_LIMIT_S = 120


class SourceError(Exception):
    """The source cannot be released as asked; the text says what, where, and what to do. Never holds a credential."""


def run_git(
    arguments: list[str],
    *,
    cwd: str | os.PathLike | None = None,
    timeout_s: float = GIT_LIMIT_S,
    text: bool = True,
    feed: bytes = b"",
):
    """Run git without prompts and within a time limit, `feed` on its standard input; its standard output (str, or bytes unless `text`).

    Raises SourceError with git's redacted last words.
    """
    environment = {
        **{key: value for key, value in os.environ.items() if key not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")},
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "GIT_OPTIONAL_LOCKS": "0",  # a look at somebody's work tree must not write into it
        "LC_ALL": "C.UTF-8",
        "GIT_SSH_COMMAND": os.environ.get("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ConnectTimeout=15"),
    }
    # ext:: addresses run commands.
    command = ["git", "-c", "protocol.ext.allow=never", "-c", "gc.auto=0", *arguments]
    try:
        done = subprocess.run(command, cwd=cwd, env=environment, input=feed, capture_output=True, timeout=timeout_s, check=False)
    except FileNotFoundError as error:
        raise SourceError("git is not installed on the control node. Next: apt-get install git") from error
    except subprocess.TimeoutExpired as error:
        raise SourceError(f"git {arguments[0]}: no end within {timeout_s:g} s; the repository or the network hangs.") from error
    if done.returncode:
        said = redact(done.stderr.decode("utf-8", "replace")).strip().splitlines()
        raise SourceError(f"git {arguments[0]} failed (status {done.returncode}): {' / '.join(said[-3:])[-500:]}")
    return done.stdout.decode("utf-8", "replace") if text else done.stdout


def check_clean(path: str | os.PathLike) -> None:
    """A local path with a work tree must be clean: what lies there uncommitted would be taken for released.

    Raises SourceError naming up to ten files.
    """
    try:
        if run_git(["rev-parse", "--is-bare-repository"], cwd=path).strip() == "true":
            return
    except SourceError as error:
        raise SourceError(f"{path}: is no usable git repository. {error}") from error
    changed = [
        entry
        for entry in run_git(["status", "--porcelain=v1", "-z", "--untracked-files=normal", "--no-renames"], cwd=path).split("\0")
        if entry
    ]
    if changed:
        names = ", ".join(entry[3:] for entry in changed[:10])
        more = f" and {len(changed) - 10} more" if len(changed) > 10 else ""
        raise SourceError(f"{path}: the work tree is not clean: {names}{more}. Commit or remove what is listed, then run again.")


def private_folder(path: str | os.PathLike) -> Path:
    """The folder, made with mode 0700 if it is absent: clones and archives hold a service's source."""
    Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)
    return Path(path)


def fetch(git: str, work_dir: str | os.PathLike, *, ref: str = "", timeout_s: float = GIT_LIMIT_S, retries: int = 2) -> Path:
    """Bring all branches and tags of repository `git` (address or path) into a bare clone of the cache; its path.

    The address is not written into the cache. When the repository cannot be reached but `ref` is a full commit that the cache
    has, the cache is used: a commit's content cannot change. Raises SourceError after the retries.
    """
    if not git or git.startswith("-") or "\n" in git:
        raise SourceError(f"{redact(git)!r} is no git address or path")
    cache = private_folder(work_dir) / "git" / (hashlib.sha256(git.encode()).hexdigest()[:16] + ".git")
    everything = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
    cache.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(str(cache) + ".lock", timeout_s=timeout_s):
        if not (cache / "HEAD").exists():
            run_git(["init", "--bare", "--quiet", str(cache)])
        for attempt in range(retries + 1):
            try:
                run_git(
                    ["fetch", "--quiet", "--prune", "--force", "--no-write-fetch-head", git, *everything],
                    cwd=cache, timeout_s=timeout_s,
                )  # fmt: skip
                break
            except SourceError as error:
                if COMMIT.match(ref) and _is_commit(cache, ref):
                    break
                local = "://" not in git and not re.match(r"[^/]+@?[^/]*:", git)
                if local or attempt == retries:
                    raise SourceError(f"{redact(git)}: cannot be fetched. {error}") from error
                time.sleep(2**attempt)
    return cache


def _is_commit(repository: Path, name: str) -> bool:
    with contextlib.suppress(SourceError):
        return run_git(["cat-file", "-t", name], cwd=repository).strip() == "commit"
    return False


def tags(repository: str | os.PathLike) -> list[str]:
    """The repository's tags, newest version first."""
    return run_git(["tag", "--list", "--sort=-version:refname"], cwd=repository).split()


def resolve_ref(repository: str | os.PathLike, ref: str) -> tuple[str, str]:
    """(commit, `tag` | `branch` | `commit`) of a ref.

    Raises SourceError: malformed, unknown (with the nearest tags), ambiguous, or a tag and a branch of different commits.
    """
    if not isinstance(ref, str) or not REF.match(ref) or ".." in ref or ref.endswith((".lock", "/")):
        raise SourceError(f"ref {str(ref)[:80]!r} is refused: a tag, branch or commit consists of 0-9 A-Z a-z . _ / + - and has no '..'.")
    found = {}
    for kind, name in (("tag", f"refs/tags/{ref}"), ("branch", f"refs/heads/{ref}")):
        with contextlib.suppress(SourceError):
            found[kind] = run_git(["rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"], cwd=repository).strip()
    if len(set(found.values())) > 1:
        raise SourceError(
            f"ref {ref!r} is a tag ({found['tag'][:12]}) and a branch ({found['branch'][:12]}) of different commits. Name the commit."
        )
    for kind in ("tag", "branch"):
        if kind in found:
            return found[kind], kind
    if re.match(r"[0-9a-f]{7,64}\Z", ref):
        with contextlib.suppress(SourceError):
            return run_git(["rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}"], cwd=repository).strip(), "commit"
    known = tags(repository)
    near = difflib.get_close_matches(ref, known, n=3, cutoff=0.5) or known[:5]
    raise SourceError(f"ref {ref!r} does not exist. " + (f"Nearest tags: {', '.join(near)}." if near else "The repository has no tags."))


def ref_at_source(git: str, ref: str, ref_kind: str, timeout_s: float = GIT_LIMIT_S) -> str | None:
    """The commit that the repository itself, not the cache, says a tag or branch is; None if it has no such ref."""
    name = f"refs/{'tags' if ref_kind == 'tag' else 'heads'}/{ref}"
    listed = dict(
        reversed(line.split("\t")) for line in run_git(["ls-remote", git, name, f"{name}^{{}}"], timeout_s=timeout_s).splitlines()
    )
    return listed.get(f"{name}^{{}}") or listed.get(name)


def safe_path(path: str, what: str) -> str:
    """A path inside the repository. Raises SourceError for absolute ones and for `..`."""
    parts = PurePosixPath(path).parts
    if not path or path.startswith("/") or ".." in parts or "\0" in path:
        raise SourceError(f"{what}: {path!r} is no path inside the repository")
    return str(PurePosixPath(path))


def read_blob(repository: str | os.PathLike, commit: str, path: str) -> bytes | None:
    """A file's bytes at a commit, None if it is not there (or is no regular file)."""
    listed = run_git(["ls-tree", "-z", commit, "--", path], cwd=repository).rstrip("\0")
    if not listed.startswith(("100644 blob ", "100755 blob ")):
        return None
    return run_git(["cat-file", "blob", listed.split()[2].split("\t")[0]], cwd=repository, text=False)
