"""Reads a service's lock file: exact pins with hashes, nothing else (001 §2.2)."""

from __future__ import annotations

import os
import re

from .git import SourceError, read_blob, run_git, safe_path
from .masking import redact
from .versions import normalize

PINNED = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?P<extras>\[[A-Za-z0-9._,\s-]*\])?\s*==\s*(?P<version>[^\s;=*,<>!~]+)\s*\Z"
)
HASH = re.compile(r"--hash[= ]sha(?:256:[0-9a-f]{64}|384:[0-9a-f]{96}|512:[0-9a-f]{128})(?=\s|\Z)")


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
