"""Transient systemd units for what must not outlive its limit: named, to be found again, and hardened like a service's processes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable

# The same as the units of the role app_release.
HARDENING = (
    "NoNewPrivileges=yes", "ProtectSystem=strict", "ProtectHome=yes", "PrivateTmp=yes", "PrivateDevices=yes", "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes", "ProtectKernelLogs=yes", "ProtectControlGroups=yes", "ProtectClock=yes", "ProtectHostname=yes",
    "ProtectProc=invisible", "RestrictSUIDSGID=yes", "RestrictRealtime=yes", "RestrictNamespaces=yes", "LockPersonality=yes",
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX", "SystemCallArchitectures=native", "CapabilityBoundingSet=", "UMask=0077",
    "SystemCallFilter=@system-service", "SystemCallFilter=~@privileged @resources", "SystemCallErrorNumber=EPERM", "KeyringMode=private",
)  # fmt: skip


def command(
    unit: str, user: str, folder: str, limit_s: int, *, properties: Iterable[str] = (), options: Iterable[str] = (), wait: bool = True
) -> list[str]:  # fmt: skip
    """The beginning of a command line: what follows it runs in `unit` as `user` in `folder`, at most `limit_s` seconds.

    The caller's streams are its streams. `properties` are further ones of the unit (`Key=value`), `options` of systemd-run. Without
    `wait` the command ends when the program has started; the unit then stays, also after its end, until it is stopped (`state`).
    """
    given = (f"User={user}", f"WorkingDirectory={folder}", f"RuntimeMaxSec={limit_s}", *HARDENING, *properties)
    how = ("--wait", "--pipe") if wait else ("--property=Type=exec", "--property=RemainAfterExit=yes")
    return ["systemd-run", "--quiet", *how, f"--unit={unit}", *options, *(f"--property={one}" for one in given), "--"]


def state(unit: str) -> dict:
    """How a unit that was started without `wait` is: {running, status (its exit status, None if it was not started), result}.

    `result` is systemd's own word: success, exit-code, signal, timeout, oom-kill; `gone` if there is no such unit.
    """
    asked = ["systemctl", "show", unit, "-p", "LoadState,ActiveState,SubState,Result,ExecMainStatus,ExecMainCode"]
    shown = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    found = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    if found.get("LoadState") != "loaded":
        return {"running": False, "status": None, "result": "gone"}
    running = found["ActiveState"] in ("activating", "active", "deactivating") and found["SubState"] != "exited"
    return {"running": running, "status": int(found["ExecMainStatus"]) if found["ExecMainCode"] != "0" else None, "result": found["Result"]}


def stop(unit: str) -> None:
    """End a unit and forget how it ended; nothing to do if there is none."""
    for verb in ("stop", "reset-failed"):
        subprocess.run(["systemctl", verb, unit], capture_output=True, check=False)
