"""The guard's judgement with a clock of the test's own: each trigger red and not red, each other cause told apart, a long healthy run."""

import random

import pytest
from ansible.module_utils.greenroom import guard_rules as rules
from ansible.module_utils.greenroom.guard_log import Request, Window
from ansible.module_utils.greenroom.guard_rules import Health, Signal, Use

LIMITS = {
    "health": {"tolerated": 3},
    "errors": {"percent": 5, "window_s": 60, "min_samples": 50},
    "p95": {"ms": 2000, "window_s": 60, "min_samples": 50},
    "resources": {"percent": 90, "window_s": 60, "min_samples": 3, "own_percent": 50},
    "blind": {"after_s": 300, "action": "hold"},
}
OK = Health(True, True, well=frozenset({"database"}))
ILL = Health(False, True, "HTTP 503", well=frozenset({"database"}))
NO_DATABASE = Health(False, True, "HTTP 503", down=frozenset({"database"}))
SILENT = Health(False, False, "connection refused")


@pytest.mark.parametrize(
    ("streaks", "state"),
    [((0, 0), "good"), ((1, 1), "few"), ((3, 3), "few"), ((3, 9), "few"), ((0, 9), "good"), ((4, 4), "bad"), ((4, 900), "bad")],
)
def test_health_is_bad_after_more_than_three_failures_in_a_row_on_every_host(streaks, state):
    now = {name: OK if count == 0 else ILL for name, count in zip("ab", streaks, strict=True)}
    assert rules.health(dict(zip("ab", streaks, strict=True)), now, LIMITS["health"]).state == state


def test_an_ill_host_among_well_ones_is_named():
    assert rules.ill_hosts({"a": 4, "b": 0}, LIMITS["health"]) == ["a"]
    assert rules.ill_hosts({"a": 4, "b": 4}, LIMITS["health"]) == rules.ill_hosts({"a": 3, "b": 0}, LIMITS["health"]) == []
    assert rules.health({}, {}, LIMITS["health"]).state == "none"


@pytest.mark.parametrize(
    ("count", "failed", "state"), [(0, 0, "none"), (1, 1, "none"), (49, 49, "none"), (50, 2, "good"), (100, 5, "good"), (100, 6, "bad")]
)
def test_errors_are_bad_above_five_percent_of_enough_requests(count, failed, state):
    assert rules.errors(count, failed, LIMITS["errors"]).state == state


@pytest.mark.parametrize(("count", "p95_s", "state"), [(0, None, "none"), (49, 9.0, "none"), (50, 2.0, "good"), (50, 2.001, "bad")])
def test_p95_is_bad_above_two_seconds_of_enough_requests(count, p95_s, state):
    assert rules.latency(count, p95_s, LIMITS["p95"]).state == state


@pytest.mark.parametrize(
    ("used", "own", "state"),
    [
        ([95, 95, 95], [90, 90, 90], "bad"),
        ([95, 95, 95], [10, 10, 10], "foreign"),
        ([95, 95, 95], [None, None, None], "foreign"),
        ([95, 60, 95], [90, 50, 90], "good"),
        ([90, 90, 90], [90, 90, 90], "good"),
        ([95, 95], [90, 90], "none"),
    ],
)
def test_resources_are_bad_when_the_service_itself_uses_them_up_all_the_time(used, own, state):
    samples = {"a": [Use({"memory": one}, {"memory": share}) for one, share in zip(used, own, strict=True)]}
    assert rules.resources(samples, LIMITS["resources"]).state == state
    assert rules.resources({**samples, "b": []}, LIMITS["resources"]).state == "none", "a host without a page is no evidence"


def test_a_full_disk_is_told_for_nobody_knows_whose_files_they_are():
    samples = {"a": [Use({"disk /": 97.0}, {})] * 3}
    assert rules.resources(samples, LIMITS["resources"]).state == "foreign"


@pytest.mark.parametrize(("values", "state"), [([0, 0, 0], "bad"), ([0, 1, 0], "good"), ([0, 0], "none"), ([9, 9, 9], "bad")])
def test_a_business_number_is_bad_outside_its_bounds_all_the_time(values, state):
    limits = {"name": "orders", "minimum": 1, "maximum": 5, "window_s": 60, "min_samples": 3}
    assert rules.business(values, limits).state == state


@pytest.mark.parametrize(
    ("live", "other", "says"),
    [
        ({"a": OK}, {"a": OK}, None),
        ({"a": ILL}, {"a": OK}, None),
        ({"a": SILENT}, {"a": OK}, None),
        ({"a": NO_DATABASE}, {"a": NO_DATABASE}, "database down"),
        ({"a": NO_DATABASE}, {"a": SILENT}, "database down"),
        ({"a": NO_DATABASE}, {}, "database down"),
        ({"a": NO_DATABASE}, {"a": OK}, None),
        ({"a": NO_DATABASE, "b": OK}, {"a": SILENT, "b": SILENT}, "database down"),
        ({"a": ILL, "b": ILL}, {"a": ILL, "b": SILENT}, "other slot is ill"),
        ({"a": ILL, "b": OK}, {"a": ILL, "b": ILL}, None),
        ({"a": ILL, "b": ILL}, {"a": ILL, "b": OK}, None),
        ({"a": SILENT}, {"a": SILENT}, "neither slot answers"),
        ({"a": ILL}, {"a": SILENT}, None),
        ({}, {}, None),
    ],
)
def test_what_speaks_for_another_cause_than_the_release(live, other, says):
    found = rules.not_the_release(live, other)
    assert (found is None) if says is None else says in found


