"""The module `announce`: what it hands back, that trouble of the channel is a warning and no failure, and that check mode sends nothing."""

import json
import sys
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "plugins" / "modules"))
import announce

ARGUMENTS = {"service": "svc", "event": "deploy.verified", "title": "1.1.0 is live, verified", "facts": {"run": "r1", "none": None}}


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "notify.json"
    path.write_text(json.dumps({
        "service": "svc", "environment": "test", "spool": str(tmp_path / "spool"), "template": "generic", "timeout_s": 0.5, "give_up_s": 60,
        "url": "http://127.0.0.1:9/t0ken-84c1",
    }))  # fmt: skip
    return path


def run(capsys, **arguments):
    with patch_module_args({**ARGUMENTS, **arguments}), pytest.raises(SystemExit) as ended:
        announce.main()
    return ended.value.code, json.loads(capsys.readouterr().out)


def test_a_dead_channel_is_a_warning_and_the_message_waits(config, tmp_path, capsys):
    code, said = run(capsys, config=str(config))
    assert code in (0, None) and (said["sent"], said["waiting"], said["changed"]) == (0, 1, False)
    assert "connection refused" in str(said) and "t0ken" not in json.dumps(said)
    kept = json.loads(next((tmp_path / "spool").glob("*.json")).read_text())["message"]
    assert kept["facts"] == {"run": "r1"} and kept["event"] == "deploy.verified"


def test_an_absent_configuration_is_a_warning(tmp_path, capsys):
    code, said = run(capsys, config=str(tmp_path / "absent.json"))
    assert code in (0, None) and "cannot be read" in said["problem"]


def test_check_mode_keeps_nothing(config, tmp_path, capsys):
    code, said = run(capsys, config=str(config), _ansible_check_mode=True)
    assert code in (0, None) and said["problem"] is None and not (tmp_path / "spool").exists()
