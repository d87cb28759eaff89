"""The service's own configuration: made where it is missing, proved afterwards, secrets only over standard input."""

import sys

import pytest
from ansible.module_utils.greenroom import configuration as subject

# A command line with a memory: `add` reads a secret and keeps its length, `show` succeeds if something was added.
CLI = """
import pathlib, sys
store, verb = pathlib.Path(sys.argv[1]), sys.argv[2]
if verb == "show":
    sys.exit(0 if store.exists() else "not registered")
if verb == "add":
    store.write_text(str(len(sys.stdin.read())))
if verb == "lose":
    sys.stdin.read()
if verb == "refuse":
    sys.exit("refused: " + sys.stdin.read())
if verb == "missing":
    sys.exit(127)
if verb == "hang":
    import time; time.sleep(60)
"""
SECRETS = {"APP_SECRET": "a-secret-of-the-test"}


@pytest.fixture
def runner(tmp_path):
    program = tmp_path / "cli.py"
    program.write_text(CLI)
    return [sys.executable, str(program), str(tmp_path / "store")]


def step(command="add", unless="show", **more):
    return {"id": "config.app.added", "name": "register", "command": command, "unless": unless, "stdin_key": "APP_SECRET", **more}


def test_a_missing_configuration_is_made_once_and_proved(runner, tmp_path):
    first = subject.apply_steps([step()], runner, SECRETS)
    assert (first["changed"], first["made"]) == (True, ["register"])
    assert (first["evidence"][0]["status"], first["evidence"][0]["observed"]) == ("pass", "made now, in place")
    assert (tmp_path / "store").read_text() == str(len(SECRETS["APP_SECRET"]))
    second = subject.apply_steps([step()], runner, SECRETS)
    assert (second["changed"], second["evidence"][0]["observed"]) == (False, "in place already")


def test_a_command_that_succeeds_without_effect_is_red(runner):
    done = subject.apply_steps([step("lose")], runner, SECRETS)
    assert done["evidence"][0]["status"] == "fail" and "still fails (not registered)" in done["evidence"][0]["reason"]


def test_a_refused_command_is_red_and_its_secret_does_not_show(runner):
    done = subject.apply_steps([step("refuse"), step()], runner, SECRETS)
    assert [item["status"] for item in done["evidence"]] == ["fail", "not_run"]
    assert "exit status 1 (refused: ***)" in done["evidence"][0]["reason"] and SECRETS["APP_SECRET"] not in repr(done)


def test_a_check_that_cannot_be_started_is_not_taken_for_a_no(runner, tmp_path):
    done = subject.apply_steps([step(unless="missing")], runner, SECRETS)
    assert done["evidence"][0]["status"] == "error" and "could not be started" in done["evidence"][0]["reason"]
    assert not (tmp_path / "store").exists()
    done = subject.apply_steps([step()], ["/no/such/runner"], SECRETS)
    assert done["evidence"][0]["status"] == "error" and "there is no /no/such/runner" in done["evidence"][0]["reason"]


def test_a_command_that_hangs_is_an_error(runner):
    done = subject.apply_steps([step("hang")], runner, SECRETS, limit_s=1)
    assert done["evidence"][0]["status"] == "error" and "within 1 s" in done["evidence"][0]["reason"]


def test_a_secret_that_is_not_given_is_named_before_anything_runs(runner, tmp_path):
    done = subject.apply_steps([step()], runner, {})
    assert done["evidence"][0]["status"] == "error" and "APP_SECRET" in done["evidence"][0]["reason"]
    assert not (tmp_path / "store").exists()


def test_a_step_without_a_check_is_judged_by_its_exit_status(runner):
    assert subject.apply_steps([step(unless=None)], runner, SECRETS)["evidence"][0]["status"] == "pass"
    assert subject.apply_steps([step("refuse", unless=None)], runner, SECRETS)["evidence"][0]["status"] == "fail"


def test_a_dry_run_changes_nothing_and_claims_nothing(runner, tmp_path):
    done = subject.apply_steps([step()], runner, SECRETS, dry=True)
    assert (done["changed"], done["evidence"]) == (True, []) and not (tmp_path / "store").exists()
    (tmp_path / "store").write_text("1")
    done = subject.apply_steps([step()], runner, SECRETS, dry=True)
    assert (done["changed"], done["evidence"][0]["status"]) == (False, "pass")
