"""The guard: a service on the gateway that takes users back to the previous release when the live one is proved bad.

It needs no control node. Every tick it reads the gateway's log, looks at both slots, judges (`guard_rules.py`) and makes at most one
decision. It stands aside while a run holds the lease and in maintenance mode, rolls back at most once a release and never from where it
went back to; then it is locked and tells people. What it remembers outlives it (`guard_memory.py`).

Standard library only; runs as root under systemd (Type=notify):
    /usr/bin/python3 -m greenroom.guard --config /etc/greenroom/<service>/guard.json
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from . import guard_rules as rules
from .durable import DurableError
from .guard_config import ConfigError, read_config
from .guard_log import LogReader, Request, Window
from .guard_memory import Memory, watched_s, write_metrics, write_report
from .guard_probe import Pages, look_at_slots
from .lease import LeaseError, LeaseHeld, describe
from .maintenance import Maintenance, MaintenanceError
from .notify import NotifyError, Outbox, load_config, message
from .releases import Releases
from .rollback import flip_back
from .slot_agent import ask_gateway, log, notify
from .state import StateError, utc
from .switch import SwitchError, other

VERIFY_LOOKS = 3  # healthy looks at every host that answered, one after the other, before a rollback counts as verified
VERIFY_INTERVAL_S = 1.0
TOLD_AGAIN_S = 600  # the same message at most this often
ALERTS = {
    "resources": "a host is short of a resource, not by the service; nothing is rolled back",
    "diverged": "a host serves another release than the live one; nothing is rolled back",
    "host_ill": "a host fails its health check while others serve; nothing is rolled back",
}
EPISODES = (*ALERTS, "state", "dependency_down", "blind", "locked", "cannot_roll_back")  # what is over when all is well again
DOOR_S = 3600  # maintenance mode that the guard turns on ends by itself


class Guard:
    """One service's guard. `tick` is one look and one decision; `run` ticks until SIGTERM."""

    def __init__(self, config: Mapping, *, act: Callable[..., dict] = flip_back, clock: Callable[[], float] | None = None):
        self.config, self.limits, self.act = config, config["guard"], act
        self.clock = clock or (lambda: time.clock_gettime(time.CLOCK_BOOTTIME))
        self.releases = Releases(config["state_dir"], config["service"], config["switch_dir"])
        self.maintenance = Maintenance(Path(config["switch_dir"]).parent / "maintenance")
        self.memory = Memory(Path(config["state_dir"]) / "guard.json")
        self.log = LogReader(config["log"], self.memory.kept["log"])
        self.windows = {name: Window(self.limits[name]["window_s"]) for name in ("errors", "p95")}
        self.pages = Pages(config["hosts"], config["metrics"], self.limits)
        self.excused = False  # whether the last look found a cause outside of the release
        self.before: float | None = None  # moment of the last tick
        self.aside: str | None = None
        self.current: set[str] = set()  # what was told, or would have been, at this tick
        self.verdict: rules.Verdict | None = None
        self.stopping = self.fresh = False
        try:
            self.outbox: Outbox | None = Outbox(load_config(config["notify"]))
        except NotifyError as error:
            self.outbox = None
            log("no_channel", "error", detail=str(error))

    # -- telling -------------------------------------------------------------------------------------------------------

    def tell(self, event: str, severity: str, title: str, text: str, **facts: object) -> None:
        """Tell people once per episode, at most every ten minutes; the journal and the memory get it too."""
        self.current.add(event)
        told = self.memory.now["told"].get(event)
        if told and (told["open"] or time.time() - told["at"] < TOLD_AGAIN_S):
            told["open"] = event in EPISODES
            return
        self.memory.now["told"][event] = {"at": time.time(), "open": event in EPISODES}
        self.memory.event(event, text)
        log(event, {"info": "info", "warning": "warning"}.get(severity, "error"), title=title, detail=text, **facts)
        problem = self.outbox and self.outbox.put(
            message(f"guard.{event}", severity, f"{self.config['service']}: {title}", text, gateway=os.uname().nodename, **facts)
        )
        self.fresh = True
        if problem:
            log("not_kept", "error", detail=problem)

    def _say_what_is_over(self) -> None:
        """What was told and is not so any more."""
        over = [event for event, told in self.memory.now["told"].items() if told["open"] and event not in self.current]
        for event in over:
            self.memory.now["told"][event]["open"] = False
        if over:
            self.memory.now["told"].pop("over", None)
            self.tell("over", "info", f"over: {', '.join(over)}", "the guard does not see it any more")

    # -- one tick ------------------------------------------------------------------------------------------------------

    def tick(self) -> rules.Verdict | None:
        """One look, one decision; the verdict, None if nothing was judged."""
        moment = self.clock()
        passed = 0.0 if self.before is None else max(0.0, min(moment - self.before, 3 * self.limits["interval_s"]))
        requests, trouble = self._read_log()
        past, self.before = self.before is None, moment  # what was logged while the guard was away is counted, never judged
        self.verdict, self.current = None, set()
        try:
            state, users_on = self.releases.read(), self.releases.switch.read()
        except (StateError, SwitchError) as error:
            self._set_aside(f"the state cannot be trusted: {error}")
            self.tell("state", "critical", "the guard cannot see what is live", str(error))
        else:
            self._follow(state)
            self._set_aside(self._why_aside(state, users_on))
        self._count(requests, passed)
        if self.aside is None and not self._over():
            self.verdict = self._judge(moment, users_on, [] if past else requests, trouble)
            self._decide(self.verdict, state, moment)
            self._say_what_is_over()
        self._keep()
        return self.verdict

    def _read_log(self) -> tuple[list[Request], str | None]:
        try:
            return self.log.read(), None
        except OSError as error:
            return [], f"{self.config['log']}: {error.strerror}"

    def _follow(self, state: Mapping) -> None:
        """Begin anew when another release is live; what was seen of the one before is written down."""
        live, kept = state["live"], self.memory.kept
        number, name = (live["number"], f"{live['number']}-{live['version']}") if live else (None, None)
        if number == self.memory.now["number"]:
            return
        rollback, job = kept["rollback"], state["in_progress"]
        if rollback and rollback["state"] == "begun" and not job and live and number < rollback["number"]:
            self._moved(name, live["slot"], number)  # it was made, and the guard died before it knew
        elif rollback and rollback.get("to") != name and not (rollback["state"] == "begun" and job and job["kind"] == "rollback"):
            kept["rollback"] = None
        if self.memory.now["number"] is not None:
            self._report("ended")
        self.memory.begin(number, name)
        self._forget()

    def _why_aside(self, state: Mapping, users_on: str | None) -> str | None:
        """Why this is not the guard's time; None if it is."""
        try:
            lease = self.releases.lease.read()
        except LeaseError as error:
            return str(error)
        if lease and self.releases.lease.alive():
            return f"a run holds the lease: {describe(lease)}"
        if self.maintenance.read():
            return "maintenance mode"
        if not state["live"]:
            return "nothing is live"
        if users_on != state["live"]["slot"]:
            return f"users are on {users_on or 'the maintenance page'}, the state says {state['live']['slot']}"
        return None

    def _set_aside(self, why: str | None) -> None:
        if why and self.aside is None:
            log("aside", detail=why)
        elif why is None and self.aside is not None:
            log("watching", release=self.memory.now["release"])
            self._forget()
        self.aside = why

    def _forget(self) -> None:
        """Samples of another time say nothing about now."""
        for window in self.windows.values():
            window.clear()
        self.pages.clear()
        self.memory.now["streaks"], self.memory.now["blind_since"] = {}, {}

    def _count(self, requests: list[Request], passed: float) -> None:
        day = self.memory.day()
        day["aside_s" if self.aside else "seconds"] += passed
        served = [request for request in requests if request.slot]
        day["requests"] += len(served)
        day["failed"] += sum(request.failed for request in served)

    def _over(self) -> bool:
        """Whether the release was watched for its whole period, by a clock that only grows; its report is written once."""
        if watched_s(self.memory.now) < self.limits["observation_s"]:
            return False
        if not self.memory.now["reported"]:
            self.memory.now["reported"] = True
            self._report("period_over")
        return True

    # -- judging -------------------------------------------------------------------------------------------------------

    def _judge(self, moment: float, slot: str, requests: list[Request], trouble: str | None) -> rules.Verdict:
        now, limits = self.memory.now, self.limits
        looks = look_at_slots(self.config["hosts"], self.config["ports"], self.config["health"], limits["probe_timeout_s"])
        live, idle = looks[slot], looks[other(slot)]
        now["streaks"] = {host: 0 if look.ok else now["streaks"].get(host, 0) + 1 for host, look in live.items()}
        excuse = rules.not_the_release(live, idle)
        for window in self.windows.values():
            # What users got while the cause lay elsewhere, and until the next look, says nothing about the release.
            if excuse or self.excused:
                window.clear()
            else:
                window.add(moment, [request for request in requests if request.slot == slot])
        self.excused = bool(excuse)
        signals = [rules.health(now["streaks"], live, limits["health"])]
        if trouble:
            signals += [rules.Signal(name, rules.NONE, trouble) for name in ("errors", "p95")]
        else:
            errors, p95 = self.windows["errors"], self.windows["p95"]
            signals += [rules.errors(errors.count, errors.failed, limits["errors"]), rules.latency(p95.count, p95.p95_s(), limits["p95"])]
        signals += self.pages.signals(moment, slot)
        self._tally(signals)
        for one_of in signals:
            if one_of.state != rules.NONE:
                now["blind_since"].pop(one_of.name, None)
            elif now["blind_since"].setdefault(one_of.name, moment) > moment:  # booted meanwhile: the clock began anew
                now["blind_since"][one_of.name] = moment
        blind = {name: moment - since for name, since in now["blind_since"].items()}
        verdict = rules.judge(signals, blind, excuse, limits["blind"])
        if ill := rules.ill_hosts(now["streaks"], limits["health"]):
            verdict.alerts["host_ill"] = "; ".join(f"{host}: {live[host].reason}" for host in ill)
        strange = [f"{host} runs {look.release}" for host, look in live.items() if look.ok and look.release not in (None, now["release"])]
        if strange:
            verdict.alerts["diverged"] = "; ".join(strange)
        return verdict

    def _tally(self, signals: list[rules.Signal]) -> None:
        """Count what was judged today, and keep the worst windows."""
        day = self.memory.day()
        day["looks"] += 1
        day["health_failures"] += any(self.memory.now["streaks"].values())
        for signal_ in signals:
            if signal_.state in (rules.GOOD, rules.BAD, rules.FOREIGN):
                day["judged"][signal_.name] = day["judged"].get(signal_.name, 0) + 1
        errors, p95 = self.windows["errors"], self.windows["p95"]
        if errors.count >= self.limits["errors"]["min_samples"]:
            day["error_percent"] = max(day["error_percent"], round(100 * errors.failed / errors.count, 2))
        if p95.count >= self.limits["p95"]["min_samples"]:
            day["p95_ms"] = max(day["p95_ms"], round(p95.p95_s() * 1000, 1))

    # -- deciding ------------------------------------------------------------------------------------------------------

    def _decide(self, verdict: rules.Verdict, state: Mapping, moment: float) -> None:
        why = "; ".join(verdict.reasons)
        for event, text in verdict.alerts.items():
            self.tell(event, "warning", ALERTS[event], text)
        rollback = self.memory.kept["rollback"] or {}
        if rollback.get("state") == "moved":
            self._verify_rollback(verdict, moment)
        elif rollback.get("state") == "begun" and (state["in_progress"] or {}).get("kind") == "rollback":
            self._roll_back(rollback["why"], moment, rollback)  # the guard died in the middle: continued, not begun again
        elif verdict.kind == rules.BAD_RELEASE or (verdict.kind == rules.BLIND and self.limits["blind"]["action"] == "rollback"):
            self._roll_back(("blind: " if verdict.kind == rules.BLIND else "") + why, moment)
        elif verdict.kind == rules.DEPENDENCY_DOWN:
            self.tell("dependency_down", "critical", "ill, but not by its release; nothing is rolled back", why)
        elif verdict.kind == rules.BLIND:
            self.tell("blind", "warning", "the guard has no evidence", why)
        if verdict.kind in (rules.HEALTHY, rules.WAITING) and not any(self.memory.now["streaks"].values()):
            self.memory.kept["well_at"] = moment

    def _warm(self, slot: str, release: str) -> str | None:
        looks = look_at_slots(self.config["hosts"], self.config["ports"], self.config["health"], self.limits["probe_timeout_s"])
        return rules.not_ready(looks[slot], looks[other(slot)], release if self.config["health"]["release_field"] else None)

    def _roll_back(self, why: str, moment: float, begun: dict | None = None) -> None:
        kept, now = self.memory.kept, self.memory.now
        if kept["locked"]:
            text = f"{why}. It went back once already ({kept['locked']['why']}); a person decides: greenroom status"
            self.tell("locked", "critical", "bad again after an automatic rollback; the guard does nothing more", text)
            return
        kept["rollback"] = begun or {"state": "begun", "release": now["release"], "number": now["number"], "why": why, "at": utc(),
                                     "well_at": kept.get("well_at", moment)}  # fmt: skip
        self._keep()
        log("rolling_back", "error", release=kept["rollback"]["release"], why=why)
        try:
            done = self.act(self.releases, why=f"guard: {why}", who=f"guard@{os.uname().nodename}", warm=self._warm)
        except LeaseHeld as error:
            log("aside", detail=str(error))
        except (StateError, SwitchError, DurableError, OSError) as error:
            self.tell("cannot_roll_back", "critical", f"{now['release']} is bad and cannot be rolled back", f"{why}. {error}")
            if isinstance(error, SwitchError):
                self._close_door(f"{now['release']} is bad and the switch cannot be moved")
        else:
            self._moved(done["to"], done["slot"], int(done["to"].split("-")[0]))
            return
        if (self.releases.read()["in_progress"] or {}).get("kind") != "rollback":
            kept["rollback"] = None  # nothing was begun: judged anew

    def _moved(self, to: str, slot: str, number: int) -> None:
        """Users are on the release before. From here on the guard is locked for both."""
        about = self.memory.kept["rollback"]
        about |= {"state": "moved", "to": to, "slot": slot, "looks": 0}
        self.memory.kept["locked"] = {"numbers": [about["number"], number], "why": about["why"], "at": utc()}
        self.memory.event("rolled_back", f"{about['release']} -> {to}: {about['why']}")
        log("moved", "warning", release=about["release"], to=to)

    def _verify_rollback(self, verdict: rules.Verdict, moment: float) -> None:
        """What is announced is the verified result: the gateway says the slot, and its hosts are healthy several times in a row."""
        about = self.memory.kept["rollback"]
        try:
            served = ask_gateway(self.config["live_url"], self.limits["probe_timeout_s"])
        except (OSError, ValueError) as error:
            served = str(error)
        well = served == about["slot"] and not any(self.memory.now["streaks"].values())
        about["looks"] = about["looks"] + 1 if well else 0
        facts = {"from": about["release"], "to": about["to"], "seconds": round(max(0.0, moment - about["well_at"]), 1)}
        if about["looks"] >= VERIFY_LOOKS:
            about["state"] = "verified"
            self.tell("rolled_back", "critical", f"went back from {about['release']} to {about['to']}, verified", about["why"], **facts)
        elif verdict.kind in (rules.BAD_RELEASE, rules.DEPENDENCY_DOWN):
            about["state"] = "ill"
            text = f"{about['why']}; afterwards: {'; '.join(verdict.reasons)}. Service down: find the cause, then greenroom maintenance off"
            self._close_door(f"ill before and after the rollback to {about['to']}")
            self.tell("ill_after_rollback", "critical", f"{about['to']} is ill as well; users see the maintenance page", text, **facts)

    def _close_door(self, why: str) -> None:
        try:
            self.maintenance.on(why, f"guard@{os.uname().nodename}", DOOR_S)
        except MaintenanceError as error:
            self.tell("door", "critical", "the maintenance page cannot be shown", str(error))

    # -- keeping -------------------------------------------------------------------------------------------------------

    def _report(self, why: str) -> None:
        """Write down what was seen of the release, as evidence, and say it when its time is over."""
        now = self.memory.now
        try:
            verdict, gaps = write_report(Path(self.config["state_dir"]) / "guard", now, self.limits, why)
        except OSError as error:
            log("report_not_written", "error", detail=str(error))
            return
        if why == "period_over":
            severity = "info" if verdict == "pass" else "warning"
            self.tell("observed", severity, f"the observation of {now['release']} is over: {verdict}", "; ".join(gaps))

    def _keep(self) -> None:
        self.memory.kept["log"] = self.log.position
        if problem := self.memory.save(self.config["service"]):
            log("not_kept", "error", detail=problem)
        values = {
            "last_look_timestamp_seconds": time.time(),
            "aside": int(bool(self.aside)),
            "locked": int(bool(self.memory.kept["locked"])),
        }
        try:
            write_metrics(Path(self.config["metrics_dir"]), self.config["service"], values)
        except OSError as error:
            log("metrics_not_written", "error", detail=str(error))

    def run(self) -> None:
        """Tick until SIGTERM or SIGINT. A tick that breaks is said and does not end the guard."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(self, "stopping", True))
        log("started", service=self.config["service"], hosts=self.config["hosts"], lost=self.memory.lost)
        sender: threading.Thread | None = None
        ready = False
        while not self.stopping:
            begun = time.monotonic()
            try:
                verdict = self.tick()
                said = self.aside or (f"{verdict.kind}: {'; '.join(verdict.reasons)}" if verdict else "the observation is over")
                notify(("" if ready else "READY=1\n") + f"WATCHDOG=1\nSTATUS={said[:200]}")
                ready = True
            except Exception as error:  # whatever it is: a guard that ended guards nothing; systemd's watchdog ends one that stays broken
                log("broken_tick", "error", detail=f"{type(error).__name__}: {error}")
            if self.outbox and self.fresh and not (sender and sender.is_alive()):
                self.fresh = False  # what is not delivered now is left to the timer
                sender = threading.Thread(target=self.outbox.flush, args=(60.0,), daemon=True)
                sender.start()
            verifying = (self.memory.kept["rollback"] or {}).get("state") == "moved"
            every = min(VERIFY_INTERVAL_S, self.limits["interval_s"]) if verifying else self.limits["interval_s"]
            while not self.stopping and (left := begun + every - time.monotonic()) > 0:
                time.sleep(min(left, 0.2))
        notify("STOPPING=1")
        log("stopped")


def main(argv: list[str] | None = None) -> int:
    """Run the guard; 2 when its configuration is unusable."""
    parser = argparse.ArgumentParser(prog="guard", description="Takes users back when the live release is proved bad.")
    parser.add_argument("--config", required=True)
    args = parser.parse_args(argv)
    try:
        guard = Guard(read_config(args.config))
    except ConfigError as error:
        print(f"guard: {error}", file=sys.stderr)
        return 2
    guard.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
