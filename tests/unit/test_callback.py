"""The callback in real ansible-playbook runs: evidence, report, summary, exit status."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.greenroom import report

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent

ANSWER = '''#!/usr/bin/python
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule({"result": {"type": "dict", "default": {}}, "bad": {"type": "bool", "default": False}, "msg": {"type": "str"},
                        "secret": {"type": "str", "no_log": True}, "size": {"type": "int"}}, supports_check_mode=True)
result = module.params["result"]
if module.params["size"]:
    detail = {"raw": "x" * module.params["size"]}
    result["evidence"] = [{"id": "prep.server.cpu", "status": "pass", "expected": 1, "observed": 2, "detail": detail}]
if module.params["bad"]:
    module.fail_json(msg=module.params["msg"] or "asked to fail", **result)
module.exit_json(**result)
'''


class Project:
    """A folder with an ansible.cfg that uses the project's callback, modules and library."""

    def __init__(self, folder: Path):
        self.folder, self.reports = folder, folder / "reports"
        (folder / "library").mkdir()
        (folder / "library" / "answer.py").write_text(ANSWER)
        (folder / "hosts.ini").write_text(
            "one ansible_connection=local\ntwo ansible_connection=local\ngone ansible_host=127.0.0.1 ansible_port=1\n"
        )
        plugins = ROOT / "plugins"
        (folder / "ansible.cfg").write_text(
            f"[defaults]\nlibrary = {plugins}/modules:library\nmodule_utils = {plugins}/module_utils\n"
            f"callback_plugins = {plugins}/callback\ncallbacks_enabled = greenroom\ngathering = explicit\nany_errors_fatal = True\n"
            f"interpreter_python = {sys.executable}\ninventory = hosts.ini\nlocalhost_warning = False\n"
            "[ssh_connection]\nretries = 0\n"
        )

    def start(self, plays: list | str, *arguments: str, **environment: str) -> subprocess.Popen:
        text = plays if isinstance(plays, str) else yaml.safe_dump(plays, sort_keys=False)
        (self.folder / "play.yml").write_text(text)
        known = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "GREENROOM_"))}
        environment = {**known, "GREENROOM_REPORTS": str(self.reports), "ANSIBLE_CONFIG": str(self.folder / "ansible.cfg")} | environment
        return subprocess.Popen(
            [BIN / "ansible-playbook", "play.yml", *arguments], cwd=self.folder, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, plays: list | str, *arguments: str, **environment: str) -> tuple[int, str, str]:
        process = self.start(plays, *arguments, **environment)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    @property
    def evidence(self) -> list[dict]:
        return [json.loads(line) for line in (self.reports / "latest" / "evidence.jsonl").read_text().splitlines()]

    @property
    def report(self) -> dict:
        return json.loads((self.reports / "latest" / "report.json").read_text())


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def play(phase, *tasks, hosts="one", **keys):
    return {"name": f"Play {phase}", "hosts": hosts, "vars": {"greenroom_phase": phase} if phase else {}, "tasks": list(tasks)} | keys


def answer(bad=False, name="Answer", task=None, **result):
    return {"name": name, "answer": {"result": result, "bad": bad}} | (task or {})


LEASE = play("entry", answer(lease_held=True))
PASS = {"status": "pass", "expected": 2, "observed": 4}
FAIL = {"status": "fail", "expected": 3.11, "observed": 3.9, "reason": "old"}


def test_evidence_of_every_kind_of_result_is_kept(project):
    status, out, _err = project.run([
        LEASE,
        play(
            "prepare",
            answer(evidence=[{"id": "prep.server.cpu", **PASS}]),
            {"name": "Loop", "answer": {"result": {"evidence": [{"id": "prep.server.memory", "detail": {"target": "{{ item }}"}, **PASS}]}},
             "loop": ["a", "b"]},
            answer(evidence=[{"id": "prep.tool.git", **PASS}], task={"run_once": True, "delegate_to": "two"}),
            answer(evidence=[{"id": "prep.db.version", "host": "data", **PASS}]),
            answer(bad=True, evidence=[{"id": "prep.python.version", **FAIL}]),
        ),
    ])  # fmt: skip
    assert status == 2
    kept = [(item["id"], item["host"], item["status"]) for item in project.evidence]
    assert kept == [
        ("prep.server.cpu", "one", "pass"), ("prep.server.memory", "one", "pass"), ("prep.server.memory", "one", "pass"),
        ("prep.tool.git", "two", "pass"), ("prep.db.version", "data", "pass"), ("prep.python.version", "one", "fail"),
    ]  # fmt: skip
    first = project.evidence[0]
    assert first["title"] == "The server has at least 2 CPU cores" and first["phase"] == "prepare" and first["kind"] == "auto"
    assert first["source"][0].startswith("000") and first["started"].endswith("Z")
    assert [item["id"] for item in project.report["blockers"]] == ["prep.python.version"]
    assert "prep.python.version on one: old (expected 3.11, observed 3.9)" in out
    assert {path.name for path in (project.reports / "latest").iterdir()} == {
        "evidence.jsonl", "run.json", "report.json", "report.md", "report.html", "junit.xml"
    }  # fmt: skip


