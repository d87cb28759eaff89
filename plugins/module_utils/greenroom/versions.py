"""Names and versions of packages and releases: what they may look like, and whether two spellings mean the same.

Standard library only, but for `same_version`.
"""

from __future__ import annotations

import re

from .git import SourceError

VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,62}\Z")
VERSION_TAG = re.compile(r"v?([0-9]+\.[0-9].*)\Z")


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


def plain_version(version: str) -> str:
    """A version as two spellings of it can be compared without a library: 1.0-RC1 and 1.0rc1 are one, 1.0 and 1.0.0 too."""
    text = re.sub(r"^v", "", version.lower())
    text = re.sub(r"[-_.]?(alpha|beta|preview|pre|a|b|c|rc|post|dev)[-_.]?", lambda found: f".{found[1]}", text.split("+")[0])
    text = text.replace(".alpha", ".a").replace(".beta", ".b").replace(".preview", ".rc").replace(".pre", ".rc").replace(".c", ".rc")
    head = re.match(r"[0-9.]*[0-9]", text)
    numbers = re.sub(r"(\.0)+\Z", "", head[0]) if head else ""
    return numbers + (text[head.end() :] if head else text) + ("+" + version.lower().split("+", 1)[1] if "+" in version else "")


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
