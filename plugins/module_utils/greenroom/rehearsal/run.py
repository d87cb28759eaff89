"""A whole rehearsal: which revisions, two walkers side by side each with a cluster of its own, the control, the chain; the manifest."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import queue
import secrets
import shutil
import tempfile
import time
from pathlib import Path

from ..backup.scratch_cluster import ScratchCluster
from . import chain, control, manifest, verdict
from .adapters import Revision
from .errors import RehearsalError
from .ground import Ground, Options
from .walk import Walk

WALKERS = 2
CONTROLS = 3
PREFIX, STALE_S = "rehearsal-run-", 24 * 3600
SETTINGS = {"max_wal_senders": "0", "wal_level": "minimal", "shared_buffers": "128MB", "max_connections": "30", "checkpoint_timeout": "1h"}


def ancestors(history: list[Revision], of: list[str]) -> set[str]:
    """These revisions and all below them."""
    by_name, found, todo = {one.revision: one for one in history}, set(), list(of)
    while todo:
        name = todo.pop()
        if name in by_name and name not in found:
            found.add(name)
            todo += by_name[name].parents
    return found


def selected(history: list[Revision], current: list[str] | None, newest: bool = False) -> list[Revision]:
    """The pending ones of a database at `current`, oldest first; None is the whole history. Raises RehearsalError.

    newest: if none is pending, those that the database is at.
    """
    if not history:
        raise RehearsalError("the release has no revision, so there is nothing to rehearse. Is the migration tool's configuration right?")
    if current is None:
        return history
    unknown = [name for name in current if name not in {one.revision for one in history}]
    if unknown:
        raise RehearsalError(f"the database is at revision {', '.join(unknown)}, which this release does not contain. Deploy one that does")
    done = ancestors(history, current)
    pending = [one for one in history if one.revision not in done]
    return pending or [one for one in history if newest and one.revision in current]


def made_folder(folder: Path) -> Path:
    """A folder of this run's own below `folder`; what runs that were killed left there a day ago is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(f"{PREFIX}*"):
        if stale.is_dir() and time.time() - stale.stat().st_mtime > STALE_S:
            shutil.rmtree(stale, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=folder))
    made.chmod(0o755)
    return made


class Walker:
    """Walks revisions one after the other; keeps a database at the newest parent, to copy from."""

    def __init__(self, ground: Ground, history: list[Revision]):
        self.ground, self.history = ground, history
        self.spine: str | None = None
        self.applied: set[str] = set()

    def parent_state(self, revision: Revision) -> str:
        """The database to copy: exactly the ancestors of `revision` are applied. Raises RehearsalError if they cannot be."""
        wanted = ancestors(self.history, list(revision.parents))
        if self.spine is None or not self.applied <= wanted:
            if self.spine:
                self.ground.drop(self.spine)
            self.spine, self.applied = self.ground.new(), set()
        for parent in revision.parents:
            if parent not in self.applied:
                outcome = self.ground.adapter.up(self.ground.url(self.spine), parent)
                if outcome.error:
                    self.ground.drop(self.spine)
                    self.spine = None
                    raise RehearsalError(f"its parent {parent} cannot be reached: {outcome.error[:500]}")
                self.applied |= ancestors(self.history, [parent])
        return self.spine

    def walk(self, revision: Revision) -> dict:
        """The revision's entry of the manifest; an error makes it unproven, it never makes it good."""
        began = time.monotonic()
        walk = None
        try:
            walk = Walk(self.ground, revision, self.parent_state(revision))
            result = walk.run()
        except Exception as error:
            walk = walk or Walk(self.ground, revision, "")
            walk.found(1, "NOT_SEEDED", f"the walk broke off: {type(error).__name__}: {str(error).strip()[:1000]}")
            result = walk.result()
        return {**result, "walk_seconds": round(time.monotonic() - began, 3)}


def rehearse(
    adapter: object, folder: Path, options: Options | None = None, *, current: list[str] | None = None, walkers: int = WALKERS,
    controls: int = CONTROLS, newest: bool = False, released: dict[str, str] | None = None, about: dict | None = None,
    bin_dir: str | None = None, cluster_user: str | None = "postgres",
) -> dict:  # fmt: skip
    """Rehearse the pending revisions of a database at `current`, or the whole history if that is None; the manifest.

    folder: where the scratch clusters live, in a folder of this run's own that is made and removed. controls: how many bad migrations are
    walked beside. newest: see `selected`. released: {release: its newest revision}, all of which must still exist. about: what else
    the manifest should say.
    Raises RehearsalError if the rehearsal could not be carried out at all; what a revision does wrong is in the manifest.
    """
    began = time.monotonic()
    options = options or Options()
    options = options if options.chance else dataclasses.replace(options, chance=secrets.randbelow(2**31) + 1)
    folder = Path(folder)
    history = adapter.history()
    todo = selected(history, current, newest)
    bads = control.drawn(controls, options.chance) if todo else []
    jobs: queue.SimpleQueue = queue.SimpleQueue()
    for one in [*bads, *todo]:
        jobs.put(one)
    entries: dict[str, dict] = {}
    caught: list[dict] = []
    checks: list[dict] = []

    def work(number: int) -> None:
        with ScratchCluster(work_folder / f"walker{number}", settings=SETTINGS, bin_dir=bin_dir, user=cluster_user) as cluster:
            ground = Ground(cluster, adapter if number == 0 else adapter.copy(), options)
            walker = Walker(ground, history)
            try:
                while True:
                    try:
                        job = jobs.get_nowait()
                    except queue.Empty:
                        break
                    if isinstance(job, control.Bad):
                        caught.append(control.walked(cluster, job))
                    else:
                        entries[job.revision] = walker.walk(job)
                if number == 0 and todo:
                    checks.extend(chain.checks(ground, history, released or {}, options.depth == "full"))
            finally:
                ground.close()

    work_folder = made_folder(folder)
    try:
        if todo:
            with concurrent.futures.ThreadPoolExecutor(walkers) as pool:
                for future in [pool.submit(work, number) for number in range(min(walkers, len(todo) + len(bads)))]:
                    future.result()
    finally:
        adapter.close()
        shutil.rmtree(work_folder, ignore_errors=True)
    promised = any(one["verdict"] in (verdict.LOSSLESS, verdict.LOSSY) for one in entries.values())
    if promised and not any(sum(one["rows"].values()) for one in entries.values()):
        raise RehearsalError("no row was written in the whole rehearsal, so it shows nothing about data", {"revisions": list(entries)})
    return manifest.made(
        [entries[one.revision] for one in todo], caught, checks, tool=adapter.name, heads=adapter.heads(), current=current,
        depth=options.depth,
        chance=options.chance, seconds=time.monotonic() - began, about=about or {},
    )  # fmt: skip
