"""Hooks: order, environment, time limit, and what is said of one that fails."""

import time

import pytest
from ansible.module_utils.greenroom.hooks import HookError, run_hooks


def test_commands_run_in_their_order_and_place(tmp_path):
    done = run_hooks("before_release", ["sh -c 'echo $A; pwd'", "printf '%s|%s' 'a b' c"], tmp_path, {"A": "x y"})
    assert [one["output"] for one in done] == [f"x y\n{tmp_path}", "a b|c"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("sh -c 'echo why >&2; exit 3'", "ended with status 3. The phase stops here. It said:\nwhy"),
        ("false", "ended with status 1. The phase stops here. It said nothing."),
        ("./absent", "could not be started: No such file or directory: ./absent"),
        ("sh -c 'kill -9 $$'", "was ended by signal 9"),
        ("echo 'open", "cannot be split into words"),
        ("  ", "is empty"),
        ("sh -c 'echo begun; sleep 30 & sleep 30'", "did not end within 0.5 s and was stopped. The phase stops here. It said:\nbegun"),
    ],
)
def test_the_first_that_fails_is_the_last_and_says_why(tmp_path, command, words):
    begun = time.monotonic()
    with pytest.raises(HookError) as caught:
        run_hooks("after_verify", ["true", command, "touch reached"], tmp_path, {}, limit_s=0.5)
    assert f"hook after_verify, command 2 of 3 ({command}) {words}" in str(caught.value)
    assert len(caught.value.done) == 2 and not (tmp_path / "reached").exists()
    assert time.monotonic() - begun < 10


def test_what_runs_on_in_the_background_keeps_nobody_waiting(tmp_path):
    begun = time.monotonic()
    assert run_hooks("after_release", ["sh -c 'sleep 20 & echo done'"], tmp_path, {})[0]["output"] == "done"
    assert time.monotonic() - begun < 10


def test_secrets_are_masked_in_commands_and_output(tmp_path):
    secret = "p&ss/wörd%1"
    with pytest.raises(HookError) as caught:
        run_hooks("before_release", [f"sh -c 'echo \"{secret} p%26ss%2Fw%C3%B6rd%251\"; exit 1'"], tmp_path, {}, [secret])
    for text in (str(caught.value), *caught.value.done[0].values()):
        assert "wörd" not in str(text) and "%C3" not in str(text)
    assert "***" in str(caught.value)
