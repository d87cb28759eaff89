"""Back to the release before: the target comes from state and ledger alone, and a gateway can do it without the control node."""

import json
import sys
from pathlib import Path

import pytest
from ansible.module_utils.greenroom import rollback, rollback_report
from ansible.module_utils.greenroom.reconcile import reconcile
from ansible.module_utils.greenroom.state import StateError, protected

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode puts no folder of tests on the path
from gateway_folders import Gateway

WORKS = {"revision": ["0005"], "revisions": ["0005"], "old_app_works": True, "verdict": "LOSSLESS"}


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


def manifest(*names, flags=()):
    """A rehearsal's manifest of a chain of revisions."""
    parents = [[]] + [[name] for name in names]
    return {"revisions": [
        {"revision": name, "parents": before, "verdict": "LOSSLESS", "flags": list(flags), "side_copy": None, "recoverable": None,
         "measured": {"down_seconds": 1.0}} for name, before in zip(names, parents, strict=False)
    ]}  # fmt: skip


def test_what_a_release_did_to_the_schema_is_compared_with_what_the_one_before_left(gateway):
    gateway.deploy("run-1", migrated={"revision": ["0001"], "revisions": []})
    gateway.begin("run-2")
    gateway.plan("1.1.0", "b" * 40)
    state = gateway.releases.read()

    def step(revision, found):
        return rollback.schema_step(state, {"revision": [revision], "manifest": found})

    assert rollback.schema_step(state, None) is None
    assert step("0001", None)["revisions"] == []
    assert step("0003", None)["revisions"] is None, "nothing was rehearsed"
    known = step("0003", manifest("0001", "0002", "0003"))
    assert (known["revisions"], known["old_app_works"], known["verdict"]) == (["0003", "0002"], True, "LOSSLESS")
    assert step("0003", manifest("0001", "0002", "0003", flags=["OLD_APP_BREAKS"]))["old_app_works"] is False
    assert step("0003", manifest("0003"))["old_app_works"] is False, "the chain does not lead back to what is known"
    assert rollback.schema_step({**state, "live": None}, {"revision": ["0003"], "manifest": None})["revisions"] == []


def test_a_release_that_says_nothing_of_its_schema_closes_the_way_of_the_gateway_alone(gateway):
    gateway.deploy("run-1")
    run = gateway.begin("run-2")
    gateway.plan("1.1.0", "b" * 40)
    gateway.releases.stage(**run, artefact_sha256="f" * 64)
    assert rollback.schema_fits(gateway.releases.read(), 1) is None


def test_the_plan_says_what_happens(three):
    run = three.begin("run-4")
    state = rollback.begin(three.releases, **run, reason="errors")[0]
    plan = rollback.plan_of(state, three.releases.history(), "everything")
    assert (plan["from"], plan["to"], plan["slot"], plan["warm"], plan["expected_s"]) == ("3-1.2.0", "2-1.1.0", "green", True, None)
    assert plan["newer"] == "3-1.2.0"
    assert "the release works on it" in plan["lines"][1] and "never done" in plan["lines"][3]


def test_parts_have_conditions_of_their_own(three):
    run = three.begin("run-4")
    with pytest.raises(StateError, match=r"no proven release below 3-1\.2\.0 is the same code with another configuration"):
        rollback.begin(three.releases, **run, reason="x", part="configuration")
    with pytest.raises(StateError, match=r"1-1\.0\.0 is in no slot, so the gateway alone cannot"):
        rollback.begin(three.releases, **run, reason="x", part="gateway", to="1")
    three.end()
    three.deploy("run-5", "1.2.0", "3" * 40, config="other")
    run = three.begin("run-6")
    assert rollback.begin(three.releases, **run, reason="x", part="configuration")[0]["in_progress"]["number"] == 3


