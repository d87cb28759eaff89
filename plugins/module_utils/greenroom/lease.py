"""The lease: one changing command at a time. A lock that lives with a process, and a small file that says whose it is.

Whoever holds the lease keeps an exclusive lock (flock) on `lease.lock`; it ends with the process, however that ends. A run's process is
`hold.py` on the gateway, at the other end of a channel from the control node. The fencing number only grows; every change names it, so a
holder that lost its lease is refused. A lock that nobody keeps is taken over after GRACE_S: time for a lost channel to come back, and for a
task in flight to end. Standard library only.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from .durable import DurableError, fsync_dir, locked, read_sealed, write_sealed

SCHEMA = 1
GRACE_S = 10.0
POLL_S = 0.1
EXIT_HELD = 75  # EX_TEMPFAIL: somebody else holds the lease


class LeaseError(Exception):
    """The lease file cannot be used; the text names it and what to do."""


class LeaseHeld(LeaseError):
    """Somebody else holds the lease, or the caller's own was lost. `holder` is the lease in force, or None."""

    exit_status = EXIT_HELD

    def __init__(self, text: str, holder: dict | None = None):
        super().__init__(text)
        self.holder = holder


def boot_id() -> str:
    """The machine's boot id: another one after each boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def uptime_s() -> float:
    """Seconds since the boot of this machine; no step of the wall clock changes it."""
    return round(time.clock_gettime(time.CLOCK_BOOTTIME), 3)


def age_s(lease: dict) -> float:
    """Seconds since the lease was taken, by the clock of the machine it lies on.

    After a reboot of that machine only the wall clock is left; the uptime is then the least it can be.
    """
    if lease["gateway_boot_id"] == boot_id():
        return max(0.0, uptime_s() - lease["taken_uptime_s"])
    return max(uptime_s(), time.time() - lease["taken_epoch_s"])


def describe(lease: dict) -> str:
    """One line for people: who holds it, since when, doing what."""
    minutes, seconds = divmod(int(age_s(lease)), 60)
    doing = [lease.get("version"), f"step {lease['step']}" if lease.get("step") else None]
    told = "".join(f", {part}" for part in doing if part)
    return f"{lease['owner']} (pid {lease['pid']} there), run {lease['run_id']}, for {minutes} min {seconds} s{told}"


def how_to_unlock(lease: dict) -> str:
    """The way out for a person."""
    return (
        "Wait for it to end (-e run_wait_s=600), or end that run: its lease goes with it. If it hangs, on the gateway: "
        f"sudo greenroom unlock --token {lease['token']} --reason '<why>'"
    )


class Held:
    """A lease and the lock that this process keeps for it. `taken_over` is the lease of a dead holder, or None."""

    def __init__(self, leases: LeaseFile, handle: int, lease: dict, taken_over: dict | None):
        self.leases, self.handle, self.lease, self.taken_over = leases, handle, lease, taken_over

    def drop(self) -> None:
        """Let the lock go and leave the file: whoever comes waits for the grace."""
        if self.handle >= 0:
            fcntl.flock(self.handle, fcntl.LOCK_UN)  # closing alone would leave it to a child that was forked meanwhile
            os.close(self.handle)
            self.handle = -1

    def give_back(self) -> None:
        """End the lease, if it is still this one."""
        with self.leases.lock():
            if self.is_mine():
                self.leases.remove()
        self.drop()

    def is_mine(self) -> bool:
        """Whether the file still names this lease; not after `unlock` or the end of its run."""
        held = self.leases.read()
        return bool(held) and held["fencing"] == self.lease["fencing"]


class LeaseFile:
    """`lease.json`, `lease.lock` and `fencing.json` in a service's state directory."""

    def __init__(self, directory: str | os.PathLike):
        self.directory = Path(directory)
        self.path = self.directory / "lease.json"
        self.lock_path = self.directory / "lease.lock"
        self.fencing_path = self.directory / "fencing.json"

    def lock(self, timeout_s: float = 10.0):
        """The lock of the whole state directory, as a context manager; held for each change, never for long. See `durable.locked`."""
        return locked(self.directory / ".lock", timeout_s)

    def read(self) -> dict | None:
        """The lease in the file, its holder alive or not; None if there is none. Raises LeaseError if the file was cut or edited."""
        try:
            return read_sealed(self.path, "If no run is active, remove this file; the fencing number beside it goes on.")
        except DurableError as error:
            raise LeaseError(str(error)) from error

    def last_fencing(self) -> int:
        """The highest fencing number ever given. Raises LeaseError if its file was cut or edited."""
        try:
            kept = read_sealed(self.fencing_path, "Write it anew from the highest `fencing` in ledger.jsonl: see docs/state.md.")
        except DurableError as error:
            raise LeaseError(str(error)) from error
        return kept["fencing"] if kept else 0

    def _next_fencing(self) -> int:
        number = max(self.last_fencing(), (self.read() or {}).get("fencing", 0)) + 1
        write_sealed(self.fencing_path, {"schema": SCHEMA, "fencing": number})
        return number

    def _try(self, handle: int, how: int) -> bool:
        try:
            fcntl.flock(handle, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def alive(self) -> bool:
        """Whether somebody lives who holds the lease. Not to be called under `lock`."""
        if not self.path.exists() or not self.lock_path.exists():
            return False
        with self.lock(), open(self.lock_path, "rb") as stream:
            return not self._try(stream.fileno(), fcntl.LOCK_SH)

    def acquire(
        self,
        *,
        owner: str,
        run_id: str,
        pid: int | None = None,
        version: str | None = None,
        step: str | None = None,
        wait_s: float = 0.0,
        grace_s: float = GRACE_S,
        again: int | None = None,
    ) -> Held:
        """Take the lease; it ends with this process. Waits up to `wait_s` for a live holder, and always for the grace of a dead one.

        owner: `anna@control1`; pid: of the control process there. again: the fencing number under which this run held it before its channel
        was lost. Raises LeaseHeld: somebody else holds it, or with `again` it was lost for good.
        """
        began, dead = time.monotonic(), (None, 0.0)  # a lease without a holder, and since when that is seen
        handle = os.open(self.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while True:
                now = time.monotonic()
                with self.lock():
                    held = self.read()
                    free = self._try(handle, fcntl.LOCK_EX)
                    mine = bool(held) and held["fencing"] == again and held["run_id"] == run_id
                    if again is not None and not mine:
                        raise LeaseHeld(
                            f"fencing number {again} of run {run_id} was lost" + (f" to {describe(held)}" if held else ""), held
                        )
                    if free and mine:
                        return Held(self, handle, held, None)
                    if free and held and dead[0] != held["fencing"]:
                        dead = (held["fencing"], now)
                    if free and (held is None or now - dead[1] >= grace_s):
                        return Held(self, handle, self._write(owner, run_id, pid, version, step), held)
                    if free:
                        fcntl.flock(handle, fcntl.LOCK_UN)
                    else:
                        dead = (None, 0.0)
                # Without a file the lock is about to be free: its holder has given the lease back. So it is with a dead holder's lease.
                # And a run that comes back waits until the other end has noticed, too, that its channel is dead.
                patience = wait_s if held and not free and not mine else max(wait_s, grace_s + 20)
                if now - began >= patience:
                    raise LeaseHeld(f"the lease is held by {describe(held)}. {how_to_unlock(held)}" if held else "the lease is busy", held)
                time.sleep(POLL_S)
        except BaseException:
            os.close(handle)
            raise

    def _write(self, owner: str, run_id: str, pid: int | None, version: str | None, step: str | None) -> dict:
        return write_sealed(self.path, {
            "schema": SCHEMA, "fencing": self._next_fencing(), "owner": owner, "pid": os.getpid() if pid is None else pid,
            "run_id": run_id, "version": version, "step": step,
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "token": secrets.token_hex(4), "gateway_boot_id": boot_id(), "taken_uptime_s": uptime_s(),
            "taken_epoch_s": round(time.time(), 3),
        })  # fmt: skip

    @contextlib.contextmanager
    def held(self, *, owner: str, run_id: str, step: str, wait_s: float = 0.0) -> Iterator[dict]:
        """A lease for as long as the body runs, for a command of this very process. Raises LeaseHeld."""
        mine = self.acquire(owner=owner, run_id=run_id, step=step, wait_s=wait_s)
        try:
            yield mine.lease
        finally:
            mine.give_back()

    def require(self, fencing: int, run_id: str | None = None) -> dict:
        """The lease, if it is the caller's. Raises LeaseHeld otherwise: the caller must not write."""
        held = self.read()
        if held is None:
            raise LeaseHeld(
                f"fencing number {fencing} holds no lease: there is none (highest given: {self.last_fencing()}). Start the run again."
            )
        if held["fencing"] != fencing or (run_id is not None and held["run_id"] != run_id):
            raise LeaseHeld(
                f"fencing number {fencing} is stale: the lease is held by {describe(held)} with number {held['fencing']}.", held
            )
        return held

    def release(self, fencing: int, run_id: str | None = None) -> bool:
        """Give a run's lease back; False if nobody holds one. The process that keeps its lock sees it and ends. Under `lock`.

        Raises LeaseHeld if it is somebody else's by now.
        """
        held = self.read()
        if held is None:
            return False
        if held["fencing"] != fencing or (run_id is not None and held["run_id"] != run_id):
            raise LeaseHeld(f"not given back: fencing number {fencing} lost the lease; now it is held by {describe(held)}.", held)
        self.remove()
        return True

    def unlock(self, token: str | None, *, force: bool = False) -> dict | None:
        """Remove the lease whose token this is, or any by `force` (a person's decision); the removed one, None if there was none.

        A file that was cut or edited has no token to compare; it is never removed here. Under `lock`.
        Raises LeaseHeld when the token is another lease's.
        """
        held = self.read()
        if held is None:
            return None
        if not force and not secrets.compare_digest(str(token).encode(), held["token"].encode()):
            raise LeaseHeld(f"that token belongs to another lease; this one is held by {describe(held)}. See `greenroom status`.", held)
        self.remove()
        return held

    def remove(self) -> None:
        """Remove the file; a contender gets in as soon as the lock is free. Under `lock`."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        fsync_dir(self.directory)
