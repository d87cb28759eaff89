"""Slot links on an app host: `/opt/<service>/slots/{blue,green}` point to releases; nothing else counts as a slot.

Standard library only.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path

from .durable import fsync_dir
from .switch import SLOTS

RELEASE_NAME = re.compile(r"^([1-9][0-9]{0,8})-([0-9A-Za-z][0-9A-Za-z.+_-]{0,62})\Z")


class SlotError(Exception):
    """A slot link or its target is not what it must be; the text names the path and what to do."""


def release_number(name: str) -> int | None:
    """The number in a release folder's name (`12-1.4.0` -> 12), None if the name is no release's."""
    found = RELEASE_NAME.match(name)
    return int(found[1]) if found else None


def finished_release(path: str | os.PathLike) -> dict:
    """The `release.json` of a release folder. Raises SlotError if it is absent or unreadable: the folder is unfinished."""
    path = Path(path)
    try:
        about = json.loads((path / "release.json").read_bytes())
    except FileNotFoundError as error:
        raise SlotError(f"{path}: has no release.json, so its installation never finished. Install the release again.") from error
    except (OSError, ValueError) as error:
        raise SlotError(f"{path}/release.json: cannot be read ({error}). Install the release again.") from error
    if not isinstance(about, dict):
        raise SlotError(f"{path}/release.json: is no JSON object. Install the release again.")
    return about


def read_links(slots: str | os.PathLike, releases: str | os.PathLike) -> tuple[dict[str, str | None], list[str]]:
    """What the slots point to.

    Returns ({blue: release folder name or None, green: …}, problems): a slot that is no symlink, dangles, or points outside
    `releases` is None and named in `problems`. Never raises for what it finds.
    """
    slots, home = Path(slots), os.path.realpath(releases)
    links: dict[str, str | None] = {}
    problems = []
    for slot in SLOTS:
        link = slots / slot
        links[slot] = None
        if not os.path.lexists(link):
            continue
        target = os.path.realpath(link)
        if not link.is_symlink():
            problems.append(f"{link}: is not a symlink. Move it away; nothing is linked over it.")
        elif not os.path.isdir(target):
            problems.append(f"{link}: points to {target}, which does not exist.")
        elif os.path.dirname(target) != home:
            problems.append(f"{link}: points to {target}, outside {home}.")
        else:
            links[slot] = os.path.basename(target)
    return links, problems


def link_slot(
    slots: str | os.PathLike, slot: str, release: str | os.PathLike, releases: str | os.PathLike, *, adopt: bool = False, dry: bool = False
) -> bool:
    """Point `slots/<slot>` at release folder `release` with one rename; True if it changed (or, when `dry`, would).

    Raises SlotError: `release` lies outside `releases`, is unfinished, or the present link is something else than a link to a
    release (a directory is never touched; a dangling or foreign link is replaced only with `adopt`).
    """
    if slot not in SLOTS:
        raise SlotError(f"there is no slot {slot!r}; one of blue, green")
    slots, home, target = Path(slots), os.path.realpath(releases), os.path.realpath(release)
    if os.path.dirname(target) != home or not RELEASE_NAME.match(os.path.basename(target)):
        raise SlotError(f"{release}: is no release folder in {home}; nothing else may be linked as a slot.")
    finished_release(target)
    link = slots / slot
    if os.path.lexists(link):
        if not link.is_symlink():
            raise SlotError(f"{link}: is a directory or file, not a symlink, so nothing is linked there. Move it away and run again.")
        _links, problems = read_links(slots, releases)
        mine = [problem for problem in problems if problem.startswith(f"{link}:")]
        if mine and not adopt:
            raise SlotError(f"{mine[0]} Somebody changed it by hand: find out who, then run with adopt to replace it.")
        if os.readlink(link) == target:
            return False
    if dry:
        return True
    slots.mkdir(mode=0o755, parents=True, exist_ok=True)
    # A symlink cannot be made over another one: make it aside, rename it in.
    aside = tempfile.mkdtemp(prefix=f".{slot}.", dir=slots)
    try:
        os.symlink(target, os.path.join(aside, slot))
        os.replace(os.path.join(aside, slot), link)
    finally:
        for leftover in os.listdir(aside):
            os.unlink(os.path.join(aside, leftover))
        os.rmdir(aside)
    fsync_dir(slots)
    return True
