"""Back to the release before: the target comes from state and ledger alone, and a gateway can do it without the control node."""

import sys
from pathlib import Path

import pytest
from ansible.module_utils.greenroom import rollback
from ansible.module_utils.greenroom.state import StateError, protected

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode puts no folder of tests on the path
from gateway_folders import Gateway

WORKS = {"revisions": ["0005"], "old_app_works": True, "verdict": "lossless"}


@pytest.fixture
def gateway(tmp_path):
    return Gateway(tmp_path)


@pytest.fixture
def three(gateway):
    for number, version in enumerate(("1.0.0", "1.1.0", "1.2.0"), 1):
        gateway.deploy(f"run-{number}", version, str(number) * 40)
    return gateway


def warm(slot, name):
    return None


def flip(gateway, **more):
    return rollback.flip_back(gateway.releases, why="error rate 6 %", who="guard@gateway1", warm=more.pop("warm", warm), **more)


def test_users_go_back_and_what_was_left_is_bad(three):
    done = flip(three)
    assert (done["changed"], done["from"], done["to"], done["slot"]) == (True, "3-1.2.0", "2-1.1.0", "green")
    state = three.releases.read()
    assert three.releases.switch.read() == "green" and state["live"]["number"] == 2 and state["live"]["confirmed"]
    assert state["last_known_good"]["number"] == 2 and state["in_progress"] is None
    assert [(one["number"], one["reason"]) for one in state["bad"]] == [(3, "rolled back: error rate 6 %")]
    assert (state["good"], state["previous"]["number"]) == ([1, 2], 1)
    entry = three.releases.history(1)[0]
    assert (entry["action"], entry["release"], entry["why"], entry["who"]) == ("rolled_back", "2-1.1.0", "error rate 6 %", "guard@gateway1")
    assert entry["durations"]["seconds"] >= 0 and three.releases.lease.read() is None
    assert rollback.expected_s(three.releases.history()) == entry["durations"]["seconds"]


def test_a_second_rollback_goes_further_back_and_not_forth(three):
    flip(three)
    assert rollback.choose(three.releases.read(), three.releases.history())[0] == 1
    assert 1 in protected(three.releases.read())
    with pytest.raises(StateError, match=r"1-1\.0\.0 is in no slot any more"):
        flip(three)
    assert three.releases.switch.read() == "green" and three.releases.read()["in_progress"] is None


def test_the_first_release_has_nothing_before_it(gateway):
    gateway.deploy("run-1")
    with pytest.raises(StateError, match="no release to go back to"):
        flip(gateway)


@pytest.mark.parametrize("wanted", ["1", "1-1.0.0", "1.0.0"])
def test_another_release_is_named_by_number_or_version(three, wanted):
    assert rollback.choose(three.releases.read(), three.releases.history(), wanted) == (1, 3)


def test_a_name_that_was_never_live_or_is_live_or_bad_is_refused(three):
    state, history = three.releases.read(), three.releases.history()
    for wanted, text in (("9", "Known are: 1-1.0.0, 2-1.1.0, 3-1.2.0"), ("../1", "ever proven live"), ("3", "is live already")):
        with pytest.raises(StateError, match=text):
            rollback.choose(state, history, wanted)
    flip(three)
    state, history = three.releases.read(), three.releases.history()
    with pytest.raises(StateError, match=r"3-1.2.0 was found bad .*error rate 6 %"):
        rollback.choose(state, history, "3")
    assert rollback.choose(state, history, "3", retry_bad=True) == (3, 2)


def test_a_cold_slot_or_one_that_is_another_release_is_no_way(three):
    with pytest.raises(StateError, match=r"2-1\.1\.0 in slot green is not ready to serve: it says 9-9"):
        flip(three, warm=lambda slot, name: "it says 9-9")
    assert three.releases.switch.read() == "blue" and three.releases.lease.read() is None
    assert three.releases.read()["live"]["number"] == 3


@pytest.mark.parametrize(
    ("migrated", "fits"),
    [(None, True), (WORKS, True), ({**WORKS, "old_app_works": False}, False), ({**WORKS, "old_app_works": None}, None)],
)
def test_the_schema_must_fit_the_release_before(gateway, migrated, fits):
    gateway.deploy("run-1")
    gateway.deploy("run-2", "1.1.0", "b" * 40, migrated=migrated)
    assert rollback.schema_fits(gateway.releases.read(), 1) is fits
    if fits:
        assert flip(gateway)["to"] == "1-1.0.0"
    else:
        with pytest.raises(StateError, match="breaks on the schema" if fits is False else "never tried on the schema"):
            flip(gateway)


def test_what_was_tried_for_another_release_says_nothing(gateway):
    for number in (1, 2, 3):
        gateway.deploy(f"run-{number}", f"1.{number}.0", str(number) * 40, migrated=WORKS if number > 1 else None)
    state = gateway.releases.read()
    assert (rollback.schema_fits(state, 2), rollback.schema_fits(state, 1)) == (True, None)
    assert [one["number"] for one in rollback.undone_revisions(state, 1)] == [3, 2]


def test_time_expected_is_the_median_of_the_newest():
    history = [{"action": "rolled_back", "durations": {"seconds": seconds}} for seconds in (900, 5, 7, 6, 30, 8)]
    assert rollback.expected_s(history) == 7 and rollback.expected_s([]) is None
