"""The contract's sections `load` and `observation`: each kind of bad input is seen red, with its path; what is left out asks nothing."""

import copy

import pytest
from ansible.module_utils.greenroom import catalogue, contract

BASE = {
    "name": "example-service",
    "package": "example_service",
    "source": {"git": "https://git.example.internal/example.git", "ref": "v1.2.0"},
    "processes": [{"name": "web", "kind": "web", "command": "uvicorn example:app --port ${PORT}"}],
    "ports": {"blue": 8101, "green": 8102},
    "env": [{"key": "API_KEY", "type": "string", "secret": True}],
    "health": {},
    "gateway": {"server_names": ["example.staging.internal"]},
    "load": {"secret_env": {"KEY": "API_KEY"}},
    "observation": {},
}
GROUPS = {"gateway": ["g1"], "app": ["a1"], "monitoring": ["m1"]}
ADDRESSES = {"g1": "10.9.0.1", "a1": "10.9.0.2", "m1": "10.9.0.5"}


def with_load(thresholds=None, gateway=None, **keys):
    made = copy.deepcopy(BASE)
    made["load"].update(keys)
    made["thresholds"] = thresholds or {}
    made["gateway"].update(gateway or {})
    return made


def problems(service, groups=GROUPS):
    vault = {"vault_service_env": {"API_KEY": "vB3nK8wQ2sLx7TzR5mYcH4Gd"}}
    return [(one["path"], one["text"]) for one in contract.validate(service, groups=groups, addresses=ADDRESSES, secrets=vault, markers={})]


def test_the_runbooks_profile_is_the_default():
    assert problems(BASE) == []
    load = contract.normalized(BASE)["load"]
    assert (load["users"], load["spawn_rate"], load["duration_s"], load["pace_rps"], load["group"]) == (100, 10, 600, None, "monitoring")
    assert contract.normalized(BASE)["observation"]["days"] == 14


BAD = [
    (with_load(user=10), "service.load.user", "no key of the contract"),
    (with_load(file="../locustfile.py"), "service.load.file", "malformed"),
    (with_load(users=0), "service.load.users", "at least 1"),
    (with_load(users=10, spawn_rate=1, think_time_s=1), "service.load.users", "10 users that pause 1 s send at most 10 requests/s"),
    (with_load(pace_rps=900), "service.load.pace_rps", "more than 1000 are wanted"),
    (with_load(warm_up_s=5), "service.load.warm_up_s", "10 s until all users are there"),
    (with_load(thresholds={"throughput_rps": 10}, duration_s=20), "service.load.duration_s", "1000 are needed"),
    (with_load(gateway={"rate_limit": {"requests_per_s": 2000}}), "service.load.pace_rps", "the generator is one client"),
    (with_load(gateway={"rate_limit": {"requests_per_s": 1050}}, pace_rps=1100), "service.load.pace_rps", "above the gateway's limit"),
    (with_load(group="monitor"), "service.load.group", "group monitor has no hosts"),
    (with_load(group="app"), "service.load.group", "a1 also belongs to app"),
    (with_load(secret_env={"KEY": "API_KEYS"}), "service.load.secret_env.KEY", "API_KEYS is no secret"),
    (with_load(env={"KEY": "x"}), "service.load.secret_env.KEY", "also in `env`"),
    ({**BASE, "observation": {"at": "6:00"}}, "service.observation.at", "malformed"),
    ({**BASE, "observation": {"team": "[name]"}}, "service.observation.team", "placeholder"),
]


@pytest.mark.parametrize(("service", "path", "words"), BAD, ids=[path for _service, path, _words in BAD])
def test_bad_input_is_refused(service, path, words):
    found = problems(service)
    assert [one for one in found if one[0] == path and words in one[1].replace("is not a key", "no key")], found


def test_a_prebuilt_archive_brings_no_locust_file():
    service = copy.deepcopy(BASE)
    del service["source"]
    service["artefact"] = {"archive": "a.tar.gz", "sha256": "0" * 64, "version": "1.0.0"}
    assert ("service.load", True) in [(path, "no repository" in text) for path, text in problems(service)]


def test_without_the_sections_nothing_is_asked_for():
    service = {key: value for key, value in BASE.items() if key not in ("load", "observation")}
    assert problems(service) == []
    found = catalogue.not_applicable(contract.normalized(service), ["load.p95", "observe.period", "verify.health.http"])
    assert found == {"load.p95": "the contract has no section `load`", "observe.period": "the contract has no section `observation`"}
    assert catalogue.not_applicable(contract.normalized(BASE), ["load.p95", "observe.period"]) == {}
