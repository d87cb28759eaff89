"""The plan of the preflight: which probes a host gets, and that every blocker of every host is named at once."""

import pytest
from ansible.module_utils.greenroom import health_check, preflight_plan

GROUPS = {"all": ["g", "a1", "a2", "d"], "gateway": ["g"], "app": ["a1", "a2"], "database": ["d"], "broker": ["d"]}
SERVICE = {
    "name": "example-service",
    "python": ">=3.11,<3.14",
    "processes": [{"name": "web", "kind": "web"}, {"name": "worker", "kind": "worker", "count": 2}],
    "ports": {"blue": 8101, "green": 8102},
    "metrics": {"path": "/metrics", "ports": {"blue": 9090, "green": 9091}},
    "gateway": {"https_port": 443},
    "env": [{"key": "REDIS_URL", "type": "url", "secret": True}],
    "dependencies": {
        "database": {"mode": "installed", "host": None, "port": 5432},
        "broker": {"mode": "provided", "host": "mq.internal", "port": 5671},
        "cache": {"mode": "provided", "url_key": "REDIS_URL"},
    },
    "external": [{"id": "prep.network.lark_api", "name": "API", "url": "https://api.internal/health"}],
    "requirements": {"cpu": 2, "memory_gb": 4, "disk_gb": 20},
    "pool_max": 10,
    "migration": {"tool": "alembic"},
}
SETTINGS = {
    "supported_os": ["debian 12"],
    "python_min": "3.11",
    "disk_gb": {"/opt": 2, "/var": 1},
    "inodes_percent": 5,
    "writable": ["/opt", "/etc"],
    "clock_offset_s": 30,
    "wheel_tag": "manylinux_2_28_x86_64",
    "reachable": [{"id": "prep.network.egress", "name": "mirror", "host": "mirror.internal", "port": 443}],
    "reach_timeout_s": 10,
    "check_packages": True,
    "max_connections": 200,
    "role_limit": -1,
    "uv": "uv",
}
SECRETS = {"REDIS_URL": "rediss://:preflight-s3cret@cache.internal:6380/0"}


def probes(host, service=SERVICE, **settings):
    return preflight_plan.host_probes(service, GROUPS, host, {**SETTINGS, **settings}, SECRETS, 1.0)


def named(found, name):
    return [item for item in found if item["name"].startswith(name)]


@pytest.mark.parametrize("host", ["g", "a1", "d"])
def test_every_plan_is_one_that_health_check_takes(host):
    assert len(health_check.plan(probes(host))) > 8
    assert health_check.plan(preflight_plan.control_probes(SERVICE, GROUPS, SETTINGS))


def test_no_secret_is_in_a_plan():
    assert "preflight-s3cret" not in str(probes("a1"))


def test_each_host_is_asked_for_what_its_groups_need():
    app, gateway, data = probes("a1"), probes("g"), probes("d")
    assert {item["id"] for item in app} >= {
        "prep.server.reachable", "prep.server.cpu", "prep.server.memory", "prep.server.os", "prep.python.version", "prep.network.egress",
        "prep.network.lark_api", "prep.deps.ready",
    }  # fmt: skip
    assert [item["ports"] for item in named(gateway, "ports")] == [[443, 8079]]
    assert [item["ports"] for item in named(app, "ports")] == [[8101, 8102, 9090, 9091]]
    assert [item["ports"] for item in named(data, "ports")] == [[5432]]  # the broker is provided
    assert named(app, "disk space of /opt")[0]["disk_gb"] == 20
    assert named(data, "disk space of /opt")[0]["disk_gb"] == 2
    assert (named(app, "Python")[0]["python_min"], named(app, "Python")[0]["python_below"]) == ("3.11", "3.14")
    assert "python_below" not in named(data, "Python")[0]
    assert not {item["id"] for item in data} & {"prep.server.cpu", "prep.deps.ready"}


