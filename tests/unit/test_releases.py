"""What may happen to a release: written first, under the lease, and refused where it would leave users on something unproved."""

import os
import sys
from pathlib import Path

import pytest
from ansible.module_utils.greenroom.lease import LeaseHeld
from ansible.module_utils.greenroom.proofs import prove, proven
from ansible.module_utils.greenroom.releases import Releases
from ansible.module_utils.greenroom.state import StateError, idle_slot, matches_live, protected
from ansible.module_utils.greenroom.switch import SwitchError

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode puts no folder of tests on the path
from gateway_folders import Gateway


@pytest.fixture
def gateway(tmp_path):
    return Gateway(tmp_path)


def test_an_absent_file_is_a_first_deploy(gateway):
    state = gateway.releases.read()
    assert state["counter"] == 0 and state["live"] is None and state["next_number"] == 1 and idle_slot(state) == "blue"
    assert gateway.releases.problems(state) == []
    assert os.listdir(gateway.root / "state") == []


def test_two_deploys_move_live_previous_and_last_known_good(gateway):
    first = gateway.deploy("run-1")
    assert (first["live"]["number"], first["live"]["slot"], first["previous"]) == (1, "blue", None)
    assert first["last_known_good"]["number"] == 1 and first["live"]["confirmed"]
    second = gateway.deploy("run-2", "1.1.0", "b" * 40)
    assert (second["live"]["number"], second["live"]["slot"], second["previous"]["number"]) == (2, "green", 1)
    assert second["slots"] == {"blue": 1, "green": 2} and second["next_number"] == 3
    assert gateway.releases.switch.read() == "green"
    assert second["versions"]["1.0.0"] == {"commit": "a" * 40, "lock_sha256": "l" * 64}
    assert second["releases"]["2"]["artefact_sha256"] == "f" * 64
    assert protected(second) == [1, 2]
    actions = [entry["action"] for entry in gateway.releases.history()]
    assert actions == ["planned", "staged", "switching", "switched", "confirmed"] * 2
    assert [entry["counter"] for entry in gateway.releases.history()] == list(range(1, 11))
    assert {entry["who"] for entry in gateway.releases.history()} == {"anna@control"}
    assert gateway.releases.problems(second) == []


def test_every_step_again_changes_nothing(gateway):
    gateway.begin("run-1")
    common = {"run_id": "run-1", "fencing": gateway.fencing}
    content = {"version": "1.0.0", "commit": "a" * 40, "lock_sha256": "l" * 64}
    steps = [
        lambda: gateway.releases.plan(**common, **content),
        lambda: gateway.releases.stage(**common, artefact_sha256="f" * 64),
        lambda: gateway.releases.switch_to("blue", **common, reason="x"),
        lambda: gateway.releases.confirm(**common),
    ]
    for step in steps:
        assert step()[1] is True
        counter = gateway.releases.read()["counter"]
        assert step()[1] is False
        assert gateway.releases.read()["counter"] == counter


def test_what_is_live_is_recognised_for_a_no_op(gateway):
    state = gateway.deploy("run-1")
    same = ("1.0.0", "a" * 40, "l" * 64, "c1")
    assert matches_live(state, *same)
    for position, other in enumerate(("1.0.1", "b" * 40, "m" * 64, "c2")):
        changed = [*same]
        changed[position] = other
        assert not matches_live(state, *changed)
    gateway.begin("run-2")
    assert not matches_live(gateway.plan("1.1.0", "b" * 40), *same)


def test_a_failed_verification_goes_back_and_marks_the_release_bad(gateway):
    gateway.deploy("run-1")
    gateway.begin("run-2")
    gateway.plan("1.1.0", "b" * 40)
    gateway.stage()
    gateway.switch("green")
    common = {"run_id": "run-2", "fencing": gateway.fencing}
    with pytest.raises(StateError, match=r"users are on green.*Switch to blue first") as refused:
        gateway.releases.fail(**common, reason="error rate 6 %", bad=True)
    assert refused.value.exit_status == 4
    state = gateway.switch("blue", "error rate 6 %")
    assert state["live"]["number"] == 1 and state["previous"] is None and state["in_progress"]["step"] == "switched_back"
    state, changed = gateway.releases.fail(**common, reason="error rate 6 %", bad=True)
    assert changed and state["in_progress"] is None and state["live"]["confirmed"]
    assert [(one["number"], one["reason"]) for one in state["bad"]] == [(2, "error rate 6 %")]
    assert gateway.releases.fail(**common, reason="again")[1] is False
    gateway.end()
    gateway.begin("run-3")
    with pytest.raises(StateError, match=r"found bad in run run-2: error rate 6 %.*run_retry_bad=true"):
        gateway.plan("1.1.0", "b" * 40)
    with pytest.raises(StateError, match="found bad"):
        gateway.plan("1.1.0", "b" * 40, config=None)
    assert gateway.plan("1.1.0", "b" * 40, config="repaired")["in_progress"]["number"] == 3
    gateway.end()
    gateway.begin("run-4")
    assert gateway.plan("1.1.0", "b" * 40, retry_bad=True)["in_progress"]["number"] == 4


