"""What is there on a host, read in one go: packages, files, units, users, figures. Changes nothing, judges nothing.

Roles compare it with what they want and run their changing tasks only where something differs: a task costs a fifth of a second on every
host, so a role whose tasks all run each time spends its time on finding nothing. Standard library only; tests run it on a real tree.
"""

from __future__ import annotations

import glob
import grp
import hashlib
import os
import pwd
import ssl
import stat
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

CONTENT_LIMIT = 256 * 1024
"""Bytes of a file that `contents` hands back at most; it is made for certificates and small state files."""


def packages(names: Iterable[str]) -> dict[str, str | None]:
    """Version of each Debian package that is completely installed, None for the others."""
    names = list(names)
    if not names:
        return {}
    asked = ["dpkg-query", "-W", "-f", "${Package}\t${Version}\t${db:Status-Status}\n", *names]
    found = subprocess.run(asked, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}).stdout
    rows = [line.split("\t") for line in found.splitlines()]
    installed = {row[0]: row[1] for row in rows if len(row) == 3 and row[2] == "installed"}
    return {name: installed.get(name) for name in names}


def files(paths: Iterable[str]) -> dict[str, dict]:
    """State of each path; a path with `*`, `?` or `[` stands for what it matches (nothing, if nothing).

    Each is {exists, type: file|directory|link|other, mode: "0640", owner, group, access: "owner:group 0640", size (bytes), mtime (seconds
    since 1970), sha256 (files), target (links)}; all but the first are None where there is nothing.
    """
    found: dict[str, dict] = {}
    for path in paths:
        for one in sorted(glob.glob(path)) if glob.has_magic(path) else [path]:
            found[one] = _file(one)
    return found


def _file(path: str) -> dict:
    state: dict = {"exists": False, **dict.fromkeys(("type", "mode", "owner", "group", "access", "size", "mtime", "sha256", "target"))}
    try:
        known = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return state
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}
    kind = kinds.get(stat.S_IFMT(known.st_mode), "other")
    state.update(exists=True, type=kind, mode=f"{stat.S_IMODE(known.st_mode):04o}", size=known.st_size, mtime=known.st_mtime)
    state.update(owner=_name(pwd.getpwuid, known.st_uid), group=_name(grp.getgrgid, known.st_gid))
    state["access"] = f"{state['owner']}:{state['group']} {state['mode']}"
    if kind == "file":
        with open(path, "rb") as stream:
            state["sha256"] = hashlib.file_digest(stream, "sha256").hexdigest()
    elif kind == "link":
        state["target"] = os.readlink(path)
    return state


def _name(lookup, number: int) -> str:
    """Name of a user or group id; the number itself where it has none."""
    try:
        return lookup(number)[0]
    except KeyError:
        return str(number)


def contents(paths: Iterable[str]) -> dict[str, str | None]:
    """Text of each small file, None where there is none. Not for secrets: it goes into the task's result.

    Raises ValueError for a file larger than CONTENT_LIMIT or not UTF-8.
    """
    found: dict[str, str | None] = {}
    for path in paths:
        try:
            with open(path, "rb") as stream:
                data = stream.read(CONTENT_LIMIT + 1)
        except (FileNotFoundError, NotADirectoryError):
            found[path] = None
            continue
        if len(data) > CONTENT_LIMIT:
            raise ValueError(f"{path} is larger than {CONTENT_LIMIT} bytes")
        try:
            found[path] = data.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    return found