def test_an_unreachable_host_leaves_an_error_record_and_a_report(project):
    status, out, _err = project.run([play("entry", {"name": "Reach", "ansible.builtin.ping": {}}, hosts="one,gone"), play("prepare")])
    assert status == 3
    [item] = project.evidence
    assert (item["id"], item["host"], item["status"]) == ("prep.server.reachable", "gone", "error")
    assert "Connection refused" in item["reason"]
    assert project.report["verdict"] == "refused" and "prep.server.reachable on gone" in out
    assert [(phase["name"], phase["verdict"]) for phase in project.report["phases"]] == [("entry", "pass"), ("prepare", "fail")]


def all_of(phase):
    catalogue, faults = report.load_catalogue([])
    assert not faults
    found = [entry for entry in catalogue if entry.gate_phase == phase and entry.kind != "manual" and not entry.not_built]
    return [{"id": entry.id, "status": "pass", "expected": "x", "observed": "stated by hand"} for entry in found]


def gate(phase, **extra):
    own = {"state": "gate", "phases": [phase], "catalogues": [str(ROOT / "catalogue" / "any.yml")], **extra}
    return {"name": "Gate", "evidence": own, "delegate_to": "localhost", "run_once": True}


def test_a_run_with_all_evidence_is_green(project):
    facts = {"service": "tiny", "version": "1.0.0", "environment": "test", "users_on": "1-1.0.0"}
    plays = [play("entry", answer(lease_held=True, greenroom=facts)), play("verify", answer(evidence=all_of("verify")), gate("verify"))]
    status, out, err = project.run(plays)
    assert status == 0, out + err
    made = project.report
    assert made["verdict"] == "pass" and made["exit_status"] == 0 and made["blockers"] == []
    assert (made["service"], made["version"], made["environment"]) == ("tiny", "1.0.0", "test")
    assert made["run_id"] == (project.reports / "latest").readlink().name and re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{6}", made["run_id"])
    assert "phase 1 of 1: verify" in out and "tiny 1.0.0 on test is proven" in out and "report.html" in out
    assert re.search(r"verify +[\d.]+ s  passed +\d+ of \d+ checks", out)


def test_green_tasks_without_evidence_are_not_green(project):
    status, out, _err = project.run([LEASE, play("verify", answer())])
    assert status == 2 and project.report["verdict"] == "fail"
    assert "verify.health.http" in out and "no check reported it" in out


def test_the_gate_is_red_in_the_play_and_only_once_in_the_report(project):
    records = [item for item in all_of("verify") if item["id"] != "verify.health.http"]
    status, out, _err = project.run([LEASE, play("verify", answer(evidence=records), gate("verify"), answer(name="Never reached"))])
    assert status == 2 and "Never reached" not in out
    assert [item["id"] for item in project.report["blockers"]] == ["verify.health.http"] and project.report["failures"] == []


def test_the_gate_notices_evidence_that_was_lost(project):
    # Somebody cuts the file between the check and the gate: the callback knows how many lines it wrote.
    cut = {"name": "Cut", "ansible.builtin.copy": {"content": "", "dest": "{{ lookup('env', 'GREENROOM_RUN_DIR') }}/evidence.jsonl"}}
    status, out, _err = project.run([LEASE, play("verify", answer(evidence=all_of("verify")), cut, gate("verify"))])
    assert status == 2 and re.search(r"evidence\.jsonl: holds 0 lines, but \d+ were written", out)