def test_a_failed_staging_leaves_users_and_the_numbers_go_on(gateway):
    gateway.deploy("run-1")
    gateway.begin("run-2")
    gateway.plan("1.1.0", "b" * 40)
    state = gateway.releases.fail(run_id="run-2", fencing=gateway.fencing, reason="disk full")[0]
    assert state["live"]["number"] == 1 and state["bad"] == [] and state["next_number"] == 3


def test_a_first_deploy_that_fails_after_the_switch_closes_the_gateway(gateway):
    gateway.begin("run-1")
    gateway.plan()
    gateway.stage()
    gateway.switch("blue")
    state = gateway.switch(None, "unhealthy")
    assert state["live"] is None and gateway.releases.switch.read() is None
    state = gateway.releases.fail(run_id="run-1", fencing=gateway.fencing, reason="unhealthy", bad=True)[0]
    assert state["in_progress"] is None and gateway.releases.problems(state) == []


def test_a_version_belongs_to_one_commit_and_one_lock(gateway):
    gateway.deploy("run-1")
    gateway.begin("run-2")
    with pytest.raises(StateError, match=rf"version 1.0.0 is commit {'a' * 40} .*this one is commit {'b' * 40}"):
        gateway.plan("1.0.0", "b" * 40)
    with pytest.raises(StateError, match="new version"):
        gateway.plan("1.0.0", "a" * 40, lock="m" * 64)


@pytest.mark.parametrize("version", ["1..2", "1 2", "$(id)", "../x", "v" * 64, "", "-1", "1\n", "1/2"])
def test_a_bad_version_string_is_refused(gateway, version):
    gateway.begin("run-1")
    with pytest.raises(StateError, match="not of the form"):
        gateway.plan(version)
    assert gateway.releases.read()["counter"] == 0


def test_nothing_changes_without_the_lease(gateway):
    gateway.begin("run-1")
    content = {"version": "1", "commit": "a" * 40, "lock_sha256": "l" * 64}
    with pytest.raises(StateError, match="needs the fencing number"):
        gateway.releases.plan(run_id="run-1", **content)
    for fencing, run_id in ((99, "run-1"), (gateway.fencing, "run-2")):
        with pytest.raises(LeaseHeld, match="stale"):
            gateway.releases.plan(run_id=run_id, fencing=fencing, **content)
    gateway.end()
    with pytest.raises(LeaseHeld, match="there is none"):
        gateway.plan()
    assert not gateway.releases.path.exists()


def test_a_holder_that_lost_its_lease_cannot_switch(gateway):
    gateway.begin("run-1")
    gateway.plan()
    gateway.stage()
    old = gateway.fencing
    gateway.releases.lease.unlock(gateway.releases.lease.read()["token"])
    gateway.begin("run-2")
    with pytest.raises(LeaseHeld):
        gateway.releases.switch_to("blue", run_id="run-1", fencing=old, reason="late")
    assert gateway.releases.switch.read() is None


def test_only_a_staged_release_can_be_switched_to_and_only_a_switched_one_confirmed(gateway):
    gateway.deploy("run-0")
    gateway.begin("run-1")
    gateway.plan("1.1.0", "b" * 40)
    with pytest.raises(StateError, match="holds no release"):
        gateway.switch("green")
    gateway.stage()
    with pytest.raises(StateError, match="cannot be confirmed: step staged, users are on blue"):
        gateway.releases.confirm(run_id="run-1", fencing=gateway.fencing)
    gateway.switch("green")
    gateway.releases.switch.flip("blue")
    with pytest.raises(StateError, match="users are on blue"):
        gateway.releases.confirm(run_id="run-1", fencing=gateway.fencing)


def test_a_planned_release_is_not_taken_for_what_its_slot_held_before(gateway):
    gateway.deploy("run-1")
    gateway.deploy("run-2", "1.1.0", "b" * 40)
    gateway.begin("run-3")
    assert gateway.plan("1.2.0", "d" * 40)["in_progress"]["slot"] == "blue"
    with pytest.raises(StateError, match="planned but not staged"):
        gateway.switch("blue")


def test_a_switch_moved_by_hand_stops_the_next_deploy_until_a_person_decides(gateway):
    gateway.deploy("run-1")
    gateway.deploy("run-2", "1.1.0", "b" * 40)
    gateway.releases.switch.flip("blue")
    gateway.begin("run-3")
    with pytest.raises(StateError, match=r"users are on blue, but .*state.json says green.*greenroom switch") as refused:
        gateway.plan("1.2.0", "d" * 40)
    assert refused.value.exit_status == 4
    state = gateway.switch("blue", "blue it is")
    assert (state["live"]["number"], state["previous"], state["good"]) == (1, None, [1]) and gateway.releases.problems(state) == []
    assert gateway.plan("1.2.0", "d" * 40)["in_progress"]["slot"] == "green"


