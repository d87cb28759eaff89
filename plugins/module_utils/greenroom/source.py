"""From a git ref to a commit that may be released: fetch, resolve, judge the lock file and the version. Changes nothing but its cache.

Runs on the control node. Sources of the rules: 001 §2.1 and §2.2 (branch, clean tree, exact commit, exact pins).
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import hashlib
import os
import re
import subprocess
import time
import tomllib
from pathlib import Path, PurePosixPath

from .durable import locked

VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,62}\Z")
REF = re.compile(r"[0-9A-Za-z][0-9A-Za-z._/+-]{0,199}\Z")
VERSION_TAG = re.compile(r"v?([0-9]+\.[0-9].*)\Z")
COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")
PINNED = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?P<extras>\[[A-Za-z0-9._,\s-]*\])?\s*==\s*(?P<version>[^\s;=*,<>!~]+)\s*\Z"
)
HASH = re.compile(r"--hash[= ]sha(?:256:[0-9a-f]{64}|384:[0-9a-f]{96}|512:[0-9a-f]{128})(?=\s|\Z)")
GIT_LIMIT_S = 120


class SourceError(Exception):
    """The source cannot be released as asked; the text says what, where, and what to do. Never holds a credential."""


def redact(text: str) -> str:
    """`text` without the user information of addresses in it: user names and tokens of http(s), passwords of every scheme."""
    text = re.sub(r"(https?://)[^/\s'\"@]*@", r"\1***@", text)
    return re.sub(r"([a-z][a-z0-9+.-]*://[^/\s:'\"@]+):[^/\s'\"@]*@", r"\1:***@", text)


def normalize(name: str) -> str:
    """A distribution's name as indexes compare it: `Zope.Interface` -> `zope-interface`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def check_version(version: str, where: str) -> str:
    """`version` if it may become a folder's name. Raises SourceError otherwise."""
    if not isinstance(version, str) or not VERSION.match(version) or ".." in version:
        shown = repr(version if len(str(version)) <= 80 else str(version)[:77] + "...")
        raise SourceError(
            f"{where}: version {shown} is refused: 1 to 63 of the characters 0-9 A-Z a-z . + _ - without '..', a letter or digit first."
        )
    return version


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


# -- the repository ----------------------------------------------------------------------------------------------------


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


def tree_entries(repository: str | os.PathLike, commit: str) -> list[tuple[str, str, str]]:
    """[(mode, object id, path), …] of a commit, sorted by path.

    Raises SourceError for what cannot be released as it is: submodules, links that leave the tree, tracked `__pycache__`.
    """
    entries = []
    for line in run_git(["ls-tree", "-r", "-z", "--full-tree", commit], cwd=repository).split("\0"):
        if not line:
            continue
        about, path = line.split("\t", 1)
        mode, _kind, name = about.split()
        if mode == "160000":
            raise SourceError(f"{path}: is a submodule; its content is not part of the commit. Vendor it or make it a dependency.")
        if "__pycache__" in PurePosixPath(path).parts:
            raise SourceError(f"{path}: compiled files are tracked in the repository. Remove them: git rm -r --cached '{path}'")
        if mode == "120000":
            target = read_link(repository, name)
            depth = list(PurePosixPath(path).parent.parts)
            for part in PurePosixPath(target).parts:
                if part == "/" or (part == ".." and not depth):
                    raise SourceError(f"{path}: is a link to {target!r}, outside the repository")
                depth = depth[:-1] if part == ".." else [*depth, part]
        entries.append((mode, name, path))
    return sorted(entries, key=lambda entry: entry[2].encode())


def read_link(repository: str | os.PathLike, name: str) -> str:
    """The target of a symlink stored as blob `name`."""
    return run_git(["cat-file", "blob", name], cwd=repository)


def read_objects(repository: str | os.PathLike, names: list[str]) -> list[bytes]:
    """The contents of many objects with one git process, in the order asked for."""
    raw = run_git(["cat-file", "--batch"], cwd=repository, text=False, feed="".join(f"{name}\n" for name in names).encode())
    found, at = [], 0
    for name in names:
        end = raw.index(b"\n", at)
        about = raw[at:end].split()
        if len(about) != 3 or about[0].decode() != name:
            raise SourceError(f"{repository}: object {name} cannot be read; the cache is damaged. Remove it and run again.")
        size = int(about[2])
        found.append(raw[end + 1 : end + 1 + size])
        at = end + 1 + size + 1
    return found