def test_the_report_counts_what_users_felt(three, tmp_path):
    flip(three)
    entries = [one for one in three.releases.history() if (one["run_id"] or "").startswith("gateway-")]
    log = tmp_path / "access.log"
    rows = [("2000-01-01T00:00:00+00:00", 500, 9.0)] + [
        ("2999-01-01T00:00:00+00:00", *row) for row in ((200, 0.01), (503, 0.02), (200, 2.5))
    ]
    log.write_text(
        "".join(json.dumps({"time": at, "status": status, "request_s": took, "slot": "green"}) + "\n" for at, status, took in rows) + "cut"
    )
    about = {"service": "svc", "environment": "test", "reason": "error rate 6 %", "approved_by": "otto"}
    plan = {"from": "3-1.2.0", "to": "2-1.1.0", "part": "gateway", "lines": ["schema: left"]}
    felt, text = rollback_report.report(
        three.root / "state", "svc", run_id=entries[0]["run_id"], plan=plan, about=about, log=str(log), slow_s=1
    )
    assert {key: felt[key] for key in ("requests", "failed", "delayed", "worst_s", "unreadable")} == {
        "requests": 3, "failed": 1, "delayed": 1, "worst_s": 2.5, "unreadable": 1,
    }  # fmt: skip
    for part in ("3-1.2.0 to 2-1.1.0", "error rate 6 %", "guard@gateway1", "otto", "| rolled_back |", "root cause", "3 requests, 1 failed"):
        assert part in text
    gone = rollback_report.report(three.root / "state", "svc", run_id="x", plan=plan, about=about, log="/nowhere", slow_s=1)
    assert "/nowhere" in gone[0]["unknown"] and "Not known" in gone[1]


def test_a_schema_that_went_back_behind_the_closed_gateway_is_known_afterwards(gateway):
    gateway.deploy("run-1", migrated={"revision": ["0004"], "revisions": []})
    gateway.deploy("run-2", "1.1.0", "b" * 40, migrated={**WORKS, "old_app_works": False})
    run = gateway.begin("run-3")
    rollback.begin(gateway.releases, **run, reason="errors")
    gateway.switch(None, "the schema goes back")
    assert gateway.releases.switch.read() is None and gateway.releases.read()["in_progress"]["step"] == "switched_back"
    gateway.begin("run-4")  # run-3 died while users see the maintenance page
    run = {"run_id": "run-4", "fencing": gateway.fencing}
    assert [one["rule"] for one in reconcile(gateway.releases, **run, rolling_back=True)] == ["keep"]
    assert rollback.begin(gateway.releases, **run, reason="errors")[0]["in_progress"]["number"] == 1
    gateway.switch("blue", "proven")
    state = gateway.releases.confirm(**run, undone_to=["0004"])[0]
    assert (state["live"]["number"], [one["number"] for one in state["bad"]]) == (1, [2])
    assert rollback.schema_fits(state, 1) is True and rollback.undone_revisions(state, 1) == []


def test_a_rollback_that_failed_after_the_switch_does_not_lead_back_to_what_was_left(three):
    run = three.begin("run-4")
    rollback.begin(three.releases, **run, reason="errors")
    three.switch("green", "errors")
    three.switch(None, "red as well")
    state = three.releases.fail(**run, reason="red as well")[0]
    assert state["live"] is None and three.releases.problems(state) == []
    assert [one["number"] for one in state["bad"]] == [3] and "left by a rollback that failed" in state["bad"][0]["reason"]
    assert rollback.choose(state, three.releases.history())[0] == 2, "once its dependency is back, the same command is the way"


def test_the_way_of_the_schema_is_that_of_the_manifest():
    chain = manifest("0004", "0005")
    assert rollback.schema_way(chain, ["0005"], ["0004"])["name"] == "leave_schema"
    breaks = manifest("0004", "0005", flags=["OLD_APP_BREAKS"])
    assert rollback.schema_way(breaks, ["0005"], ["0004"])["name"] == "downgrade"
    breaks["revisions"][1]["verdict"] = "DESTRUCTIVE"
    closed = rollback.schema_way(breaks, ["0005"], ["0004"])
    assert closed["name"] == "closed" and "not their data" in closed["reason"]
    assert rollback.schema_way(None, ["0005"], ["0004"])["name"] == "closed"
    assert rollback.schema_way(chain, ["0009"], ["0004"])["name"] == "closed", "a revision that nobody rehearsed"
