"""What Prometheus scrapes follows from the contract and the groups."""

from ansible.module_utils.greenroom.monitoring import targets

GROUPS = {"all": ["g", "a1", "d", "m"], "gateway": ["g"], "app": ["a1"], "database": ["d"], "broker": ["d"], "monitoring": ["m"]}
ADDRESSES = {"g": "10.0.0.1", "a1": "10.0.0.2", "d": "fd00::4", "m": "10.0.0.5"}
SERVICE = {
    "gateway": {"https_port": 8443}, "health": {"path": "/health"}, "metrics": {"path": "/metrics", "ports": {"blue": 9090, "green": 9091}},
    "dependencies": {"database": {"mode": "installed"}, "broker": {"mode": "provided"}},
}  # fmt: skip


def found(service=SERVICE):
    jobs = targets.scrape_targets(service, GROUPS, ADDRESSES)
    return {job: sorted((one["labels"]["host"], one["targets"][0]) for one in entries) for job, entries in jobs.items()}


def test_every_host_once_and_exporters_where_something_runs():
    assert found() == {
        "node": [("a1", "10.0.0.2:9100"), ("d", "[fd00::4]:9100"), ("g", "10.0.0.1:9100"), ("m", "10.0.0.5:9100")],
        "postgresql": [("d", "[fd00::4]:9187")],
        "nginx": [("g", "10.0.0.1:9113")],
        "gateway_log": [("g", "10.0.0.1:3903")],
        "service": [("a1", "10.0.0.2:9090"), ("a1", "10.0.0.2:9091")],
    }


def test_both_slots_are_told_apart_and_a_service_without_metrics_has_no_target():
    slots = [one["labels"]["slot"] for one in targets.scrape_targets(SERVICE, GROUPS, ADDRESSES)["service"]]
    assert slots == ["blue", "green"]
    assert "service" not in found({key: value for key, value in SERVICE.items() if key != "metrics"})


def test_the_service_is_asked_through_the_gateway():
    probes = targets.probe_targets(SERVICE, GROUPS, ADDRESSES)
    assert probes["probe_service"] == [{"targets": ["https://10.0.0.1:8443/health"], "labels": {"host": "g"}}]
    assert probes["probe_gateway"][0]["targets"] == ["https://10.0.0.1:8443/-/gateway/health"]
