"""The observation period over made-up days: good, red, missed, empty, unstable, with incidents, and with a clock that was set."""

import datetime
import json

import pytest
from ansible.module_utils.greenroom import contract, observation, observation_plan

SERVICE = contract.normalized({
    "name": "example-service", "package": "example_service", "processes": [], "ports": {}, "health": {},
    "gateway": {"server_names": ["a.internal"]}, "dependencies": {"database": {"name": "d", "owner": "o", "user": "u"}},
    "backup": {"store": {"endpoint": "https://b.internal", "bucket": "b"}},
    "observation": {"team": "Anna and Li walked through it", "production": "the inventory is ready"},
})  # fmt: skip
FIRST = datetime.date(2026, 11, 21)
START = {"first": str(FIRST), "release": "3-1.0.0", "at": 0}


def config(tmp_path="/nonexistent", **change):
    logs = {"globs": [f"{tmp_path}/*.log"], "level_field": "data.level", "time_field": "time"}
    made = observation_plan.config(SERVICE, "3-1.0.0", "http://127.0.0.1:9", logs, str(tmp_path))
    return made | change


def at(number, hour=12):
    """Noon of the period's day `number` (from 1)."""
    day = FIRST + datetime.timedelta(days=number - 1)
    return datetime.datetime(day.year, day.month, day.day, hour, tzinfo=datetime.UTC).timestamp()


def day(number, p95=60.0, rate=100.0, incidents=0.0, red=(), blind=(), **change):
    evidence = [{"id": id, "status": "pass", "observed": 1, "detail": {"errors": 0}} for id in config()["ids"]]
    for one in evidence:
        if one["id"] in red:
            one.update(status="fail", reason="too much")
        if one["id"] in blind:
            one.update(status="no_evidence", reason="nothing was there")
    values = {"p95": {"p95": p95}, "rate": {"rate": rate}, "incidents": {"incidents": incidents}, "cpu": {"app1": 20.0, "app2": 30.0}}
    made = {"day": str(FIRST + datetime.timedelta(days=number - 1)), "at": at(number, 6), "release": "3-1.0.0", "boot": "b",
            "uptime_s": number * 86_400, "evidence": evidence, "values": values}  # fmt: skip
    return made | change


def judge(recorded, now=None, start=START, **change):
    found = observation.judge(config(**change), start, {one["day"]: one for one in recorded}, now or at(14))
    return found, {one["id"]: one for one in found["evidence"]}


GOOD = [day(number, p95=60 + number % 3) for number in range(1, 15)]


def test_fourteen_good_days_pass():
    found, evidence = judge(GOOD)
    assert found["verdict"] == "pass" and found["over"] and {one["status"] for one in evidence.values()} == {"pass"}
    assert set(evidence) == {
        "observe.period", *observation_plan.DAILY, *observation_plan.WEEKLY, "observe.weekly.errors", "observe.end.stable",
        "observe.end.no_incidents", "observe.end.team", "observe.end.production",
    }  # fmt: skip
    assert {one["state"] for one in found["states"].values()} == {"good"}
    cpu = next(one for one in found["plots"] if "CPU" in one["title"])
    assert [one["name"] for one in cpu["series"]] == ["app1", "app2"] and len(cpu["series"][0]["points"]) == 14


def test_before_the_end_it_runs_and_claims_nothing():
    found, evidence = judge(GOOD[:3], at(3))
    assert found["verdict"] == "running" and found["day"] == 3 and not found["over"]
    assert set(evidence) == set(observation_plan.DAILY) and evidence["observe.daily.logs"]["status"] == "pass"
    found, evidence = judge([], at(0))
    assert found["verdict"] == "running" and evidence == {}


def test_a_day_is_not_due_before_its_time_and_grace():
    due = observation.due_days(config(), START, at(1, 7))
    assert due == [] and observation.due_days(config(), START, at(1, 9)) == [str(FIRST)]
    assert len(observation.due_days(config(), START, at(99))) == 14


@pytest.mark.parametrize("number", [1, 7, 14])
def test_a_missed_day_makes_it_incomplete(number):
    found, evidence = judge([one for one in GOOD if one["day"] != day(number)["day"]])
    assert found["verdict"] == "incomplete" and found["states"][day(number)["day"]]["state"] == "missed"
    assert evidence["observe.period"]["status"] == "fail" and "missed" in evidence["observe.period"]["reason"]
    assert evidence["observe.daily.logs"]["status"] == "no_evidence"
    assert evidence["observe.end.no_incidents"]["status"] == "no_evidence"


@pytest.mark.parametrize(
    "empty",
    [
        day(5, blind=["observe.daily.errors"]),
        day(5, evidence=[]),
        day(5, evidence=day(5)["evidence"][1:]),
        day(5, release="2-0.9.0"),
        day(5, damaged=True),
    ],
)
def test_an_empty_day_makes_it_incomplete(empty):
    found, evidence = judge([*GOOD[:4], empty, *GOOD[5:]])
    assert found["verdict"] == "incomplete" and found["states"][empty["day"]]["state"] == "empty"
    assert evidence["observe.period"]["status"] == "fail"


def test_a_missed_day_is_incomplete_before_the_end_as_well():
    assert judge(GOOD[:3], at(5))[0]["verdict"] == "incomplete"


