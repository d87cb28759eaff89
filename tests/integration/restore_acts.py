"""Acts of a way back as the unit runs them: in a process of their own, which a test can kill before or after a statement."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from ansible.module_utils.greenroom import db_rollback

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "plugins" / "module_utils"
# Ends the process at once, as kill -9 does, where a statement matches: before the server gets it, or when it has answered.
KILLER = """
import os, re, signal, sys, psycopg
when, pattern = os.environ["KILL_AT"].split(":", 1)
plain = psycopg.Connection.execute
def execute(self, query, *args, **more):
    hit = re.search(pattern, str(query))
    if hit and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    answer = plain(self, query, *args, **more)
    if hit and when == "after":
        os.kill(os.getpid(), signal.SIGKILL)
    return answer
psycopg.Connection.execute = execute
"""
START = "import runpy, sys; sys.argv[0] = 'db_rollback'; runpy.run_module('greenroom.db_rollback', run_name='__main__')"


def started(job: dict | None, *arguments: str, kill_at: str = "") -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": str(LIBRARY), "KILL_AT": kill_at}
    code = (KILLER if kill_at else "") + START
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )
    process.stdin.write(json.dumps(job) if job else "")
    process.stdin.close()
    return process


def act(act_name: str, dsn: dict, *, kill_at: str = "", **job: object) -> dict:
    """The result of an act in a process of its own; {"killed": True} if it was killed. Raises Refused with its message if it said no."""
    id = job.setdefault("id", "t1")
    defaults = {"database": "live", "deadline_s": 10, "wait_s": 30, "keep_s": 60, "limit_s": 60, "rows": "missing", "tables": []}
    dsn = {**dsn, "application_name": db_rollback.superuser("", 0, id)["application_name"]}
    process = started({**defaults, **job, "act": act_name, "dsn": dsn}, kill_at=kill_at)
    out, err = process.stdout.read(), process.stderr.read()
    if process.wait(120) < 0:
        return {"killed": True}
    assert out, err
    answer = json.loads(out)
    if not answer["ok"]:
        raise Refused(answer["message"])
    return answer["result"]


class Refused(Exception):
    """An act said no."""


def heal(dsn: dict, id: str = "t1") -> list[str]:
    """What the unit's ExecStopPost does."""
    process = started(None, "heal", "--socket", str(dsn["host"]), "--port", str(dsn["port"]), "--id", id)
    out, err = process.stdout.read(), process.stderr.read()
    assert process.wait(60) == 0, err
    return json.loads(out)["opened"]
