"""The module evidence, called as Ansible calls it."""

import importlib.util
import json
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.greenroom import catalogue as catalogues
from ansible.module_utils.testing import patch_module_args

ROOT = Path(__file__).resolve().parents[2]
ANY = ROOT / "catalogue" / "any.yml"

_spec = importlib.util.spec_from_file_location("evidence", ROOT / "plugins" / "modules" / "evidence.py")
evidence = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(evidence)


@pytest.fixture
def call(capsys, monkeypatch):
    for name in ("GREENROOM_RUN_DIR", "GREENROOM_EVIDENCE_LINES"):
        monkeypatch.delenv(name, raising=False)

    def run(check=False, **arguments):
        with patch_module_args(arguments | {"_ansible_check_mode": check}), pytest.raises(SystemExit):
            evidence.main()
        return json.loads(capsys.readouterr().out)

    return run


def test_documentation_names_every_argument():
    documented = yaml.safe_load(evidence.DOCUMENTATION)["options"]
    assert set(documented) == {
        "state",
        "records",
        "fail",
        "phases",
        "catalogues",
        "not_applicable",
        "earlier",
        "hosts",
        "id",
        "budget",
        "partial",
        "facts",
        "run_dir",
        "lines",
    }
    assert yaml.safe_load(evidence.EXAMPLES) and yaml.safe_load(evidence.RETURN)


@pytest.mark.parametrize("check", [False, True])
def test_record_compares(call, check):
    done = call(
        check,
        records=[
            {"id": "prep.db.version", "expected": 13, "observed": 15, "compare": "at_least", "unit": "major"},
            {"id": "prep.tool.git", "expected": True, "observed": True, "ok": True},
            {"id": "prep.services.inventory", "declared": ["web", "worker"]},
            {"id": "prep.network.egress", "status": "not_applicable", "reason": "no way out is wanted"},
            {"id": "prep.deps.ready", "status": "not_run", "reason": "unchanged"},
        ],
    )
    assert "failed" not in done and done["changed"] is False
    assert [item["status"] for item in done["evidence"]] == ["pass", "pass", "pass", "not_applicable", "not_run"]


@pytest.mark.parametrize(
    ("item", "status", "reason"),
    [
        ({"expected": 13, "observed": 12, "compare": "at_least"}, "fail", "expected at least 13, observed 12"),
        ({"expected": "a", "observed": "b", "compare": "equal", "reason": "wrong letter"}, "fail", "wrong letter: expected a, observed b"),
        ({"expected": 13, "observed": "15", "compare": "at_least"}, "error", "cannot be compared"),
        ({"expected": 13, "compare": "at_least"}, "no_evidence", "nothing was observed"),
        ({"expected": 13, "observed": None, "ok": True}, "no_evidence", "without an observed value"),
        ({"expected": 13, "observed": 12, "ok": False}, "fail", "expected 13, observed 12"),
        ({"declared": ""}, "fail", "placeholder"),
        ({"declared": {"name": "[name]"}}, "fail", "placeholder"),
        ({"status": "error", "reason": "broke"}, "error", "broke"),
        ({"expected": 1, "observed": 1, "ok": True, "detail": {"samples": 0}}, "no_evidence", "0 samples"),
    ],
)
def test_record_fails_and_still_returns_its_evidence(call, item, status, reason):
    done = call(records=[{"id": "prep.db.version", **item}, {"id": "prep.tool.git", "observed": 1, "ok": True}])
    assert done["failed"] and reason in done["msg"] and [made["status"] for made in done["evidence"]] == [status, "pass"]
    left = call(records=[{"id": "prep.db.version", **item}], fail=False)
    assert "failed" not in left and left["evidence"][0]["status"] == status


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({}, "exactly one of"),
        ({"ok": True, "compare": "equal"}, "exactly one of"),
        ({"ok": "yes", "observed": 1}, "ok must be true or false"),
        ({"status": "fail"}, "needs a reason"),
    ],
)
def test_a_record_that_cannot_be_judged_is_refused(call, item, reason):
    done = call(records=[{"id": "prep.db.version", **item}])
    assert done["failed"] and reason in done["msg"]


def test_a_status_of_pass_cannot_be_given(call):
    assert call(records=[{"id": "prep.db.version", "status": "pass", "observed": 1}])["failed"]


def test_no_records_at_all_is_an_error(call):
    assert "nothing to record" in call(records=[])["msg"]


