"""The tree of a commit: exported byte for byte, and its git object id computed from a folder's files.

So a host without git can prove that what it unpacked is the commit's tree. Standard library only.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path, PurePosixPath

from .git import SourceError, run_git


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