def units(names: Iterable[str]) -> dict[str, dict]:
    """State of systemd units: {loaded, active, enabled, needs_reload, pid, started}; `active` and the others are systemd's own words.

    A name with `*` stands for the units in systemd's memory that it matches; one that never started or was stopped is not among them.
    `started` is seconds since 1970 at which the unit became active, None if it isn't. Raises RuntimeError if systemd does not answer.
    """
    names = list(names)
    found: dict[str, dict] = {}
    for chosen in ([name for name in names if not glob.has_magic(name)], [name for name in names if glob.has_magic(name)]):
        if not chosen:
            continue
        wanted = "Id,LoadState,ActiveState,UnitFileState,NeedDaemonReload,MainPID,ActiveEnterTimestampMonotonic"
        asked = ["systemctl", "show", f"--property={wanted}", "--", *chosen]
        answer = subprocess.run(asked, capture_output=True, text=True, check=False)
        blocks = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in answer.stdout.strip().split("\n\n") if block]
        exact = not glob.has_magic(chosen[0])
        if answer.returncode or (exact and len(blocks) != len(chosen)):
            raise RuntimeError(f"systemctl show gave {len(blocks)} answers for {', '.join(chosen)}: {answer.stderr.strip()}")
        found.update(zip(chosen if exact else [block["Id"] for block in blocks], map(_unit, blocks), strict=True))
    return found


def _unit(block: Mapping[str, str]) -> dict:
    since_boot = int(block.get("ActiveEnterTimestampMonotonic") or 0) / 1e6
    started = time.time() - time.monotonic() + since_boot if since_boot and block.get("ActiveState") == "active" else None
    return {
        "loaded": block.get("LoadState") == "loaded",
        "active": block.get("ActiveState", "unknown"),
        "enabled": block.get("UnitFileState") or "disabled",
        "needs_reload": block.get("NeedDaemonReload") == "yes",
        "pid": int(block.get("MainPID") or 0) or None,
        "started": started and round(started, 2),
    }


def users(names: Iterable[str]) -> dict[str, dict | None]:
    """{uid, gid, group, groups, home, shell} of each user, None for one that is not there; `groups` are all groups, sorted."""
    found: dict[str, dict | None] = {}
    for name in names:
        try:
            known = pwd.getpwnam(name)
        except KeyError:
            found[name] = None
            continue
        member = sorted({_name(grp.getgrgid, number) for number in os.getgrouplist(name, known.pw_gid)})
        found[name] = {
            "uid": known.pw_uid, "gid": known.pw_gid, "group": _name(grp.getgrgid, known.pw_gid), "groups": member,
            "home": known.pw_dir, "shell": known.pw_shell,
        }  # fmt: skip
    return found


def groups(names: Iterable[str]) -> dict[str, int | None]:
    """Number of each group, None for one that is not there."""
    known = {entry.gr_name: entry.gr_gid for entry in grp.getgrall()}
    return {name: known.get(name) for name in names}


def key_pairs(pairs: Iterable[Mapping[str, str]]) -> dict[str, bool]:
    """Whether the private key `key` belongs to the certificate `cert`, by the path of `cert`; False where either cannot be read."""
    found = {}
    for pair in pairs:
        try:
            # The empty password makes an encrypted key an error instead of a question on the terminal.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(pair["cert"], pair["key"], password="")
            found[pair["cert"]] = True
        except (OSError, ssl.SSLError, ValueError):
            found[pair["cert"]] = False
    return found


def memory_bytes(root: str = "/") -> int:
    """Memory that this host may use: what the machine has, or the control group's limit where that is lower."""
    base = Path(root)
    figures = []
    for line in (base / "proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            figures.append(int(line.split()[1]) * 1024)
    for name in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes", *_own_limits(base)):
        try:
            text = (base / name).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            figures.append(int(text))
    return min(figures)


def _own_limits(base: Path) -> list[str]:
    """Limit files of the control group of process 1, where the group's tree is seen from outside (a container with the host's view)."""
    try:
        lines = (base / "proc/1/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        path = path.strip("/").removesuffix("/init.scope").removesuffix("init.scope")
        if controllers == "":
            found.append(f"sys/fs/cgroup/{path}/memory.max")
        elif "memory" in controllers.split(","):
            found.append(f"sys/fs/cgroup/memory/{path}/memory.limit_in_bytes")
    return found
