"""The lease: one changing command at a time. A small file on the gateway, written under a lock, with a fencing number.

The holder is the control process of a run: user, control host, that machine's boot id, process id and its start time.
The fencing number only grows; every changing step names it, so a holder that lost its lease is refused later.
Age is measured by the gateway's own clock since boot, so a step of the wall clock neither frees nor prolongs a lease.
Standard library only.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from .durable import DurableError, fsync_dir, locked, read_sealed, write_sealed

SCHEMA = 1
DEFAULT_TTL_S = 7200
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


def pid_start(pid: int) -> int | None:
    """Start time of process `pid` in clock ticks since boot, None if it does not run. With the pid it names one process for good."""
    try:
        about = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = about.rpartition(")")[2].split()  # the command, in parentheses before it, may hold blanks
    return None if fields[0] in "ZX" else int(fields[19])


def control_process(pid: int | None = None) -> int:
    """The pid of the ansible-playbook that `pid` (default: this process) descends from; `pid`'s parent where there is none.

    Ansible forks workers that carry the same command line, so the last of the consecutive matches going upwards is taken.
    """
    found, walk = None, os.getpid() if pid is None else pid
    while walk > 1:
        try:
            status = Path(f"/proc/{walk}/status").read_text(encoding="utf-8", errors="replace")
            words = Path(f"/proc/{walk}/cmdline").read_bytes().split(b"\0")
        except OSError:
            break
        matches = any(os.path.basename(word) in (b"ansible-playbook", b"ansible") for word in words[:3])
        if found and not matches:
            break
        if matches:
            found = walk
        walk = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:"))
    return found or os.getppid()


def identity(pid: int | None = None) -> dict:
    """Who a control process is: `{host, boot_id, pid, pid_start}`. Made on the control node, handed to the gateway."""
    pid = control_process() if pid is None else pid
    return {"host": socket.gethostname(), "boot_id": boot_id(), "pid": pid, "pid_start": pid_start(pid)}


def is_dead(control: dict) -> bool | None:
    """Whether the process `control` (see `identity`) is gone: True, False, or None when this machine cannot know.

    It can know only of processes of its own current boot.
    """
    if not control or control.get("boot_id") != boot_id() or control.get("host") != socket.gethostname():
        return None
    return pid_start(int(control["pid"])) != control.get("pid_start")


def _utc() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def age_s(lease: dict) -> float:
    """Seconds since the lease was taken, by the clock of the machine it lies on.

    After a reboot of that machine only the wall clock is left; the uptime is then the least it can be.
    """
    uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    if lease["gateway_boot_id"] == boot_id():
        return max(0.0, uptime - lease["taken_uptime_s"])
    return max(uptime, time.time() - lease["taken_epoch_s"])


def expired(lease: dict) -> bool:
    """Whether the lease outlived its `ttl_s`."""
    return age_s(lease) > lease["ttl_s"]


def describe(lease: dict) -> str:
    """One line for people: who holds it, where, since when, doing what."""
    minutes, seconds = divmod(int(age_s(lease)), 60)
    doing = " ".join(str(part) for part in (lease.get("version"), f"step {lease['step']}" if lease.get("step") else None) if part)
    return (
        f"{lease['owner']} on {lease['control']['host']} (pid {lease['control']['pid']}), run {lease['run_id']}, "
        f"for {minutes} min {seconds} s{', ' + doing if doing else ''}"
    )


def how_to_unlock(lease: dict) -> str:
    """The way out for a person who knows that the holder is gone."""
    left = max(0, int(lease["ttl_s"] - age_s(lease)))
    return (
        f"Wait for it to end; it expires by itself in {left // 60} min {left % 60} s. If that run is dead, on the gateway: "
        f"sudo greenroom unlock --token {lease['token']} --reason '<why>'"
    )


class LeaseFile:
    """`lease.json` and `fencing` in a service's state directory. Callers hold the directory's lock around each method."""

    def __init__(self, directory: str | os.PathLike):
        self.directory = Path(directory)
        self.path = self.directory / "lease.json"
        self.fencing_path = self.directory / "fencing.json"

    def lock(self, timeout_s: float = 10.0):
        """The lock of the whole state directory, as a context manager; see `durable.locked`."""
        return locked(self.directory / ".lock", timeout_s)

    def read(self) -> dict | None:
        """The lease in the file, expired or not; None if nobody holds it. Raises LeaseError if the file was cut or edited."""
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

    def acquire(
        self,
        *,
        owner: str,
        control: dict,
        run_id: str,
        ttl_s: int = DEFAULT_TTL_S,
        version: str | None = None,
        step: str | None = None,
        dead: Iterable[int] = (),
    ) -> tuple[dict, dict | None, bool]:
        """Take the lease, or keep it when the same run asks again.

        `control` is `identity()` of the control process. `dead` names fencing numbers whose holders the caller has seen to be
        dead (`is_dead` on the control node): the gateway itself cannot see that process.

        Returns (lease, the lease taken over or None, whether anything was written).
        Raises LeaseHeld when another run holds it.
        """
        try:
            texts = {key: str(control[key]) for key in ("host", "boot_id")}
            control = {**texts, **{key: int(control[key]) for key in ("pid", "pid_start")}}
        except (KeyError, TypeError, ValueError) as error:
            raise LeaseError(f"control must hold host, boot_id, pid and pid_start, as `state: control` returns them ({error!r})") from error
        held = self.read()
        if held and held["run_id"] == run_id and held["control"] == control and not expired(held):
            if (held["version"], held["step"]) == (version or held["version"], step or held["step"]):
                return held, None, False
            renewed = {**held, "version": version or held["version"], "step": step or held["step"]}
            return write_sealed(self.path, renewed), None, True
        if held and not expired(held) and held["fencing"] not in set(dead):
            raise LeaseHeld(f"the lease is held by {describe(held)}. {how_to_unlock(held)}", held)
        lease = {
            "schema": SCHEMA,
            "fencing": self._next_fencing(),
            "owner": owner,
            "control": control,
            "run_id": run_id,
            "version": version,
            "step": step,
            "started": _utc(),
            "ttl_s": int(ttl_s),
            "token": secrets.token_hex(4),
            "gateway_boot_id": boot_id(),
            "taken_uptime_s": round(time.clock_gettime(time.CLOCK_BOOTTIME), 3),
            "taken_epoch_s": round(time.time(), 3),
        }
        return write_sealed(self.path, lease), held, True

    @contextlib.contextmanager
    def held(self, *, owner: str, run_id: str, step: str, wait_s: float = 0.0) -> Iterator[dict]:
        """A lease for as long as the body runs, for commands of this very process. Raises LeaseHeld."""
        deadline = time.monotonic() + wait_s
        while True:
            try:
                with self.lock():
                    lease = self.acquire(owner=owner, control=identity(os.getpid()), run_id=run_id, ttl_s=60, step=step)[0]
                break
            except LeaseHeld:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.2)
        try:
            yield lease
        finally:
            with self.lock():
                self.release(lease["fencing"], run_id)

    def require(self, fencing: int, run_id: str | None = None) -> dict:
        """The lease, if it is the caller's and still in force. Raises LeaseHeld otherwise: the caller must not write."""
        held = self.read()
        if held is None:
            raise LeaseHeld(
                f"fencing number {fencing} holds no lease: there is none (highest given: {self.last_fencing()}). Start the run again."
            )
        if held["fencing"] != fencing or (run_id is not None and held["run_id"] != run_id):
            raise LeaseHeld(
                f"fencing number {fencing} is stale: the lease is held by {describe(held)} with number {held['fencing']}.", held
            )
        if expired(held):
            raise LeaseHeld(f"the lease with fencing number {fencing} expired (limit {held['ttl_s']} s). Start the run again.", held)
        return held

    def release(self, fencing: int, run_id: str | None = None) -> bool:
        """Give the lease back; False if nobody holds one. Raises LeaseHeld if it is somebody else's by now."""
        held = self.read()
        if held is None:
            return False
        if held["fencing"] != fencing or (run_id is not None and held["run_id"] != run_id):
            raise LeaseHeld(f"not given back: fencing number {fencing} lost the lease; now it is held by {describe(held)}.", held)
        self._remove()
        return True

    def unlock(self, token: str) -> dict | None:
        """Remove the lease whose token this is (a person's decision); the removed lease, None if there was none.

        A file that was cut or edited has no token to compare; it is never removed here.
        Raises LeaseHeld when the token is another lease's.
        """
        held = self.read()
        if held is None:
            return None
        if not secrets.compare_digest(str(token).encode(), held["token"].encode()):
            raise LeaseHeld(f"that token belongs to another lease; this one is held by {describe(held)}. See `greenroom status`.", held)
        self._remove()
        return held

    def _remove(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        fsync_dir(self.directory)
