"""The slot agent: on each app host it keeps worker and scheduled units running for the live colour only.

It asks the gateway's internal address which slot is live and starts and stops systemd units: the old colour's are stopped, seen to
be stopped, and only then the new colour's started, so two versions never eat one queue. While the gateway cannot be reached or
gives no clear answer, what runs keeps running. `{"slot": null}` is a clear answer: nothing is live, so nothing runs.

Standard library only; runs as root under systemd (Type=notify, WatchdogSec=30 or more):
    /usr/bin/python3 -m greenroom.slot_agent --config /etc/<service>/slot-agent.json
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from .durable import write_atomic
from .switch import SLOTS, other

UNIT = re.compile(r"[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]*\.(service|timer)\Z")
ANSWER_LIMIT = 4096  # bytes
DEFAULTS = {"poll_interval_s": 2.0, "answer_timeout_s": 1.5, "stop_timeout_s": 90.0, "settle_every_s": 10.0, "systemctl": "systemctl"}
REQUIRED = ("service", "gateway_url", "units", "view")


class ConfigError(Exception):
    """The configuration file is unusable; the text names file and key."""


def load_config(path: str | os.PathLike) -> dict:
    """The agent's configuration with its defaults filled in.

    Keys: service, gateway_url, units {blue: [unit, …], green: […]}, view (path of the status file); optional poll_interval_s,
    answer_timeout_s, stop_timeout_s, settle_every_s (seconds), systemctl (program). Raises ConfigError.
    """
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(given, dict):
        raise ConfigError(f"{path}: is no JSON object")
    unknown = sorted(set(given) - set(DEFAULTS) - set(REQUIRED))
    missing = [key for key in REQUIRED if key not in given]
    if unknown or missing:
        raise ConfigError(f"{path}: " + "; ".join(
            [f"unknown key {key!r} (known: "
             f"{', '.join((*REQUIRED, *DEFAULTS))})" for key in unknown] + [f"key {key!r} is missing" for key in missing]
        ))  # fmt: skip
    config = {**DEFAULTS, **given}
    units = config["units"]
    if not isinstance(units, dict) or set(units) != set(SLOTS):
        raise ConfigError(f"{path}: key 'units' must hold exactly blue and green")
    for slot in SLOTS:
        bad = [unit for unit in units[slot] if not isinstance(unit, str) or not UNIT.match(unit)]
        if bad:
            raise ConfigError(f"{path}: key 'units.{slot}': {bad[0]!r} is no name of a .service or .timer unit")
    both = sorted(set(units["blue"]) & set(units["green"]))
    if both:
        raise ConfigError(f"{path}: key 'units': {both[0]!r} is in both slots")
    for key in ("poll_interval_s", "answer_timeout_s", "stop_timeout_s", "settle_every_s"):
        if isinstance(config[key], bool) or not isinstance(config[key], (int, float)) or not 0 < config[key] <= 3600:
            raise ConfigError(f"{path}: key {key!r} must be a number of seconds between 0 and 3600")
    if not str(config["gateway_url"]).startswith(("http://", "https://")):
        raise ConfigError(f"{path}: key 'gateway_url' must be an http address")
    return config


def log(event: str, level: str = "info", **about: object) -> None:
    """One JSON line on standard output: time, level, event and the rest."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    print(json.dumps({"time": now, "level": level, "event": event, **about}, ensure_ascii=False), flush=True)


def notify(message: str) -> None:
    """Tell systemd (`READY=1`, `WATCHDOG=1`, `STATUS=…`); nothing outside a notify unit."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
        line.sendto(message.encode(), address)


def ask_gateway(url: str, timeout_s: float) -> str | None:
    """The live slot as the gateway says it; None when nothing is live.

    Raises ValueError (the answer decides nothing) or OSError (no answer). Proxies of the environment are not used.
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout_s) as answer:
            status, body = answer.status, answer.read(ANSWER_LIMIT + 1)
    except urllib.error.HTTPError as error:
        raise ValueError(f"HTTP status {error.code}") from error
    except urllib.error.URLError as error:
        raise OSError(f"no answer ({error.reason})") from error
    except http.client.HTTPException as error:
        raise ValueError(f"a broken answer ({type(error).__name__})") from error
    except OSError as error:
        raise OSError(f"no answer ({error})") from error
    if status != 200:
        raise ValueError(f"HTTP status {status}")
    if len(body) > ANSWER_LIMIT:
        raise ValueError(f"more than {ANSWER_LIMIT} bytes")
    try:
        said = json.loads(body)
    except ValueError as error:
        raise ValueError("no JSON") from error
    if not isinstance(said, dict) or "slot" not in said or said["slot"] not in (*SLOTS, None):
        raise ValueError("no field slot with blue, green or null")
    return said["slot"]