def test_a_run_that_died_before_the_switch_is_taken_up_or_abandoned(gateway):
    gateway.deploy("run-1")
    gateway.begin("run-2")
    assert gateway.plan("1.1.0", "b" * 40)["in_progress"]["number"] == 2
    gateway.end()
    gateway.begin("run-3")
    state = gateway.plan("1.1.0", "b" * 40)
    assert (state["in_progress"]["number"], state["in_progress"]["run_id"], state["next_number"]) == (2, "run-3", 3)
    gateway.end()
    gateway.begin("run-4")
    state = gateway.plan("1.2.0", "d" * 40)
    assert state["in_progress"]["number"] == 3
    assert [one["action"] for one in gateway.releases.history(2)] == ["abandoned", "planned"]


def test_a_run_that_died_after_the_switch_needs_a_person_who_decides(gateway):
    gateway.deploy("run-1")
    gateway.begin("run-2")
    gateway.plan("1.1.0", "b" * 40)
    gateway.stage()
    gateway.switch("green")
    gateway.end()
    gateway.begin("run-3")
    with pytest.raises(StateError, match=r"run-2 moved users .* never confirmed.*greenroom switch blue"):
        gateway.plan("1.2.0", "d" * 40)
    gateway.end()
    gateway.begin("manual-1")
    state = gateway.switch("blue", "going back")
    assert state["live"]["number"] == 1 and state["in_progress"] is None and state["previous"] is None


def test_a_failing_switch_is_recorded_and_users_stay(gateway, monkeypatch):
    gateway.deploy("run-1")
    gateway.begin("run-2")
    gateway.plan("1.1.0", "b" * 40)
    gateway.stage()

    def readonly(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "rename", readonly)
    with pytest.raises(SwitchError, match="users are on blue"):
        gateway.switch("green")
    monkeypatch.undo()
    state = gateway.releases.read()
    assert state["live"]["number"] == 1 and state["in_progress"]["step"] == "staged" and gateway.releases.problems(state) == []
    assert gateway.releases.history(1)[0]["action"] == "switch_failed"
    assert gateway.switch("green")["live"]["number"] == 2


@pytest.mark.parametrize("when", ["before the flip", "after the flip"])
def test_a_kill_around_the_flip_is_finished_by_asking_again(gateway, monkeypatch, when):
    """The intent was written; the result was not. Both orders end in the same state."""
    gateway.deploy("run-1")
    gateway.begin("run-2")
    gateway.plan("1.1.0", "b" * 40)
    gateway.stage()

    class Killed(BaseException):
        pass

    real = gateway.releases.switch.flip

    def flip(slot):
        if when == "after the flip":
            real(slot)
        raise Killed

    monkeypatch.setattr(gateway.releases.switch, "flip", flip)
    with pytest.raises(Killed):
        gateway.switch("green")
    monkeypatch.setattr(gateway.releases.switch, "flip", real)
    state = gateway.releases.read()
    assert state["in_progress"]["step"] == "switching" and state["live"]["number"] == 1
    assert "never confirmed" in gateway.releases.problems(state)[0]
    state = gateway.switch("green")
    assert state["live"]["number"] == 2 and state["previous"]["number"] == 1 and gateway.releases.switch.read() == "green"


def test_dry_shows_the_state_as_it_would_be_and_writes_nothing(gateway):
    gateway.deploy("run-1")
    before = {path: path.read_bytes() for path in gateway.root.rglob("*") if path.is_file()}
    dry = Releases(gateway.root / "state", "svc", gateway.root / "switch", dry=True)
    state, changed = dry.plan(run_id="check", version="1.1.0", commit="b" * 40, lock_sha256="l" * 64)
    assert changed and state["in_progress"]["number"] == 2
    for step in (
        lambda: dry.stage(run_id="check", artefact_sha256="f"),
        lambda: dry.switch_to("green", run_id="check", reason="x"),
        lambda: dry.confirm(run_id="check"),
    ):
        assert step()[1] is True
    assert {path: path.read_bytes() for path in gateway.root.rglob("*") if path.is_file()} == before


def test_what_was_proven_belongs_to_one_release_and_one_configuration(gateway):
    gateway.begin("run-1")
    identity = {"version": "1.0.0", "commit": "a" * 40, "lock_sha256": "l" * 64, "config_digest": "c" * 64}
    common = {"run_id": "run-1", "fencing": gateway.fencing, "phases": ["prepare", "release"]}
    assert prove(gateway.releases, **common, identity=identity)[1]
    assert proven(gateway.releases, identity) == {"prepare": "run-1", "release": "run-1"}
    assert not prove(gateway.releases, **common, identity=identity)[1], "the same again changes nothing"
    for key in identity:
        assert proven(gateway.releases, {**identity, key: "other"}) == {}, key
    with pytest.raises(StateError, match="config_digest"):
        prove(gateway.releases, **common, identity={**identity, "config_digest": None})
