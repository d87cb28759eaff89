"""Removes old releases from an app host without touching one that may still be needed. Standard library only."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from .durable import fsync_dir
from .slots import read_links, release_number


class PruneError(Exception):
    """It is not known which releases are needed, so none was removed; the text says why."""


def prune(
    releases: str | os.PathLike, slots: str | os.PathLike, keep: int, protected: Iterable[int] = (), *, dry: bool = False
) -> dict:  # fmt: skip
    """Remove releases, the lowest numbers first, so that the newest `keep` finished ones stay.

    Never removed: a number in `protected` (live, previous, last known good, in progress) and what a slot points to. Unfinished
    folders that are not protected go. Names that are no release's are left alone and named.

    Returns {changed, removed, kept, unknown}: folder names. Raises PruneError when a slot cannot be understood: then nothing
    is removed, for what is needed is not known.
    """
    home, keep, protected = Path(releases), int(keep), {int(one) for one in protected}
    if keep < 1:
        raise PruneError(f"keep must be at least 1, not {keep}")
    if not home.is_dir():
        return {"changed": False, "removed": [], "kept": [], "unknown": []}
    links, problems = read_links(slots, home)
    if problems:
        raise PruneError(f"nothing was removed: {problems[0]}")
    names = [entry.name for entry in home.iterdir() if entry.is_dir() and not entry.is_symlink()]
    known = sorted((name for name in names if release_number(name)), key=release_number, reverse=True)
    finished = [name for name in known if (home / name / "release.json").is_file()]
    needed = {name for name in known if release_number(name) in protected or name in links.values()}
    kept = {*finished[:keep], *needed}
    removed = [name for name in known if name not in kept]
    trash = [name for name in names if name.startswith(".removing-")]
    if not dry:
        for name in removed:
            # One rename takes it out of every list; what a crash leaves is finished by the next call.
            os.rename(home / name, home / f".removing-{name}")
            trash.append(f".removing-{name}")
        for name in trash:
            shutil.rmtree(home / name)
        if removed:
            fsync_dir(home)
    unknown = sorted(name for name in names if not release_number(name) and not name.startswith("."))
    return {
        "changed": bool(removed or trash),
        "removed": sorted(removed, key=release_number),
        "kept": sorted(kept, key=release_number),
        "unknown": unknown,
    }