def test_provided_dependencies_must_answer_before_and_installed_ones_after():
    before = [(item["host"], item["port"]) for item in probes("a1") if item["id"] == "prep.deps.ready"]
    assert before == [("mq.internal", 5671), ("cache.internal", 6380)]
    after = preflight_plan.dependency_probes(SERVICE, GROUPS, {"d": "10.0.0.4"}, SECRETS, 5)
    assert [(item["host"], item["port"]) for item in after] == [("10.0.0.4", 5432), ("mq.internal", 5671), ("cache.internal", 6380)]
    with pytest.raises(ValueError, match=r"service\.dependencies\.database"):
        preflight_plan.dependency_probes(SERVICE, {}, {}, SECRETS, 5)


def test_an_installed_cache_needs_its_port_before_and_answers_after():
    cache, groups = {"mode": "installed", "port": 6379, "url_key": "X"}, {**GROUPS, "cache": ["d"]}
    service = {**SERVICE, "dependencies": {"cache": cache}}
    assert ("the cache", [6379], ["redis-server", "redis-server.service"]) in preflight_plan.port_rules(service, ["cache"])
    after = preflight_plan.dependency_probes(service, groups, {"d": "10.0.0.4"}, {}, 5)
    assert [(item["host"], item["port"]) for item in after] == [("10.0.0.4", 6379)]


def test_a_service_without_database_broker_metrics_or_external_has_a_plan():
    small = {**SERVICE, "dependencies": {}, "metrics": None, "external": []}
    assert health_check.plan(probes("a1", small))
    assert {item["id"] for item in preflight_plan.control_probes(small, GROUPS, SETTINGS)} == {"prep.tool.git", "prep.tool.uv"}


def test_the_connections_of_both_slots_are_computed():
    (budget,) = [item for item in preflight_plan.control_probes(SERVICE, GROUPS, SETTINGS) if item["id"] == "prep.db.pool"]

    def status(**change):
        return health_check.run(health_check.plan([{**budget, **change}]))[0]

    assert status()["status"] == "pass"  # 2 slots x 2 hosts x 3 processes x 10 = 120, and 12 in reserve
    assert status(max_connections=131)["status"] == "fail"
    assert status(max_connections=132)["status"] == "pass"
    assert "role's limit is 119" in status(role_limit=119)["reason"]


def test_every_blocker_of_every_host_is_named_at_once():
    lines = preflight_plan.blockers({
        "a1": {"evidence": [
            {"id": "x.ok", "status": "pass", "observed": ""},
            {"id": "x.bad", "status": "fail", "observed": "1", "reason": "give more", "detail": {"target": "memory"}},
            {"id": "x.blind", "status": "no_evidence", "observed": "nothing", "reason": "no line", "detail": {"fix": "look there"}},
        ]},
        "a2": {"unreachable": True, "msg": "timed\n out"},
        "d": {"msg": "/bin/sh: python3: not found"},
        "g": {},
        "m": {"evidence": []},
    })  # fmt: skip
    assert [line.split(":")[0] for line in lines] == ["a1", "a1", "a2", "d", "g", "m"]
    assert lines[0] == "a1: x.bad (memory): give more"
    assert lines[1] == "a1: x.blind: no line; look there"
    assert "cannot be reached (timed out)" in lines[2]
    assert "python3: not found" in lines[3]


def measured(python="3.11.2", machine="x86_64", glibc="2.36"):
    return {"evidence": [
        {"id": "prep.server.os", "status": "pass", "detail": {"os": "debian 12", "architecture": machine, "glibc": glibc}},
        {"id": "prep.python.version", "status": "pass", "detail": {"python": python}},
    ]}  # fmt: skip


def test_wheels_are_built_for_what_all_hosts_take():
    found = preflight_plan.wheel_target({"a": measured(), "b": measured(glibc="2.9")})
    assert found == {"python": "3.11", "machine": "x86_64", "glibc": "2.9"}
    mixed = preflight_plan.wheel_target({"a": measured(), "b": measured(python="3.12.1", machine="aarch64")})
    assert (mixed["python"], mixed["machine"]) == ("3.11 and 3.12", "aarch64 and x86_64")
    with pytest.raises(ValueError, match="b: system, C library or Python was not measured"):
        preflight_plan.wheel_target({"a": measured(), "b": {"unreachable": True}})
