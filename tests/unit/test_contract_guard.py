"""The contract's sections `guard` and `notify`: the runbooks' numbers are the defaults; each kind of bad input is seen red."""

import copy

import pytest
from ansible.module_utils.greenroom import contract
from ansible.module_utils.greenroom.contract_rules import needed_secrets

BASE = {
    "name": "example-service",
    "package": "example_service",
    "source": {"git": "https://git.example.internal/example.git", "ref": "v1.2.0"},
    "processes": [{"name": "web", "kind": "web", "command": "uvicorn example:app --port ${PORT}"}],
    "ports": {"blue": 8101, "green": 8102},
    "health": {},
    "gateway": {"server_names": ["example.staging.internal"]},
}
METRICS = {"metrics": {"ports": {"blue": 9090, "green": 9091}}}
GROUPS = {"gateway": ["g1"], "app": ["a1"]}
HOOK = "https://hooks.corp.internal/services/T0/x8Kd72Lm"


def problems(vault=None, **sections):
    service = {**copy.deepcopy(BASE), **sections}
    secrets = {"vault_service_env": {}, **(vault or {})}
    return [(one["path"], one["text"]) for one in contract.validate(service, groups=GROUPS, secrets=secrets, markers={})]


def test_without_a_word_the_guard_has_the_numbers_of_the_runbooks():
    assert problems() == []
    guard = contract.normalized(BASE)["guard"]
    assert guard["enabled"] and guard["interval_s"] == 5 and guard["observation_s"] == 14 * 86400
    assert guard["health"] == {"tolerated": 3}
    assert (guard["errors"]["percent"], guard["p95"]["ms"], guard["resources"]["percent"]) == (5, 2000, 90)
    assert guard["blind"] == {"after_s": 300, "action": "hold"}
    assert "business" not in guard and "notify" not in contract.normalized(BASE)
    for part in ("errors", "p95", "resources"):
        assert guard[part]["window_s"] >= 5 and guard[part]["min_samples"] >= 2


GOOD_BUSINESS = {"name": "orders", "series": 'orders_total{result="ok"}', "per_second": True, "minimum": 0.1}
BAD = [
    ({"interval_s": 0}, "service.guard.interval_s", "at least 1"),
    ({"sleep": 1}, "service.guard.sleep", "is not a key"),
    ({"errors": {"percent": 101}}, "service.guard.errors.percent", "must be at most 100"),
    ({"errors": {"min_samples": 1}}, "service.guard.errors.min_samples", "at least 2"),
    ({"blind": {"action": "panic"}}, "service.guard.blind.action", "known values"),
    ({"blind": {"after_s": 30}}, "service.guard.blind.after_s", "blind before it could see"),
    ({"interval_s": 60}, "service.guard.resources.window_s", "fewer than 6 looks"),
    ({"resources": {"source": "http://10.9.0.2:9100/metrics"}}, "service.guard.resources.source", "malformed"),
    ({"business": {**GOOD_BUSINESS, "minimum": 3, "maximum": 2}}, "service.guard.business.minimum", "above maximum"),
    ({"business": {"name": "orders", "series": "orders_total"}}, "service.guard.business.minimum", "is missing"),
    ({"business": {**GOOD_BUSINESS, "series": "orders_total{x=}"}}, "service.guard.business.series", "labels"),
    ({"business": {**GOOD_BUSINESS, "series": "1 + 1"}}, "service.guard.business.series", "malformed"),
]


@pytest.mark.parametrize(("guard", "path", "says"), BAD)
def test_what_is_wrong_is_named_with_its_path(guard, path, says):
    found = problems(guard=guard, **METRICS)
    assert [one for one in found if one[0] == path and says in one[1]], found


def test_a_business_number_needs_a_page():
    assert problems(guard={"business": GOOD_BUSINESS}, **METRICS) == []
    assert [path for path, _text in problems(guard={"business": GOOD_BUSINESS})] == ["service.guard.business.series"]


def test_a_channel_needs_its_address_and_the_address_is_in_no_text():
    notify = {"notify": {"template": "slack"}}
    assert "vault_notify_url" in needed_secrets(contract.normalized({**BASE, **notify}))
    assert "vault_notify_url" not in needed_secrets(contract.normalized(BASE))
    assert problems({"vault_notify_url": HOOK}, **notify) == []
    assert [path for path, _text in problems(**notify)] == ["vault_notify_url"]
    for wrong in ("hooks.corp.internal/x8Kd72Lm", "https://user:x8Kd72Lm@hooks.corp.internal/a", "https://hooks.corp.internal"):
        found = problems({"vault_notify_url": wrong}, **notify)
        assert [path for path, _text in found] == ["vault_notify_url"] and "x8Kd72Lm" not in str(found)
    assert "known values" in problems({"vault_notify_url": HOOK}, notify={"template": "pigeon"})[0][1]