@pytest.mark.parametrize(
    ("plays", "arguments", "wanted"),
    [
        pytest.param([play("entry", answer(bad=True))], [], 3, id="before the lease"),
        pytest.param([play("entry", answer()), play("prepare", answer(bad=True))], [], 3, id="preflight, before the lease"),
        pytest.param([LEASE, play("prepare", answer(bad=True))], [], 2, id="after the lease"),
        pytest.param([play("restart", answer(bad=True))], [], 2, id="without entry or lease"),
        pytest.param([play("entry", answer(bad=True, greenroom_exit=75))], [], 75, id="lease held by somebody else"),
        pytest.param(
            [LEASE, play("verify", {"name": "Undo", "block": [answer(bad=True)], "rescue": [
                {"name": "Fail", "ansible.builtin.fail": {"msg": "both slots are down"}, "vars": {"greenroom_exit": 4}}]})],
            [], 4, id="a person is needed",
        ),
        pytest.param([play("entry", answer(bad=True))], ["--check"], 3, id="check mode, entry"),
        pytest.param([play("entry", answer()), play("prepare", answer(bad=True))], ["--check"], 2, id="check mode, later"),
        pytest.param([play("entry", answer()), play("prepare", answer())], ["--check"], 0, id="check mode, nothing wrong"),
        pytest.param([LEASE], ["--tags", "nothing"], 3, id="no task selected"),
        pytest.param([LEASE, play("restart", {"name": "Try", "block": [answer(bad=True)], "rescue": [answer()]})], [], 0, id="put right"),
        pytest.param([LEASE, play("restart", answer(bad=True, task={"ignore_errors": True}))], [], 0, id="ignored"),
    ],
)  # fmt: skip
def test_exit_status(project, plays, arguments, wanted):
    status, out, err = project.run(plays, *arguments)
    assert status == wanted, out + err
    assert project.report["exit_status"] == wanted
    names = {0: "pass", 2: "fail", 3: "refused", 4: "person_needed", 75: "busy"}
    assert project.report["verdict"] == ("checked" if arguments == ["--check"] and wanted == 0 else names[wanted])


def test_a_failed_task_without_evidence_is_in_the_report(project):
    status, out, _err = project.run([LEASE, play("prepare", answer(bad=True, name="Install it"))])
    assert status == 2
    [failure] = project.report["failures"]
    assert (failure["host"], failure["task"], failure["reason"], failure["phase"]) == ("one", "Install it", "asked to fail", "prepare")
    line = (project.folder / "play.yml").read_text().splitlines().index("  - name: Install it") + 1
    assert failure["where"].endswith(f"play.yml:{line}") and 'task "Install it"' in out
    assert "Install it" in (project.reports / "latest" / "report.html").read_text()


def test_secrets_do_not_reach_the_report(project):
    task = {"name": "Log in", "answer": {"bad": True, "msg": "password sesame-4711 refused", "secret": "sesame-4711"}}
    hidden = {"name": "Hidden", "answer": {"result": {"evidence": []}, "bad": True, "msg": "sesame-4711"}, "no_log": True}
    for failing in (task, hidden):
        status, out, err = project.run([LEASE, play("prepare", failing)], "-vvv")
        assert status == 2 and project.report["failures"]
        written = "".join(path.read_text() for path in (project.reports / "latest").iterdir())
        assert "sesame" not in written and "sesame" not in out.split("PLAY RECAP")[1] + err
    assert "no_log" in project.report["failures"][0]["reason"]


def test_invalid_evidence_is_kept_and_the_line_named(project):
    bad = [{"id": "prep.server.cpu", **PASS}, {"id": "no.such.id", **PASS}, "text", {"id": "prep.tool.git", **PASS, "tick": True}]
    status, out, _err = project.run([LEASE, play("restart", answer(evidence=bad))])
    assert status == 2
    for reason in ("line 3: is no JSON object", "line 4: has unknown keys"):
        assert reason in out


def test_evidence_that_is_no_list_makes_the_run_fail(project):
    status, _out, err = project.run([LEASE, play("restart", answer(evidence="all fine"))])
    assert status == 2 and "evidence is no list" in err and project.report["errors"]


def test_a_catalogue_that_cannot_be_read_makes_the_run_fail(project):
    status, _out, err = project.run([play("entry", answer(lease_held=True, greenroom={"catalogues": ["missing.yml"]}))])
    assert status == 2 and "missing.yml: cannot be read" in err and project.report["verdict"] == "fail"


def test_other_playbooks_get_no_report(project):
    status, out, _err = project.run([play(None, answer(bad=True, greenroom_exit=75))])
    assert status == 2 and not project.reports.exists() and "Report:" not in out


@pytest.mark.parametrize(("options", "phases"), [([], ["restart"]), (["--tags", "back"], ["back"])])
def test_a_phase_that_runs_only_by_its_tag_is_listed_only_then(project, options, phases):
    show = {"name": "Show", "ansible.builtin.debug": {"msg": "here"}}
    back = {**play("back", show), "tags": ["never", "back"]}
    status, _out, _err = project.run([play("restart", show), back], *options)
    assert status == 0 and [phase["name"] for phase in project.report["phases"] if phase["seconds"]] == phases
    assert ("back" in [phase["name"] for phase in project.report["phases"]]) == ("back" in phases)