@pytest.fixture
def run_dir(tmp_path):
    entries = [entry for entry in catalogues.load([ANY]) if entry.gate_phase == "verify"]
    lines = [json.dumps({"id": entry.id, "status": "pass", "expected": 1, "observed": 1}) for entry in entries]
    (tmp_path / "evidence.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def gate(call, folder, check=False, **extra):
    return call(check, **{"state": "gate", "phases": ["verify"], "catalogues": [str(ANY)], "run_dir": str(folder)} | extra)


def test_gate_green(call, run_dir):
    done = gate(call, run_dir)
    assert "failed" not in done and done["verdict"] == "pass" and done["blockers"] == [] and done["required"] == done["passed"] > 5
    assert done["greenroom"]["gated"] == ["verify"]


def test_gate_red_lists_every_blocker_with_reason_and_advice(call, run_dir):
    lines = (run_dir / "evidence.jsonl").read_text().splitlines()
    lines[0] = json.dumps(
        {"id": "verify.health.script", "host": "app2", "status": "fail", "expected": 200, "observed": 503, "reason": "down"}
    )
    (run_dir / "evidence.jsonl").write_text("\n".join([*lines[:-1], "{cut"]))
    done = gate(call, run_dir, id="verify.logs.clean")
    assert done["failed"] and done["verdict"] == "fail"
    assert "verify.health.script on app2: down (expected 200, observed 503). To do: fix it" in done["msg"]
    assert "the last line is cut" in done["msg"] and "no check reported it. To do: look for" in done["msg"]
    assert done["msg"].count("\n- ") == 3
    [own] = done["evidence"]
    assert own["id"] == "verify.logs.clean" and own["status"] == "fail" and own["detail"] == {"gate": True}


def test_gate_in_check_mode_blocks_only_on_failures(call, run_dir):
    (run_dir / "evidence.jsonl").write_text("")
    done = gate(call, run_dir, check=True, id="verify.logs.clean")
    assert "failed" not in done and done["verdict"] == "incomplete" and done["evidence"] == []
    bad = {"id": "verify.health.http", "status": "error", "reason": "broke"}
    (run_dir / "evidence.jsonl").write_text(json.dumps(bad) + "\n")
    assert gate(call, run_dir, check=True)["failed"]


def test_gate_over_a_part_of_the_fleet_blocks_only_on_failures(call, run_dir):
    lines = (run_dir / "evidence.jsonl").read_text().splitlines()
    (run_dir / "evidence.jsonl").write_text(lines[0] + "\n")
    done = gate(call, run_dir, partial="left out by --limit: app2")
    assert "failed" not in done and done["verdict"] == "incomplete" and done["greenroom"]["partial"] == "left out by --limit: app2"
    bad = {"id": "verify.health.http", "status": "fail", "reason": "503"}
    (run_dir / "evidence.jsonl").write_text(json.dumps(bad) + "\n")
    assert gate(call, run_dir, partial="left out by --limit: app2")["failed"]


def test_gate_takes_folder_and_lines_from_the_environment(call, run_dir, monkeypatch):
    monkeypatch.setenv("GREENROOM_RUN_DIR", str(run_dir))
    monkeypatch.setenv("GREENROOM_EVIDENCE_LINES", "99")
    done = call(state="gate", phases=["verify"], catalogues=[str(ANY)])
    assert done["failed"] and "99 were written" in done["msg"]


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"phases": ["verfy"]}, "no catalogue entry belongs to phase verfy"),
        ({"catalogues": ["/nowhere.yml"]}, "cannot be read"),
        ({"id": "no.such.gate"}, "no catalogue knows no.such.gate"),
        ({"run_dir": "/nowhere"}, "cannot be read"),
        ({"not_applicable": {"verify.health.http": "TODO"}}, "needs a reason"),
        ({"hosts": {"verify.health.http": ["app9"]}}, "verify.health.http on app9: no check reported it for this host"),
    ],
)
def test_gate_refuses_what_it_cannot_judge(call, run_dir, extra, reason):
    done = gate(call, run_dir, **extra)
    assert done["failed"] and reason in done["msg"]


def test_gate_accepts_earlier_phases(call, run_dir):
    done = gate(call, run_dir, phases=["prepare", "verify"], earlier={"prepare": "20261119T080000Z-ffffff"})
    assert done["verdict"] == "pass" and done["greenroom"]["earlier"] == {"prepare": "20261119T080000Z-ffffff"}


def times(call, tmp_path, phases, **budget):
    told = [{"name": name, "seconds": seconds} for name, seconds in phases.items()]
    (tmp_path / "run.json").write_text(json.dumps({"phases": told, "selected": list(phases)}))
    return call(state="times", id="release.time_budget", run_dir=str(tmp_path), budget=budget)


def test_times(call, tmp_path):
    good = times(call, tmp_path, {"prepare": 12.0, "release": 3.0, "close": 0.0}, prepare=1800, release=1800, load=3600)
    assert good["evidence"][0]["status"] == "pass" and good["evidence"][0]["observed"] == {"prepare": 12.0, "release": 3.0}
    late = times(call, tmp_path, {"prepare": 12.0}, prepare=10)
    assert late["failed"] and late["msg"] == "prepare took 12.0 s of 10 s"
    none = times(call, tmp_path, {"prepare": 0.0}, prepare=10)
    assert none["failed"] and none["evidence"][0]["status"] == "no_evidence"
    other = times(call, tmp_path, {"verify": 12.0}, prepare=10)
    assert not other.get("failed") and other["evidence"][0]["status"] == "not_applicable"
    (tmp_path / "run.json").unlink()
    assert "cannot be read" in call(state="times", id="x", run_dir=str(tmp_path), budget={"prepare": 1})["msg"]


def test_facts_are_handed_on(call):
    assert call(state="facts", facts={"service": "tiny"})["greenroom"] == {"service": "tiny"}
