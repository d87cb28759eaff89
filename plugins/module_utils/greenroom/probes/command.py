"""Command: a program's exit status, its JSON output's fields, or a pattern in its output. Never a shell."""

from __future__ import annotations

import json
import os
import pwd
import re

from .base import Arg, Context, Findings, Outcome, Probe, ProbeError, execute, last_line
from .compare import compare_paths


def run(args: dict, context: Context) -> Outcome:
    found, name = Findings(), " ".join(args["argv"])
    options = {"cwd": args["cwd"]} if args["cwd"] else {}
    env = dict(os.environ, LC_ALL="C.UTF-8")
    if args["user"]:
        try:
            user = pwd.getpwnam(args["user"])
        except KeyError as error:
            raise ProbeError(f"there is no user {args['user']} on this host") from error
        if user.pw_uid != os.geteuid():
            options.update(user=user.pw_uid, group=user.pw_gid, extra_groups=os.getgrouplist(user.pw_name, user.pw_gid))
        env.update(HOME=user.pw_dir, USER=user.pw_name, LOGNAME=user.pw_name)
    env.update({key: str(value) for key, value in args["env"].items()})
    env.update({key: context.secret(secret) for key, secret in args["secret_env"].items()})
    try:
        done = execute(args["argv"], context, stdin=context.secret(args["stdin_key"]), env=env, **options)
    except TimeoutError as error:
        return Outcome(False, f"exit status {args['status']}", "still running at its time limit", f"{name}: {error}")
    found.detail["exit_status"] = done.returncode
    said = last_line(done.stderr) or last_line(done.stdout)
    problem = f"exit status {done.returncode}, not {args['status']}" + (f" ({said})" if said else "")
    found.add(f"exit status {args['status']}", f"exit status {done.returncode}", done.returncode == args["status"], problem)
    if args["json"]:
        try:
            compare_paths(args["json"], json.loads(done.stdout), found)
        except ValueError:
            found.add("output in JSON", f"{len(done.stdout)} characters of output that are not JSON", False, "the output is not JSON")
    if args["stdout_matches"] is not None:
        match = re.search(args["stdout_matches"], done.stdout, re.MULTILINE)
        seen = "output does not match" if not match else f"output has {match.group(0)[:80]!r}" if args["show_match"] else "output matches"
        found.add(f"output matches {args['stdout_matches']}", seen, bool(match))
    return found.outcome(name)


def _check(args: dict) -> list:
    problems = [] if args["argv"] else [("argv", "is empty")]
    if args["stdout_matches"] is not None:
        try:
            re.compile(args["stdout_matches"])
        except re.error as error:
            problems.append(("stdout_matches", f"is no regular expression: {error}"))
    return problems


PROBE = Probe(
    "command",
    "a program ends with the wanted status and output",
    {
        "argv": Arg("list", "program and arguments; no secret belongs here, every user sees them", required=True, elements="str"),
        "status": Arg("int", "wanted exit status", default=0),
        "json": Arg("dict", "the output is JSON: dotted path to expected value or operators", default={}),
        "stdout_matches": Arg("str", "regular expression found in the output"),
        "show_match": Arg("bool", "show the text that matched, such as a version", default=False),
        "user": Arg("str", "user to run as"),
        "cwd": Arg("str", "folder to run in"),
        "env": Arg("dict", "further environment variables", default={}),
        "secret_env": Arg("secrets", "further environment variables whose values are secrets: name to key", default={}),
        "stdin_key": Arg("secret", "key of a secret handed over on standard input"),
    },
    run,
    _check,
)
