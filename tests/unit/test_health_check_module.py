"""The module health_check, called as Ansible calls it."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "plugins" / "modules" / "health_check.py"


RUNNER = f"""
import sys, runpy, json
sys.path.insert(0, {str(ROOT / "tests")!r})
import conftest
from ansible.module_utils.testing import patch_module_args
with patch_module_args(json.loads(sys.stdin.read())):
    runpy.run_path({str(MODULE)!r}, run_name="__main__")
"""


def module(**args):
    done = subprocess.run([sys.executable, "-c", RUNNER], input=json.dumps(args), capture_output=True, text=True, check=False)
    return json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr


GREEN = {"id": "a.b", "type": "command", "argv": ["true"]}
RED = {"id": "a.c", "type": "command", "argv": ["false"], "name": "the red one"}


def test_the_module_fails_with_all_evidence_or_hands_it_back():
    result, _ = module(probes=[GREEN, RED], _ansible_check_mode=True)
    assert result["failed"] is True
    assert "a.c [the red one] fail: expected exit status 0, observed exit status 1" in result["msg"]
    assert [item["status"] for item in result["evidence"]] == ["pass", "fail"]
    result, _ = module(probes=[GREEN, RED], fail=False)
    assert "failed" not in result
    assert result["counts"]["fail"] == 1
    assert result["changed"] is False
    result, _ = module(probes=[GREEN])
    assert "failed" not in result


def test_the_module_measures_nothing_more_when_what_comes_first_does_not_pass(tmp_path):
    there, gone = {"id": "t.there", "type": "file", "path": str(tmp_path)}, {"id": "t.gone", "type": "file", "path": str(tmp_path / "no")}
    whole = {"id": "t.whole", "target": "all of it", "required": ["t.there"]}
    result, _ = module(first=[gone], probes=[there], whole=whole, fail=False)
    assert result["failed"] and [(item["id"], item["status"]) for item in result["evidence"]] == [("t.gone", "fail"), ("t.whole", "fail")]
    assert "t.there: not measured" in result["evidence"][1]["reason"]
    result, _ = module(first=[there], probes=[gone], whole=whole, fail=False)
    assert "failed" not in result and [item["status"] for item in result["evidence"]] == ["pass", "fail", "fail"]
    result, _ = module(first=[there], probes=[there], whole=whole)
    assert "failed" not in result and [item["status"] for item in result["evidence"]] == ["pass", "pass", "pass"]


def test_the_module_refuses_a_wrong_list_and_hands_no_secret_back():
    result, _ = module(probes=[])
    assert result["failed"] is True
    result, text = module(probes=[{"id": "a.b", "type": "command", "argv": ["true"], "stdin_keey": "x"}], secrets={"x": "m0dule-s3cret"})
    assert "stdin_keey: unknown" in result["problems"][0]
    assert "m0dule-s3cret" not in text
    _, text = module(
        probes=[{**RED, "argv": ["sh", "-c", "cat >&2; exit 1"], "stdin_key": "x"}], secrets={"x": "m0dule-s3cret"}, fail=False
    )
    assert "m0dule-s3cret" not in text


def test_ansible_ships_every_probe_with_the_module():
    """Through ansible itself: what its import walk does not find would be missing on a real host."""
    ansible = Path(sys.executable).parent / "ansible"
    given = json.dumps({"probes": [GREEN, {"id": "a.e", "type": "environ", "pid": 1, "env_files": ["/nowhere.env"]}], "fail": False})
    done = subprocess.run(
        [str(ansible), "localhost", "-i", "localhost,", "-c", "local", "-m", "health_check", "-a", given,
         "-e", f"ansible_python_interpreter={sys.executable}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={"PATH": f"{ansible.parent}:/usr/bin:/bin", "HOME": str(Path.home()), "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
             "LC_ALL": "C.UTF-8", "ANSIBLE_NOCOLOR": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a.e" in done.stdout