class Agent:
    """One host's agent. `poll` does one round; `run` does rounds until SIGTERM."""

    def __init__(self, config: dict):
        self.config = config
        self.units = config["units"]
        self.slot: str | None = None
        self.decided = False  # whether the gateway ever gave a clear answer since the start
        self.doubt: str | None = None  # why the last answer decided nothing
        self.trouble: str | None = None  # what could not be started or stopped
        self.states: dict[str, str] = {}
        self.changed_at: str | None = None
        self.settled_at = 0.0
        self.stopping = False

    # -- systemd -------------------------------------------------------------------------------------------------------

    def _systemctl(self, *arguments: str, timeout_s: float) -> subprocess.CompletedProcess:
        """Run systemctl; the watchdog is fed meanwhile. A run over its time limit is ended and gives return code 124."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        try:
            started = subprocess.Popen([self.config["systemctl"], *arguments], text=True, **pipes)
        except OSError as error:
            return subprocess.CompletedProcess(arguments, 127, "", f"{self.config['systemctl']}: {error}")
        with started as process:
            deadline = time.monotonic() + timeout_s
            while True:
                try:
                    out, err = process.communicate(timeout=1)
                    return subprocess.CompletedProcess(arguments, process.returncode, out, err)
                except subprocess.TimeoutExpired:
                    notify("WATCHDOG=1")
                    if time.monotonic() > deadline:
                        process.kill()
                        out, err = process.communicate()
                        return subprocess.CompletedProcess(arguments, 124, out, err or f"no end within {timeout_s:g} s")

    def _with_partners(self, slot: str) -> list[str]:
        """A slot's units to stop: stopping a timer leaves its running service alone, so that one is named too."""
        names = []
        for unit in self.units[slot]:
            names.append(unit)
            if unit.endswith(".timer") and (partner := unit.removesuffix(".timer") + ".service") not in self.units[slot]:
                names.append(partner)
        return names

    def _look(self) -> bool:
        """Read the ActiveState of every unit; False (and a stated trouble) when systemd does not say."""
        names = [*self._with_partners("blue"), *self._with_partners("green")]
        if not names:
            self.states = {}
            return True
        done = self._systemctl("show", "--property=Id,ActiveState", *names, timeout_s=30)
        blocks = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in done.stdout.strip().split("\n\n")]
        if done.returncode or len(blocks) != len(names) or any("ActiveState" not in block for block in blocks):
            return self._troubled(f"systemctl show gave no state (status {done.returncode}): {done.stderr.strip()[-300:]}")
        self.states = {name: block["ActiveState"] for name, block in zip(names, blocks, strict=True)}
        return True

    def _troubled(self, text: str) -> bool:
        if text != self.trouble:
            log("trouble", "error", detail=text)
        self.trouble = text
        return False

    def _running(self, slot: str) -> list[str]:
        """Units of a slot that are not seen to be stopped; one that is starting or restarting counts as running."""
        return [unit for unit in self._with_partners(slot) if self.states.get(unit) not in ("inactive", "failed")]

    def _stop(self, slot: str) -> bool:
        running = self._running(slot)
        if not running:
            return True
        log("stop", slot=slot, units=running)
        done = self._systemctl("stop", *running, timeout_s=self.config["stop_timeout_s"])
        if not self._look():
            return False
        left = self._running(slot)
        if left:
            return self._troubled(
                f"still running in {slot}: {', '.join(left)} (systemctl stop: status {done.returncode}, {done.stderr.strip()[-300:]})"
            )
        return True

    def _start(self, slot: str) -> bool:
        wanted = [unit for unit in self.units[slot] if self.states.get(unit) in ("inactive", "failed", None)]
        if not wanted:
            return True
        log("start", slot=slot, units=wanted)
        done = self._systemctl("start", *wanted, timeout_s=self.config["stop_timeout_s"])
        if not self._look():
            return False
        down = [unit for unit in self.units[slot] if self.states.get(unit) in ("inactive", "failed")]
        if down:
            return self._troubled(
                f"not running in {slot}: {', '.join(down)} (systemctl start: status {done.returncode}, {done.stderr.strip()[-300:]})"
            )
        return True

    def settle(self) -> bool:
        """Make what runs fit the live slot: first stop, and only when that is seen done, start."""
        if not self._look():
            return False
        unwanted = SLOTS if self.slot is None else (other(self.slot),)
        stopped = [self._stop(slot) for slot in unwanted]  # both are tried, also when the first fails
        if not all(stopped):
            return False  # nothing new is started beside what would not stop
        if self.slot is not None and not self._start(self.slot):
            return False
        if self.trouble:
            log("recovered", was=self.trouble)
        self.trouble = None
        return True

    # -- rounds --------------------------------------------------------------------------------------------------------

    def poll(self) -> None:
        """One round: ask, then settle when the answer is new, something is wrong, or it is time to look again."""
        try:
            slot = ask_gateway(self.config["gateway_url"], self.config["answer_timeout_s"])
        except (OSError, ValueError) as error:
            if self.doubt is None:
                log("undecided", "warning", detail=str(error), keeps=self.slot if self.decided else "what runs")
            self.doubt = str(error)
            if not self.decided:
                self._look()
                self.write_view()
                return
            slot = self.slot
        else:
            if self.doubt is not None:
                log("answered", slot=slot, after=self.doubt)
            self.doubt = None
        fresh = not self.decided or slot != self.slot
        if fresh:
            log("live", slot=slot, before=self.slot if self.decided else "unknown")
            self.slot, self.decided = slot, True
            self.changed_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        if fresh or self.trouble or time.monotonic() - self.settled_at >= self.config["settle_every_s"]:
            self.settle()
            self.settled_at = time.monotonic()
        self.write_view()

    def view(self) -> dict:
        """What the agent believes and sees, for checks: `settled` is true only when everything runs as the live slot demands."""
        running = {slot: [unit for unit in self.units[slot] if self.states.get(unit) == "active"] for slot in SLOTS}
        return {
            "service": self.config["service"],
            "slot": self.slot,
            "decided": self.decided,
            "doubt": self.doubt,
            "trouble": self.trouble,
            "settled": self.decided and self.trouble is None,
            "running": running,
            "states": self.states,
            "changed_at": self.changed_at,
            "checked_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            "uptime_s": round(time.clock_gettime(time.CLOCK_BOOTTIME), 1),
            "pid": os.getpid(),
        }

    def write_view(self) -> None:
        """Write the view (atomic). A full disk must not stop the agent: it is said, and the round goes on."""
        path = Path(self.config["view"])
        try:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            write_atomic(path, json.dumps(self.view(), indent=1, sort_keys=True).encode() + b"\n")
        except OSError as error:
            log("view_not_written", "error", path=str(path), detail=str(error))

    def run(self) -> None:
        """Rounds until SIGTERM or SIGINT. Units keep running: a restart of the agent must not be felt."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(self, "stopping", True))
        log("started", service=self.config["service"], gateway=self.config["gateway_url"], units=self.units)
        ready = False
        while not self.stopping:
            begun = time.monotonic()
            self.poll()
            notify("WATCHDOG=1" if ready else "READY=1\nWATCHDOG=1")
            ready = True
            notify(
                "STATUS=live: "
                f"{self.slot or 'none'}{'; undecided: ' + self.doubt if self.doubt else ''}{'; ' + self.trouble if self.trouble else ''}"
            )
            while not self.stopping and (left := begun + self.config["poll_interval_s"] - time.monotonic()) > 0:
                time.sleep(min(left, 0.2))
        notify("STOPPING=1")
        log("stopped")


def main(argv: list[str] | None = None) -> int:
    """Run the agent; 2 when its configuration is unusable."""
    parser = argparse.ArgumentParser(prog="slot_agent", description="Keeps worker and scheduled units running for the live slot only.")
    parser.add_argument("--config", required=True)
    parser.add_argument("--once", action="store_true", help="one round, then end: 0 settled, 1 not")
    args = parser.parse_args(argv)
    try:
        agent = Agent(load_config(args.config))
    except ConfigError as error:
        print(f"slot_agent: {error}", file=sys.stderr)
        return 2
    if args.once:
        agent.poll()
        return 0 if agent.view()["settled"] else 1
    agent.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