ONE, TWO = OK._replace(release="1-1.0.0"), OK._replace(release="2-1.1.0")


@pytest.mark.parametrize(
    ("target", "other", "says"),
    [
        ({"a": ONE, "b": ONE}, {"a": ILL, "b": SILENT}, None),
        ({"a": ONE, "b": SILENT}, {"a": ILL, "b": SILENT}, None),
        ({"a": ONE, "b": SILENT}, {"a": ILL, "b": ILL}, "b: connection refused"),
        ({"a": ONE, "b": ILL}, {"a": ILL, "b": ILL}, "b: HTTP 503"),
        ({"a": ONE, "b": TWO}, {"a": ILL, "b": ILL}, "b runs 2-1.1.0"),
        ({"a": OK}, {"a": ILL}, "a runs None"),
        ({"a": SILENT}, {"a": SILENT}, "no host answers"),
    ],
)
def test_a_slot_is_ready_when_every_host_that_answers_is_healthy_and_is_that_release(target, other, says):
    found = rules.not_ready(target, other, "1-1.0.0")
    assert (found is None) if says is None else says in found
    assert rules.not_ready({"a": OK}, {"a": ILL}, None) is None


BAD, FEW, NONE, GOOD = (Signal("errors", state, f"errors are {state}") for state in ("bad", "few", "none", "good"))


@pytest.mark.parametrize(
    ("signals", "blind", "excuse", "kind"),
    [
        ([GOOD], 0, None, "healthy"),
        ([GOOD], 0, "the database is down", "healthy"),
        ([GOOD, FEW], 0, None, "waiting"),
        ([NONE], 299, None, "waiting"),
        ([NONE], 300, None, "blind"),
        ([FEW], 999, None, "waiting"),
        ([BAD, NONE], 999, None, "bad_release"),
        ([BAD], 0, "the database is down", "dependency_down"),
    ],
)
def test_the_verdict_over_all_signals(signals, blind, excuse, kind):
    verdict = rules.judge(signals, {"errors": blind}, excuse, LIMITS["blind"])
    assert verdict.kind == kind and verdict.reasons


def test_what_is_not_the_services_is_told_beside_the_verdict():
    verdict = rules.judge([GOOD, Signal("resources", "foreign", "memory of a at 95 %")], {}, None, LIMITS["blind"])
    assert verdict.kind == "healthy" and verdict.alerts == {"resources": "memory of a at 95 %"}


def run(hours, traffic, faults, seed):
    """Simulate looks of 5 s over `hours`: (rollbacks, looks, failed looks, failed requests). Users ask `traffic` times a second."""
    dice = random.Random(seed)
    errors, p95 = Window(60), Window(60)
    streaks, before, bad, ill, failed = {"a": 0, "b": 0}, 0.0, 0, 0, 0
    looks = int(hours * 720)
    for look in range(looks):
        moment = look * 5.0
        health, requests = faults(dice, look, traffic * 5)
        ill += any(not one.ok for one in health.values())
        failed += sum(one.failed for one in requests)
        streaks = {host: 0 if health[host].ok else streaks[host] + 1 for host in streaks}
        for window in (errors, p95):
            window.add(moment, requests)
        signals = [
            rules.health(streaks, health, LIMITS["health"]),
            rules.errors(errors.count, errors.failed, LIMITS["errors"]),
            rules.latency(p95.count, p95.p95_s(), LIMITS["p95"]),
        ]
        verdict = rules.judge(signals, {}, rules.not_the_release(health, {"a": OK, "b": OK}), LIMITS["blind"])
        bad += verdict.kind == "bad_release"
        before = moment
    assert before >= 5.0 * (looks - 1)
    return bad, looks, ill, failed


class Blips:
    """A healthy service as it is in life: 0.1 % failed requests, slow ones, one host's failed look, now and then three looks that fail
    everywhere. A fourth would be the fault that the guard is for, so a good one follows."""

    def __init__(self):
        self.left, self.rest = 0, False

    def __call__(self, dice, _look, count):
        requests = [Request("green", 500 if dice.random() < 0.001 else 200, dice.choice((0.02, 0.03, 0.05, 0.2))) for _ in range(count)]
        if dice.random() < 0.01:
            requests.append(Request("green", 200, 6.0))
        if not self.left and not self.rest and dice.random() < 0.002:
            self.left = 3
        if self.left:
            self.left -= 1
            self.rest = self.left == 0
            return {"a": SILENT, "b": SILENT}, requests
        ill = None if self.rest else dice.choice("ab") if dice.random() < 0.04 else None
        self.rest = False
        return {host: ILL if host == ill else OK for host in "ab"}, requests


def healthy_week(seed):
    """(rollbacks, looks, failed looks, failed requests) of a week of blips."""
    return run(7 * 24, 2, Blips(), seed)


def test_no_rollback_in_a_week_of_single_blips():
    bad, looks, ill, failed = healthy_week(seed=20261120)
    assert (bad, looks) == (0, 120960)
    assert ill > 3000 and failed > 800, "the run had its blips"


def test_the_same_run_with_a_fault_in_it_is_seen_at_once():
    blips = Blips()

    def faults(dice, look, count):
        health, requests = blips(dice, look, count)
        return ({"a": SILENT, "b": SILENT} if look >= 700 else health), requests

    bad, looks, _ill, _failed = run(1, 2, faults, seed=1)
    assert looks - 700 - 4 <= bad <= looks - 700
