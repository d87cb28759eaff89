"""Transient systemd units for what must not outlive its limit: named, to be found again, and hardened like a service's processes."""

from __future__ import annotations

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
    unit: str, user: str, folder: str, limit_s: int, *, properties: Iterable[str] = (), options: Iterable[str] = ()
) -> list[str]:  # fmt: skip
    """The beginning of a command line: what follows it runs in `unit` as `user` in `folder`, at most `limit_s` seconds.

    The caller's streams are its streams. `properties` are further ones of the unit (`Key=value`), `options` of systemd-run.
    """
    given = (f"User={user}", f"WorkingDirectory={folder}", f"RuntimeMaxSec={limit_s}", *properties, *HARDENING)
    return ["systemd-run", "--quiet", "--wait", "--pipe", f"--unit={unit}", *options, *(f"--property={one}" for one in given), "--"]
