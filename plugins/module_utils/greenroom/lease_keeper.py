"""The control node's end of a run's lease: a process of its own that lives as long as ansible-playbook and keeps the channel to `hold.py`.

It watches that process by a pidfd, which cannot be another process's: after a SIGKILL it sees the end at once, closes the channel, and
the gateway's lock goes. A channel that breaks while the run lives is made again, under the same fencing number, as long as nobody took
the lease.
Runs on the control node only. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

BEAT_S = 4.0
AGAIN_S = 2.0  # between two tries to come back
SENT = ("durable", "switch", "slots", "state", "lease", "ledger", "releases", "hold")  # what hold.py needs, in the order of its imports
# The rest of the line's words come from the connection; what precedes the request (a prompt's answer) is passed over.
BOOTSTRAP = """
import json, sys, types
line = " "
while line and not line.startswith("{"):
    line = sys.stdin.readline()
request = json.loads(line)
package = types.ModuleType("greenroom")
package.__path__ = []
sys.modules["greenroom"] = package
for name, source in request.pop("modules"):
    module = types.ModuleType("greenroom." + name)
    module.__package__ = "greenroom"
    sys.modules[module.__name__] = module
    exec(compile(source, name + ".py", "exec"), module.__dict__)
sys.exit(sys.modules["greenroom.hold"].serve(request))
"""


def remote_command(python: str = "/usr/bin/python3") -> str:
    """The command on the gateway, for a shell."""
    return f"{python} -I -c {shlex.quote(BOOTSTRAP)}"


def control_process() -> int:
    """The pid of the ansible-playbook that this process descends from, the parent's where there is none.

    Ansible forks workers that carry the same command line, so the last of the consecutive matches going upwards is taken.
    """
    found, walk = None, os.getpid()
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


def request_line(request: Mapping) -> bytes:
    """The request with the sources that `hold.py` needs, as the one line that starts it."""
    folder = Path(__file__).parent
    sources = [(name, (folder / f"{name}.py").read_text(encoding="utf-8")) for name in SENT]
    return json.dumps({**request, "modules": sources}).encode() + b"\n"


class Channel:
    """One connection to the gateway: `argv` is started, gets `first` (a password that it asks for, or nothing) and the request."""

    def __init__(self, argv: list[str], first: str, request: Mapping):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(argv, start_new_session=True, **pipes)
        self.heard = b""
        with contextlib.suppress(OSError):
            self.process.stdin.write(first.encode() + request_line(request))
            self.process.stdin.flush()

    def lines(self) -> Iterator[dict]:
        """What the gateway said since the last call; waits for nothing. Raises EOFError at the channel's end."""
        block = os.read(self.process.stdout.fileno(), 65536)
        *whole, self.heard = (self.heard + block).split(b"\n")
        for line in whole:
            if line.startswith(b"{"):
                yield json.loads(line)
        if not block:
            raise EOFError

    def beat(self) -> None:
        """Tell the gateway that the run lives."""
        with contextlib.suppress(OSError):
            self.process.stdin.write(b"\n")
            self.process.stdin.flush()

    def close(self) -> str:
        """End it; what it said on standard error."""
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return self.process.stderr.read().decode(errors="replace").strip()[-500:]


def keep(argv: list[str], first: str, request: Mapping, pid: int, answer: object) -> int:
    """Get the lease, write the gateway's answer as one line to `answer`, and keep it until `pid` ends or it is given back."""
    watched = os.pidfd_open(pid)
    channel, told, beat = Channel(argv, first, request), None, time.monotonic()
    while True:
        ready = select.select([watched, channel.process.stdout], [], [], 1.0)[0]
        if watched in ready:
            channel.close()
            return 0
        if channel.process.stdout in ready:
            try:
                for line in channel.lines():
                    if told is None:
                        told = line
                        answer.write(json.dumps(line).encode() + b"\n")
                        answer.close()
                    if "ended" in line or "refused" in line:
                        channel.close()
                        return 0
            except EOFError:
                trouble = channel.close()
                if told is None:
                    said = {"refused": f"the gateway could not be asked for the lease: {trouble or 'no answer'}", "exit_status": 3}
                    answer.write(json.dumps({**said, "holder": None}).encode() + b"\n")
                    answer.close()
                    return 3
                if select.select([watched], [], [], AGAIN_S)[0]:
                    return 0
                channel = Channel(argv, first, {**request, "again": told["fencing"], "wait_s": 0})
        if time.monotonic() - beat >= BEAT_S:
            channel.beat()
            beat = time.monotonic()


def start(argv: list[str], first: str, request: Mapping, pid: int) -> dict:
    """Start the keeper for control process `pid`; the gateway's answer: {fencing, taken_over} or {refused, holder, exit_status}."""
    folder = str(Path(__file__).resolve().parents[1])
    code = f"import sys; sys.path.insert(0, {folder!r}); from greenroom.lease_keeper import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    process.stdin.write(json.dumps({"argv": argv, "first": first, "request": dict(request), "pid": pid}).encode())
    process.stdin.close()
    line = process.stdout.readline()
    process.stdout.close()
    return json.loads(line) if line else {"refused": "the lease's keeper ended without a word", "holder": None, "exit_status": 3}


def main() -> int:
    """The keeper's process: its job comes over standard input, its answer goes to standard output."""
    job = json.loads(sys.stdin.buffer.read())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are meant for the run, whose end is what counts
    with contextlib.suppress(ProcessLookupError):
        return keep(job["argv"], job["first"], job["request"], job["pid"], os.fdopen(os.dup(1), "wb"))
    return 0
