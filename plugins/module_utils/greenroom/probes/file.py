"""File: exists, kind, mode, owner, size, digest; a folder or file can be written to, shown by writing."""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
import stat
import tempfile

from .base import Arg, Context, Findings, Outcome, Probe
from .resources import existing

_KINDS = {"file": stat.S_ISREG, "directory": stat.S_ISDIR, "link": stat.S_ISLNK, "socket": stat.S_ISSOCK}


def run(args: dict, context: Context) -> Outcome:
    path = existing(args["path"]) if args["nearest_parent"] else args["path"]
    label = path if path == args["path"] else f"{args['path']} ({path})"
    try:
        found = os.lstat(path) if args["kind"] == "link" else os.stat(path)
    except FileNotFoundError:
        ok = not args["exists"]
        return Outcome(
            ok, f"{label} {'exists' if args['exists'] else 'does not exist'}", "does not exist", None if ok else f"{label} does not exist"
        )
    except OSError as error:
        return Outcome(False, f"{label} can be read", error.strerror, f"{label}: {error.strerror}")
    if not args["exists"]:
        return Outcome(False, f"{label} does not exist", "exists", f"{label} exists")
    result = Findings()
    result.add(f"{label} exists", "exists")

    def judge(what, wanted, seen, ok):
        result.add(f"{what} {wanted}", f"{what} {seen}", ok, f"{what} is {seen}, not {wanted}")

    mode = stat.S_IMODE(found.st_mode)
    result.detail.update(mode=f"{mode:04o}", size_bytes=found.st_size)
    if args["kind"]:
        kind = next((name for name, test in _KINDS.items() if test(found.st_mode)), "something else")
        judge("kind", args["kind"], kind, kind == args["kind"])
    if args["mode"]:
        judge("mode", args["mode"], f"{mode:04o}", mode == int(args["mode"], 8))
    if args["not_world_readable"]:
        judge("mode", "without rights for others", f"{mode:04o}", not mode & 0o007)
    if args["owner"]:
        owner = _name(pwd.getpwuid, found.st_uid)
        judge("owner", args["owner"], owner, owner == args["owner"])
    if args["group"]:
        group = _name(grp.getgrgid, found.st_gid)
        judge("group", args["group"], group, group == args["group"])
    if args["min_bytes"] is not None:
        judge("size", f"≥ {args['min_bytes']} bytes", f"{found.st_size} bytes", found.st_size >= args["min_bytes"])
    if args["max_bytes"] is not None:
        judge("size", f"≤ {args['max_bytes']} bytes", f"{found.st_size} bytes", found.st_size <= args["max_bytes"])
    if args["link_target"]:
        target = os.path.realpath(path)
        judge("target", args["link_target"], target, target == os.path.realpath(args["link_target"]))
    if args["sha256"]:
        digest = sha256(path)
        judge("sha256", args["sha256"].lower(), digest, digest == args["sha256"].lower())
    if args["writable"]:
        problem = write_problem(path)
        result.add("can be written to", problem or "written to", problem is None, f"cannot be written to: {problem}")
    return result.outcome(label)


def sha256(path: str) -> str:
    """The file's SHA-256 in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def write_problem(path: str) -> str | None:
    """Why `path` cannot be written to, None if it can.

    In a folder 4 KiB are written, flushed to the disk and removed; a file is opened for appending.
    """
    try:
        if os.path.isdir(path):
            with tempfile.NamedTemporaryFile(dir=path, prefix=".greenroom-probe-") as file:
                file.write(b"\0" * 4096)
                file.flush()
                os.fsync(file.fileno())
        else:
            with open(path, "ab"):
                pass
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return None


def _name(look_up, number: int) -> str:
    try:
        return look_up(number)[0]
    except KeyError:
        return str(number)


def _check(args: dict) -> list:
    if args["mode"] and not (args["mode"].isdigit() and set(args["mode"]) <= set("01234567")):
        return [("mode", "must be an octal number in quotes, such as '0600'")]
    return []


PROBE = Probe(
    "file",
    "a file or folder exists and is what it should be, or can be written to",
    {
        "path": Arg("str", "the path", required=True),
        "exists": Arg("bool", "must be there, or must not", default=True),
        "kind": Arg("str", "what it must be", choices=tuple(_KINDS)),
        "mode": Arg("str", "exact mode, an octal number in quotes such as '0600'"),
        "not_world_readable": Arg("bool", "others have no right at all", default=False),
        "owner": Arg("str", "name of the owner"),
        "group": Arg("str", "name of the group"),
        "min_bytes": Arg("int", "size at least"),
        "max_bytes": Arg("int", "size at most"),
        "link_target": Arg("str", "what the path finally leads to"),
        "sha256": Arg("str", "digest in hex"),
        "writable": Arg("bool", "prove by writing that it can be written to; leaves nothing", default=False),
        "nearest_parent": Arg("bool", "if the path is not there yet, look at its nearest parent", default=False),
    },
    run,
    _check,
)