def export_tree(repository: str | os.PathLike, commit: str, target: str | os.PathLike) -> str:
    """Write exactly the commit's files into the empty folder `target`; the tree's object id, computed from what was written.

    Blobs are copied byte for byte: no filter, no attribute and no end-of-line conversion has a say.
    Raises SourceError when what was written is not the commit's tree.
    """
    target = Path(target)
    entries = tree_entries(repository, commit)
    contents = read_objects(repository, [name for _mode, name, _path in entries])
    for (mode, _name, path), content in zip(entries, contents, strict=True):
        place = target / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if mode == "120000":
            place.symlink_to(os.fsdecode(content))
            continue
        place.write_bytes(content)
        place.chmod(0o755 if mode == "100755" else 0o644)
    wanted = run_git(["rev-parse", f"{commit}^{{tree}}"], cwd=repository).strip()
    written = tree_hash(target, algorithm_of(wanted))
    if written != wanted:
        raise SourceError(
            f"commit {commit}: the exported files are tree {written}, the commit's is {wanted}. The cache is damaged: remove {repository}."
        )
    return written


def blob_hash(content: bytes, algorithm: str = "sha1") -> bytes:
    """git's object id (raw digest) of a file's content."""
    return _object_hash("blob", content, algorithm)


def _object_hash(kind: str, content: bytes, algorithm: str) -> bytes:
    return hashlib.new(algorithm, f"{kind} {len(content)}\0".encode() + content, usedforsecurity=False).digest()


def tree_of(blobs: dict[str, tuple[str, bytes]], algorithm: str = "sha1") -> str:
    """The git tree id of {path: (mode, blob digest)}; modes are `100644`, `100755`, `120000`."""
    top: dict = {}
    for path, leaf in blobs.items():
        *folders, name = path.split("/")
        node = top
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = leaf

    def name_of(node: dict) -> bytes:
        lines = []
        for name, inner in node.items():
            raw = os.fsencode(name)
            folder = isinstance(inner, dict)
            mode, digest = ("40000", name_of(inner)) if folder else inner
            # git sorts folders as if their names ended with a slash
            lines.append((raw + b"/" if folder else raw, mode.encode() + b" " + raw + b"\0" + digest))
        return _object_hash("tree", b"".join(line for _key, line in sorted(lines)), algorithm)

    return name_of(top).hex()


def tree_hash(folder: str | os.PathLike, algorithm: str = "sha1") -> str:
    """The git tree id of a folder's files, as `git write-tree` would give it; `__pycache__` and empty folders do not count.

    So a host without git can prove that a folder is the tree of a commit.
    """
    blobs = {}
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        for name in (*files, *links):
            path = os.path.join(root, name)
            if os.path.islink(path):
                mode, content = "120000", os.fsencode(os.readlink(path))
            else:
                mode, content = "100755" if os.stat(path).st_mode & 0o100 else "100644", Path(path).read_bytes()
            blobs[os.path.relpath(path, folder)] = (mode, blob_hash(content, algorithm))
    return tree_of(blobs, algorithm)


def algorithm_of(tree: str) -> str:
    """The hash algorithm of a repository, seen from the length of an object id."""
    return "sha256" if len(tree) == 64 else "sha1"


# -- the lock file -----------------------------------------------------------------------------------------------------


