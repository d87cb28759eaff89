"""The module backup_verify, as Ansible ships it and in its process: proof, refusal, check mode, and what is remembered."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.module_utils.greenroom.backup import dump

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode puts no folder of tests on the path
from backup_fixtures import *  # noqa: F403 - fixtures
from backup_site import ROOT

STEPS = 11


@pytest.fixture
def call(site):
    """Runs the module through `ansible`: (exit status, its result)."""
    path = site.folder / "backup.json"

    def run(*more, **arguments):
        path.write_text(json.dumps(site.document()))
        argv = [str(Path(sys.executable).parent / "ansible"), "localhost", "-i", "localhost,", "-c", "local", "-m", "backup_verify"]
        argv += ["-e", f"ansible_python_interpreter={sys.executable}", "-a", json.dumps({"config": str(path), **arguments}), *more]
        env = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_STDOUT_CALLBACK": "minimal", "ANSIBLE_NOCOLOR": "1"}
        env |= {"ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "PATH": f"{Path(sys.executable).parent}:{env['PATH']}"}
        done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)
        assert "{" in done.stdout, done.stdout + done.stderr
        return done.returncode, json.loads(done.stdout[done.stdout.index("=> {") + 3 :])

    return run


@pytest.mark.timeout(240)
def test_proof_check_mode_memory_and_refusal(site, backup, call):
    code, looked = call("--check")
    assert code == 0 and looked["verdict"] == "looked at, not verified", looked
    assert sorted({one["status"] for one in looked["evidence"]}) == ["not_run", "pass"] and len(looked["evidence"]) == STEPS
    assert list(site.work.glob("*-*")) == []

    probe = {key: value for key, value in site.probes()[0].items() if key != "name"}
    code, proved = call(key_probes=[probe])
    assert code == 0 and (proved["verdict"], proved["id"], proved["changed"]) == ("verified", backup["id"], False), proved
    assert [one["status"] for one in proved["evidence"]] == ["pass"] * STEPS and proved["total_s"] > 0 and proved["differences"] == []

    for arguments, changed in ((["--check"], True), ([], True), ([], False), (["--check"], False)):
        code, remembered = call(*arguments, state="remembered", id=backup["id"])
        assert code == 0 and remembered["changed"] is changed, (arguments, remembered)
    assert dump.proved(site.config()) == [backup["id"]]
    code, refused = call(state="remembered", id="../x")
    assert code != 0 and "no id of a backup" in refused["msg"]

    code, failed = call(max_age_s=0.001)
    assert code != 0 and failed["verdict"] == "failed" and "the limit is" in failed["msg"]
    assert [one["status"] for one in failed["evidence"]].count("not_run") == STEPS - 2