def test_run_id_and_folder_are_in_the_environment(project):
    text = "{{ lookup('env', 'GREENROOM_RUN_ID') }}={{ lookup('env', 'GREENROOM_RUN_DIR') }}"
    show = {"name": "Show", "ansible.builtin.debug": {"msg": text}}
    status, out, _err = project.run([play("restart", show)])
    name = (project.reports / "latest").readlink().name
    assert status == 0 and f"{name}={project.reports / name}" in out


def test_a_long_task_says_what_it_waits_for(project):
    slow = {"name": "Wait long", "ansible.builtin.command": "sleep 3"}
    status, out, _err = project.run([play("restart", slow, hosts="one,two")], GREENROOM_PATIENCE="1")
    assert status == 0 and re.search(r'… 1\.\d s in "Wait long", waiting for one, two \(phase 1 of 1: restart', out)


def test_old_reports_are_removed_but_never_the_newest(project):
    for number in range(4):
        (project.reports / f"2020010{number + 1}T000000Z-abcdef").mkdir(parents=True)
    (project.reports / "kept-by-hand").mkdir()
    status, _out, _err = project.run([play("restart", answer())], GREENROOM_REPORTS_KEEP="2")
    left = sorted(path.name for path in project.reports.iterdir())
    newest = (project.reports / "latest").readlink().name
    assert status == 0 and left == ["20200104T000000Z-abcdef", newest, "kept-by-hand", "latest"]


def test_the_newest_report_that_passed_outlives_later_failures(project):
    proof = project.reports / "20200101T000000Z-abcdef"
    proof.mkdir(parents=True)
    (proof / "report.json").write_text('{"verdict": "pass"}')
    for day in (2, 3):
        (project.reports / f"2020010{day}T000000Z-abcdef").mkdir()
    project.run([play("restart", answer(bad=True, msg="no"))], GREENROOM_REPORTS_KEEP="1")
    assert proof.is_dir() and not (project.reports / "20200103T000000Z-abcdef").exists()


HANG = {"name": "Hang", "ansible.builtin.command": "sleep 20"}


def test_an_interrupted_run_gets_its_report(project):
    process = project.start([LEASE, play("verify", answer(evidence=all_of("verify")[:1]), HANG)])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not project_lines(project):
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    out, _err = process.communicate(timeout=60)
    assert process.returncode == 99 and project.report["verdict"] == "fail"
    assert project.report["phases"][-1]["name"] == "verify" and "Report:" in out


def test_a_killed_run_can_be_rendered(project):
    process = project.start([LEASE, play("verify", answer(evidence=all_of("verify")), HANG)])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not project_lines(project):
        time.sleep(0.1)
    process.kill()
    process.communicate(timeout=60)
    [run_dir] = [path for path in project.reports.iterdir() if report.RUN_ID.fullmatch(path.name)]
    made = report.write(run_dir)
    assert made["verdict"] == "fail" and (run_dir / "report.html").exists()  # all evidence is there, but the run never ended


def project_lines(project) -> int:
    return sum(len(path.read_text().splitlines()) for path in project.reports.glob("*/evidence.jsonl"))


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a file system of its own with 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    subprocess.run([*sudo, "mount", "-t", "tmpfs", "-o", "size=256k,mode=0777", "tmpfs", folder], check=True)
    yield folder
    subprocess.run([*sudo, "umount", folder], check=True)


def test_a_full_disk_makes_a_green_run_fail(project, small_disk):
    many = {"name": "Measure", "answer": {"size": 400_000}}
    status, out, err = project.run([LEASE, play("restart", many)], GREENROOM_REPORTS=str(small_disk))
    assert status == 2 and "evidence.jsonl" in err and "record of this run is damaged" in out


def test_a_full_disk_stops_the_gate(project, small_disk):
    many = {"name": "Measure", "answer": {"size": 400_000}}
    plays = [LEASE, play("verify", many, gate("verify"), answer(name="Never reached"))]
    status, out, _err = project.run(plays, GREENROOM_REPORTS=str(small_disk))
    assert status == 2 and "Never reached" not in out


def test_a_report_folder_that_is_full_at_the_start_refuses_the_run(project, small_disk):
    (small_disk / "filler").write_bytes(b"x" * 256 * 1024)
    status, out, err = project.run([LEASE, play("restart", answer(name="Never reached"))], GREENROOM_REPORTS=str(small_disk))
    assert status == 3 and "Never reached" not in out and "cannot be written: No space left on device. Nothing was touched" in err