def parse_lock(content: bytes, name: str) -> list[dict]:
    """The requirements of a hashed lock file: [{name, version, extras, marker, hashes, line}, …].

    Every requirement is pinned with `==` and has at least one sha256 (or stronger) hash; options, editable installs, addresses,
    paths and further files are refused. Raises SourceError listing every offending line as `file:line: reason` (at most 20).
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{name}: is not UTF-8 text ({error.reason} at byte {error.start})") from error
    found: list[dict] = []
    wrong: list[str] = []
    pending, first = "", 0
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        bare = re.sub(r"(^|\s)#.*$", "", line).strip()
        if not pending:
            first = number
        if bare.endswith("\\") and number < len(lines):
            pending += bare[:-1] + " "
            continue
        if not bare and pending and line.lstrip().startswith("#"):
            continue  # pip allows comments between continued lines
        whole, pending = (pending + bare.rstrip("\\")).strip(), ""
        if not whole:
            continue
        if reason := _judge(whole, first, found):
            wrong.append(f"{name}:{first}: {reason}")
    if wrong:
        more = f" … and {len(wrong) - 20} more" if len(wrong) > 20 else ""
        raise SourceError(
            "; ".join(wrong[:20])
            + more
            + f". Make the lock again, e.g. uv pip compile --generate-hashes --no-emit-index-url -o {name} <input>"
        )
    return found


def _judge(whole: str, line: int, found: list[dict]) -> str | None:
    """Append one requirement to `found`, or say why it may not be in a lock file."""
    if whole.startswith(("-e", "--editable")):
        return "an editable install; only pinned wheels are released"
    if whole.startswith("-"):
        return f"option {redact(whole.split()[0].split('=')[0])}; a lock names packages and hashes, nothing else"
    hashes = [piece.split("sha", 1)[1] for piece in HASH.findall(whole)]
    rest = HASH.sub("", whole).strip()
    requirement, _semicolon, marker = rest.partition(";")
    requirement, marker = requirement.strip(), marker.strip()
    if "@" in requirement or "://" in requirement or requirement.startswith((".", "/")):
        return f"{redact(requirement).split('@')[0].strip()[:60]}: an address or path; only pinned packages of an index are released"
    if "--" in rest:
        return f"{requirement.split()[0][:60]}: has an option or a malformed hash: {redact(rest[rest.index('--') :])[:40]!r}"
    pin = PINNED.match(requirement)
    if not pin:
        return f"{requirement[:60]!r} is not pinned with =="
    if not hashes:
        return f"{requirement[:60]} has no --hash=sha256:…"
    same = [one for one in found if one["name"] == normalize(pin["name"]) and one["marker"] == marker]
    if same:
        return f"{pin['name']} is already pinned in line {same[0]['line']}"
    extras = sorted(normalize(extra) for extra in (pin["extras"] or "").strip("[]").split(",") if extra.strip())
    found.append(
        {
            "name": normalize(pin["name"]),
            "version": pin["version"],
            "extras": extras,
            "marker": marker,
            "hashes": ["sha" + one for one in hashes],
            "line": line,
        }
    )
    return None


def read_lock(repository: str | os.PathLike, commit: str, path: str) -> tuple[bytes, list[dict]]:
    """(bytes, requirements) of the lock file at a commit. Raises SourceError, also when the file is not there."""
    path = safe_path(path, "lock")
    content = read_blob(repository, commit, path)
    if content is None:
        every = run_git(["ls-tree", "-r", "--name-only", commit], cwd=repository).splitlines()
        similar = [one for one in every if re.search(r"requirements.*\.txt$|\.lock$", one)]
        raise SourceError(
            f"{path}: does not exist at commit {commit[:12]}. "
            + (f"There are: {', '.join(similar[:5])}." if similar else "Commit a hashed lock file.")
        )
    return content, parse_lock(content, path)


# -- the version -------------------------------------------------------------------------------------------------------


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


def decide_version(ref: str, ref_kind: str, commit: str, static: tuple[str, str] | None) -> tuple[str, str | None]:
    """(version of the release, version the package states or None).

    A tag `v1.2.0` (or `1.2.0`) is the version, and must be the package's. For every other ref the commit becomes part of it:
    `1.2.0+g<first 12 of the commit>`. Raises SourceError.
    """
    stated = check_version(static[0], static[1]) if static else None
    tag = VERSION_TAG.match(ref) if ref_kind == "tag" else None
    if tag:
        version = check_version(tag[1], f"tag {ref}")
        if stated is not None and not same_version(version, stated):
            raise SourceError(
                f"tag {ref} says version {version}, but {static[1]} at commit {commit[:12]} says {stated}. Tag the right commit."
            )
        return version, stated
    local = f"{(stated or '0').split('+')[0]}+g{commit[:12]}"
    return check_version(local, f"ref {ref}"), stated


def same_version(one: str, two: str) -> bool:
    """Whether two version strings mean the same: `1.0.0-rc1` is `1.0.0rc1`."""
    from packaging.version import InvalidVersion, Version

    try:
        return Version(one) == Version(two)
    except InvalidVersion:
        return one == two


def check_known(version: str, commit: str, lock_sha256: str, known_versions: dict) -> None:
    """A version belongs for good to one commit and one lock. Raises SourceError naming both when this is another one."""
    known = known_versions.get(version)
    if not known:
        return
    if known.get("commit") != commit:
        raise SourceError(
            f"version {version} was released from commit {known.get('commit')}; this is commit {commit}. Give the new content "
            "a new version."
        )
    if known.get("lock_sha256") != lock_sha256:
        raise SourceError(
            f"version {version} (commit {commit}) was released with lock {known.get('lock_sha256')}; this lock is {lock_sha256}. "
            f"Give the new content a new version."
        )


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
