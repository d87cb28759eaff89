"""The unit that an act runs in: what comes back through its pipe, and what its absence means; the evidence of an act."""

from __future__ import annotations

import json
import os

import pytest
from ansible.module_utils.greenroom import db_rollback
from ansible.module_utils.greenroom.db_evidence import judged
from ansible.module_utils.greenroom.db_switch import SwitchError

JOB = {"act": "swapped", "id": "t1", "dsn": db_rollback.superuser("/run/x", 5432, "t1")}


@pytest.fixture
def unit(tmp_path, monkeypatch):
    """Runs a job in a stand-in for systemd-run: the act's own program says `text`, ExecStopPost speaks after it on the same pipe."""

    def call(text: str, job: dict = JOB) -> dict:
        for name, lines in (
            ("systemd-run", ['while [ "$1" != -- ]; do shift; done', "shift", '"$@"', "s=$?", "echo '{\"opened\": []}'", "exit $s"]),
            ("python", [f"cat > /dev/null; printf '%s' '{text}'; [ -n '{text}' ] && echo"]),
        ):
            (tmp_path / name).write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        how = {"service": "example-service", "python": str(tmp_path / "python"), "library": "/lib", "limit_s": 60, "paths": [], "pid": 7}
        return db_rollback.in_unit(job, **how)

    return call


def test_the_result_is_the_acts_whatever_its_end_says_after_it(unit):
    assert unit(json.dumps({"ok": True, "kind": None, "message": "", "result": {"kept": "a"}})) == {"kept": "a"}
    with pytest.raises(SwitchError, match="it is in the way") as caught:
        unit(json.dumps({"ok": False, "kind": "SwitchError", "message": "it is in the way", "result": {"prepared": ["x"]}}))
    assert caught.value.result == {"prepared": ["x"]}


def test_an_act_that_was_killed_says_what_to_look_at(unit):
    with pytest.raises(SwitchError, match=r"no result: .* opened again by its ExecStopPost.*journalctl -u greenroom-rollback-example"):
        unit("")


def test_an_acts_evidence_is_red_when_it_was_refused():
    def refuse():
        raise SwitchError("no restore point")

    answer, (record,) = judged("swapped", refuse)
    assert isinstance(answer, SwitchError) and (record["id"], record["status"]) == ("restore.switch", "fail")
    risk = {"rows": None, "seconds": None, "how": "unknown"}
    plan = {"database": "d", "oid": 1, "system_identifier": "7", "revision": [], "at_risk": risk}
    _answer, (record,) = judged("planned", lambda: plan)
    assert record["status"] == "pass" and "an unknown number of changed rows" in record["observed"]
    assert judged("keyed", lambda: {"recipient": "age1"})[1] == []
