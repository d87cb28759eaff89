"""What a timer on the gateway does every minute: it ends maintenance mode, sends what waits, and looks whether the guard still looks.

Each job is done whatever the others meet. Standard library only; runs as root:
    /usr/bin/python3 -m greenroom.guard_watch --config /etc/greenroom/<service>/guard.json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from .durable import DurableError, read_sealed
from .guard_config import ConfigError, read_config
from .maintenance import Maintenance, age
from .notify import announce, message
from .releases import Releases
from .slot_agent import log
from .state import StateError

SILENT_S = 120  # a guard that did not look for so long does not look
AGAIN_S = 6 * 3600  # it is said at most so often


def end_maintenance(config: dict) -> dict | None:
    """Open the door if its time is over; the message about it. Raises MaintenanceError."""
    said = Maintenance(Path(config["switch_dir"]).parent / "maintenance").expire()
    if said is None:
        return None
    text = f"on for {age(said['age_s'])}, by {said['who']}: {said['reason']}. Nobody ended it; users reach the service again."
    log("maintenance_ended", detail=text)
    releases = Releases(config["state_dir"], config["service"], config["switch_dir"])
    try:
        with releases.lease.lock():
            releases.note("maintenance_off", {"owner": "timer", "fencing": None}, why="its time is over", result=text)
    except (StateError, DurableError, OSError) as error:
        log("not_noted", "error", detail=str(error))
    return message("maintenance.ended", "warning", f"{config['service']}: maintenance mode ended by itself", text)


def look_at_guard(config: dict) -> dict | None:
    """A message if the guard should look and does not; once in a while, as a file beside its memory remembers."""
    state, told = Path(config["state_dir"]), Path(config["state_dir"]) / "guard_silent"
    try:
        last = (read_sealed(state / "guard.json", "") or {}).get("at_epoch", 0)
    except DurableError:
        last = 0
    silent = time.time() - last
    if not config["guard"]["enabled"] or 0 <= silent < max(SILENT_S, 10 * config["guard"]["interval_s"]):
        told.unlink(missing_ok=True)
        return None
    if told.exists() and time.time() - told.stat().st_mtime < AGAIN_S:
        return None
    told.touch()
    text = f"its last look was {age(silent)} ago" if last else "it never looked"
    return message("guard.silent", "critical", f"{config['service']}: the guard does not look, nobody would roll back",
                   f"{text}. On the gateway: systemctl status {config['service']}-guard", gateway=os.uname().nodename)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Do all jobs: 0 all done, 1 one was not, 2 the configuration is unusable."""
    parser = argparse.ArgumentParser(prog="guard_watch", description="Ends maintenance mode, sends what waits, looks after the guard.")
    parser.add_argument("--config", required=True)
    try:
        config = read_config(parser.parse_args(argv).config)
    except ConfigError as error:
        print(f"guard_watch: {error}", file=sys.stderr)
        return 2
    failed = 0
    for job in (end_maintenance, look_at_guard):
        try:
            about = job(config)
        except (DurableError, OSError) as error:
            failed, about = 1, None
            log("failed", "error", job=job.__name__, detail=str(error))
        if about:
            log(about["event"], "warning", detail=about["text"])
            announce(config["notify"], about, 1.0)
    sent = announce(config["notify"], None, 45.0)
    if sent["problem"]:
        log("not_sent", "warning", **sent)
    print(json.dumps({"sent": sent["sent"], "waiting": sent["waiting"]}))
    return failed


if __name__ == "__main__":
    sys.exit(main())
