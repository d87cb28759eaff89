"""Environment: a unit's main process has exactly the values of its env files, byte for byte (001 §3.1 L107).

Key names only: a value never reaches a record.
"""

from __future__ import annotations

import os

from .. import env_file
from .base import Arg, Context, Outcome, Probe
from .processes import unit_properties

# What systemd itself gives a service; anything else that no file names is reported.
_MANAGER = {
    "PATH", "LANG", "HOME", "LOGNAME", "USER", "SHELL", "INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID", "NOTIFY_SOCKET",
    "MAINPID", "RUNTIME_DIRECTORY", "STATE_DIRECTORY", "CACHE_DIRECTORY", "LOGS_DIRECTORY", "CONFIGURATION_DIRECTORY",
    "CREDENTIALS_DIRECTORY", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID",
    "MEMORY_PRESSURE_WATCH", "MEMORY_PRESSURE_WRITE",
}  # fmt: skip


def run(args: dict, context: Context) -> Outcome:
    name = args["unit"] or f"process {args['pid']}"
    wanted = f"the main process of {name} has every value of {', '.join(args['env_files'])}"
    pid = args["pid"]
    if args["unit"]:
        found = unit_properties(args["unit"], ["MainPID", "ActiveState"], context)
        pid = int(found.get("MainPID") or 0)
        if not pid:
            state = found.get("ActiveState", "unknown")
            return Outcome(
                False, wanted, f"no main process ({state})", f"{name} has no main process, it is {state}; look at `journalctl -u {name}`"
            )
    declared: dict = {}
    for path in args["env_files"]:
        entries, problems = env_file.load(path)
        if problems:
            return Outcome(False, wanted, f"{len(problems)} problems in {path}", "; ".join(str(item) for item in problems[:5]))
        declared.update({entry.key: entry.value for entry in entries})
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            raw = file.read()
    except OSError as error:
        return Outcome(
            False,
            wanted,
            f"process {pid}: {error.strerror.lower()}",
            f"the environment of process {pid} cannot be read: {error.strerror.lower()}",
        )
    actual = dict(item.split(b"=", 1) for item in raw.split(b"\0") if b"=" in item)
    missing = sorted(key for key in declared if key.encode() not in actual)
    differ = sorted(key for key, value in declared.items() if key not in missing and actual[key.encode()] != value.encode())
    extra = sorted(
        key.decode("utf-8", "replace") for key in actual if os.fsdecode(key) not in declared and os.fsdecode(key) not in _MANAGER
    )
    unexpected = [key for key in extra if key not in args["allow_extra"]] if args["exact"] else []
    detail = {"pid": pid, "keys": len(declared), "missing": missing, "differ": differ, "extra": extra}
    problems = [
        f"{what}: {', '.join(keys)}" for what, keys in (("missing", missing), ("another value", differ), ("in no file", unexpected)) if keys
    ]
    if not declared:
        return Outcome("no_evidence", wanted, "the files name no key", f"{', '.join(args['env_files'])}: no key to compare", detail)
    seen = f"{len(declared) - len(missing) - len(differ)} of {len(declared)} keys equal" + (f"; {'; '.join(problems)}" if problems else "")
    reason = (
        f"{name} (pid {pid}) runs with other values: {'; '.join(problems)}; restart it so that it reads its files" if problems else None
    )
    return Outcome(not problems, wanted, seen, reason, detail)


def _check(args: dict) -> list:
    problems = [] if bool(args["unit"]) != (args["pid"] is not None) else [("unit", "give either unit or pid")]
    return problems if args["env_files"] else [*problems, ("env_files", "is empty")]


PROBE = Probe(
    "environ",
    "a running process has exactly the values of its env files",
    {
        "unit": Arg("str", "systemd unit whose main process is looked at"),
        "pid": Arg("int", "or the process itself"),
        "env_files": Arg("list", "the env files in the order in which systemd reads them: a later one wins", required=True, elements="str"),
        "exact": Arg("bool", "no further variable either, systemd's own apart", default=False),
        "allow_extra": Arg("list", "further variables that are fine with exact", default=[], elements="str"),
    },
    run,
    _check,
)
