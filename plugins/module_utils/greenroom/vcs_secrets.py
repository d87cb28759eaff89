"""No secret's value lies in version control: searched for in a commit's files and in a work tree's tracked ones (001 §9.1 L327).

Names of keys and of files come out of here, never a value.
"""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from . import records as rec
from .masking import SHORTEST, secret_parts
from .masking import forms as forms_of

ID = "sec.secrets.not_in_vcs"
NAMED = 10


class SearchError(Exception):
    """git could not be asked; says which command and what it said."""


def forms(value: str) -> set[bytes]:
    """How a secret may be written: as it is, in a URL, in JSON, in base64; also the password inside a value that is a URL."""
    found = set()
    for text in secret_parts([value]):
        whole = text.encode()
        found |= {*(form.encode() for form in forms_of(text)), base64.b64encode(whole).rstrip(b"=")}
    return found


def flat(secrets: Mapping, path: str = "") -> Iterator[tuple[str, str]]:
    """(key, value) of every text inside nested maps and lists; the keys of the way there joined by dots."""
    for key, value in secrets.items():
        where = f"{path}{key}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{where}.")
        elif isinstance(value, (list, tuple)):
            yield from flat(dict(enumerate(value)), f"{where}.")
        elif value is not None and not isinstance(value, bool):
            yield where, str(value)


def _git(directory: str | os.PathLike, *arguments: str) -> bytes:
    # The repository may belong to another user: git refuses to read it then, unless it is told that this one is meant.
    argv = ["git", "-c", f"safe.directory={Path(directory).resolve()}", "-C", str(directory), *arguments]
    done = subprocess.run(argv, capture_output=True, timeout=120, check=False)
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise SearchError(f"git {arguments[0]} in {directory}: {said[-1] if said else f'exit status {done.returncode}'}")
    return done.stdout


def commit_files(repository: str | os.PathLike, commit: str) -> Iterator[tuple[str, bytes]]:
    """(path, content) of every file of a commit, whatever its attributes say about archives. Raises SearchError."""
    entries = []
    for entry in _git(repository, "ls-tree", "-r", "-z", "--full-tree", commit).split(b"\0"):
        if entry:
            about, _, name = entry.partition(b"\t")
            _mode, kind, digest = about.split()
            if kind == b"blob":
                entries.append((name.decode("utf-8", "replace"), digest))
    argv = ["git", "-c", f"safe.directory={Path(repository).resolve()}", "-C", str(repository), "cat-file", "--batch"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for name, digest in entries:
            process.stdin.write(digest + b"\n")
            process.stdin.flush()
            head = process.stdout.readline().split()
            if len(head) != 3:
                raise SearchError(f"git cat-file in {repository}: {name} cannot be read")
            yield name, process.stdout.read(int(head[2]))
            process.stdout.read(1)
        process.stdin.close()


def tracked_files(directory: str | os.PathLike) -> Iterator[tuple[str, bytes]]:
    """(path, content) of every tracked file of a work tree, as it lies there and as it is in the index. Raises SearchError."""
    for entry in _git(directory, "ls-files", "-z").split(b"\0"):
        path = Path(directory) / os.fsdecode(entry)
        if entry and path.is_file() and not path.is_symlink():
            yield entry.decode("utf-8", "replace"), path.read_bytes()


def search(files: Iterator[tuple[str, bytes]], secrets: Mapping[str, str]) -> tuple[int, list[tuple[str, str]]]:
    """(number of files, [(key, file)] of every secret found)."""
    wanted = [(key, form) for key, value in secrets.items() for form in forms(value)]
    count, hits = 0, set()
    for name, content in files:
        count += 1
        hits |= {(key, name) for key, form in wanted if form in content}
    return count, sorted(hits)


def check(secrets: Mapping, places: list[Mapping]) -> dict:
    """The evidence record. places: {name, directory, commit}; without `commit` the tracked files of a work tree.

    A place that is in no version control (`.git` missing, without `commit`) has committed nothing; it is named in the detail. A value too
    short to be searched for is red: it is no secret.
    """
    with rec.measured(ID, expected="no secret in any file") as measurement:
        found = dict(flat(secrets))
        found = {key: value for key, value in found.items() if value}
        short = sorted(key for key, value in found.items() if len(value) < SHORTEST)
        total, hits, searched, absent = 0, [], {}, []
        for place in places:
            if place.get("commit"):
                files = commit_files(place["directory"], place["commit"])
            elif (Path(place["directory"]) / ".git").exists():
                files = tracked_files(place["directory"])
            else:
                absent.append(place["name"])
                continue
            searched[place["name"]], here = search(files, found)
            total += searched[place["name"]]
            hits += [f"{place['name']}: {name} holds {key}" for key, name in here]
        measurement.detail = {"secrets": len(found), "samples": total, "files": searched, "hits": hits[:50]}
        if absent:
            measurement.detail["not_in_version_control"] = absent
        observed = f"{len(hits)} hits of {len(found)} secrets in {total} files"
        if not found:
            measurement.observed, measurement.status, measurement.reason = observed, rec.NO_EVIDENCE, "no secret is known to look for"
        else:
            said = [*hits[:NAMED], *([f"and {len(hits) - NAMED} more"] if len(hits) > NAMED else [])]
            said += [f"{key} has fewer than {SHORTEST} characters, too few to look for" for key in short]
            advice = "; replace the secret, then take the value out of the repository" if hits else ""
            measurement.judge(not said, observed, "; ".join(said) + advice)
    return measurement.record