def test_a_red_day_fails_and_is_no_gap():
    found, evidence = judge([*GOOD[:4], day(5, red=["observe.daily.resources"]), *GOOD[5:]])
    assert found["verdict"] == "fail" and found["states"][day(5)["day"]]["state"] == "red"
    assert evidence["observe.daily.resources"]["reason"] == "2026-11-25: too much" and evidence["observe.period"]["status"] == "pass"


def test_weekly_checks_count_at_the_end_of_each_week():
    red = day(13, red=["observe.weekly.backups"])
    assert judge([*GOOD[:12], red, GOOD[13]])[1]["observe.weekly.backups"]["status"] == "pass"
    assert judge([*GOOD[:13], day(14, red=["observe.weekly.backups"])])[1]["observe.weekly.backups"]["status"] == "fail"


def test_incidents_and_instability_keep_it_from_ending():
    found, evidence = judge([*GOOD[:9], day(10, incidents=1.0), *GOOD[10:]])
    assert found["verdict"] == "fail" and evidence["observe.end.no_incidents"]["observed"] == 1
    found, evidence = judge([*GOOD[:7], *(day(number, p95=120.0) for number in range(8, 15))])
    assert evidence["observe.end.stable"]["status"] == "fail" and "p95 61 -> 120" in evidence["observe.end.stable"]["reason"]
    few = [one | {"values": one["values"] | {"rate": {}}} for one in GOOD[7:]]
    assert judge([*GOOD[:7], *few])[1]["observe.end.stable"]["status"] == "no_evidence"


def test_one_week_is_too_short_for_the_exit_and_statements_are_asked_for():
    found, evidence = judge(GOOD[:7], at(7), days=7, team=None)
    assert found["verdict"] == "fail" and "the exit needs 14" in evidence["observe.end.stable"]["reason"]
    assert evidence["observe.end.team"]["status"] == "no_evidence" and evidence["observe.end.production"]["status"] == "pass"


def test_a_clock_that_was_set_is_told():
    assert observation.clock_jumps(GOOD) == []
    late = [*GOOD[:4], *(one | {"uptime_s": one["uptime_s"] - 86_400} for one in GOOD[4:])]
    assert observation.clock_jumps(late) == ["2026-11-25: +86400 s"]
    assert judge(late)[1]["observe.end.stable"]["detail"]["clock_jumps"] == ["2026-11-25: +86400 s"]


def test_holes_stay_holes_in_the_trends():
    found, _evidence = judge([one for one in GOOD if one["day"] != day(2)["day"]])
    p95 = next(one for one in found["plots"] if "P95" in one["title"])
    assert p95["series"][0]["points"][1] == [2, None]


def test_a_period_begins_once_a_release_and_another_one_anew(tmp_path):
    mine = config(tmp_path)
    assert observation.started(mine) is None
    assert observation.begin(mine, at(0))["first"] == str(FIRST)
    observation.keep(mine, day(1), str(tmp_path))
    assert observation.started(mine)["first"] == str(FIRST) and list(observation.read_days(tmp_path)) == [str(FIRST)]
    assert f"{observation.METRIC} {at(1, 6):.0f}" in (tmp_path / "greenroom_observation.prom").read_text()
    other = mine | {"release": "4-1.1.0"}
    assert observation.started(other) is None
    observation.begin(other, at(3))
    assert observation.read_days(tmp_path) == {}
    (tmp_path / "start.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        observation.started(mine)


def test_a_damaged_record_is_an_empty_day_not_none(tmp_path):
    mine = config(tmp_path)
    observation.begin(mine, at(0))
    for number in range(1, 4):
        observation.keep(mine, day(number))
    (tmp_path / "days" / f"{day(2)['day']}.json").write_text('{"day": ')
    found = observation.judge(mine, START, observation.read_days(tmp_path), at(3))
    assert found["verdict"] == "incomplete" and found["states"][day(2)["day"]] == {"state": "empty", "why": "its record is damaged"}


def test_a_day_without_prometheus_and_logs_is_empty(tmp_path):
    measured = observation.measure(config(tmp_path), at(1))
    assert {one["status"] for one in measured["evidence"]} == {"error", "no_evidence"}
    assert observation.state_of(measured, config(tmp_path))[0] == "empty" and not any(measured["values"].values())


def test_the_timers_command_measures_only_what_is_due(tmp_path, capsys):
    file = tmp_path / "observation.json"
    file.write_text(json.dumps(config(tmp_path)))
    assert observation.main(["--config", str(file)]) == 1 and "was begun" in capsys.readouterr().err
    observation.begin(config(tmp_path), datetime.datetime.now(datetime.UTC).timestamp())
    assert observation.main(["--config", str(file)]) == 0 and "no record is due today" in capsys.readouterr().out
    assert observation.read_days(tmp_path) == {}
    observation.begin(config(tmp_path), datetime.datetime.now(datetime.UTC).timestamp() - 86_400)
    assert observation.main(["--config", str(file)]) == 1 and "is empty" in capsys.readouterr().out
    assert len(observation.read_days(tmp_path)) == 1


def test_what_a_service_does_not_have_is_not_asked_for():
    small = {key: value for key, value in SERVICE.items() if key != "backup"} | {"dependencies": {}}
    assert set(observation_plan.expected_ids(SERVICE)) - set(observation_plan.expected_ids(small)) == {
        "observe.daily.connections", "observe.weekly.backups",
    }  # fmt: skip
