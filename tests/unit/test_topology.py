"""The firewall's rules follow from the contract and the groups, and from nothing else."""

import pytest
from ansible.module_utils.greenroom import topology

GROUPS = {
    "gateway": ["g"], "app": ["a1", "a2"], "database": ["d"], "broker": ["d"], "monitoring": ["m"], "restore": ["m"],
}
ADDRESSES = {"g": "10.0.0.1", "a1": "10.0.0.2", "a2": "10.0.0.3", "d": "10.0.0.4", "m": "10.0.0.5"}
SERVICE = {
    "ports": {"blue": 8101, "green": 8102},
    "metrics": {"path": "/metrics", "ports": {"blue": 9090, "green": 9091}},
    "gateway": {"https_port": 443},
    "dependencies": {"database": {"mode": "installed", "port": 5432}, "broker": {"mode": "installed", "port": 5671}},
}


WATCHED = {*topology.MONITORING_PORTS.values(), topology.LOG_PORT}


def rules(host, service=SERVICE, watched=False):
    """{port: sources} of a host, without (or only) the ports of exporters and logs."""
    found = topology.firewall_rules(service, GROUPS, ADDRESSES, host)
    return {rule["port"]: rule["from"] for rule in found if (rule["port"] in WATCHED) == watched}


def test_only_the_gateway_is_open_to_everybody():
    assert rules("g") == {443: [], topology.INTERNAL_PORT: ["10.0.0.2", "10.0.0.3", "10.0.0.1", "10.0.0.5"]}
    for host in ("a1", "a2", "d", "m"):
        assert all(sources for sources in rules(host).values())


def test_slots_are_for_the_gateway_and_metrics_for_monitoring_and_the_guard():
    both = ["10.0.0.5", "10.0.0.1"]
    assert rules("a1") == {8101: ["10.0.0.1"], 8102: ["10.0.0.1"], 9090: both, 9091: both}


def test_dependencies_are_for_the_app_hosts_and_the_monitor():
    assert rules("d") == {5432: ["10.0.0.2", "10.0.0.3", "10.0.0.5"], 5671: ["10.0.0.2", "10.0.0.3", "10.0.0.5"]}
    assert rules("m") == {}


def test_an_installed_cache_is_for_the_app_hosts_and_the_monitor():
    service, groups = {**SERVICE, "dependencies": {"cache": {"mode": "installed", "port": 6379}}}, {**GROUPS, "cache": ["d"]}
    found = [(rule["port"], rule["from"]) for rule in topology.firewall_rules(service, groups, ADDRESSES, "d")]
    assert (6379, ["10.0.0.2", "10.0.0.3", "10.0.0.5"]) in found
    expected = {host: [probe["expect"] for probe in topology.firewall_probes(service, groups, ADDRESSES, host) if probe["port"] == 6379]
                for host in ADDRESSES}  # fmt: skip
    assert expected == {"g": ["refused_or_filtered"], "a1": ["open"], "a2": ["open"], "d": [], "m": ["open"]}


def test_exporters_are_for_the_monitor_and_logs_for_every_host():
    monitor = ["10.0.0.5"]
    assert rules("g", watched=True) == {9100: monitor, 9113: monitor, 3903: monitor}
    assert rules("a1", watched=True) == {9100: [*monitor, "10.0.0.1"]}
    assert rules("d", watched=True) == {9100: monitor, 9187: monitor, 15692: monitor}
    assert rules("m", watched=True) == {9100: monitor, 6514: list(ADDRESSES.values())}


def test_without_a_monitoring_host_no_exporter_is_open():
    groups = {name: hosts for name, hosts in GROUPS.items() if name != "monitoring"}
    assert not WATCHED & {rule["port"] for rule in topology.firewall_rules(SERVICE, groups, ADDRESSES, "d")}


@pytest.mark.parametrize("dependencies", [{}, None, {"database": {"mode": "provided", "port": 5432}}])
def test_what_is_not_installed_opens_no_port(dependencies):
    assert rules("d", {**SERVICE, "dependencies": dependencies}) == {}


def test_a_host_in_two_groups_is_named_once():
    assert topology.addresses_of(GROUPS, ADDRESSES, "monitoring", "restore") == ["10.0.0.5"]


def test_names_become_addresses_and_all_that_do_not_are_named():
    assert topology.resolved({"a": "127.0.0.1", "b": "localhost"})["a"] == "127.0.0.1"
    with pytest.raises(topology.TopologyError, match=r"x: nowhere\.invalid .*y: neither\.invalid"):
        topology.resolved({"x": "nowhere.invalid", "a": "127.0.0.1", "y": "neither.invalid"})


def test_every_host_tries_what_it_must_and_must_not_reach():
    def expectations(host):
        return {(probe["host"], probe["port"]): probe["expect"] for probe in topology.firewall_probes(SERVICE, GROUPS, ADDRESSES, host)}

    internal = ("10.0.0.1", topology.INTERNAL_PORT)
    assert expectations("a1") == {("10.0.0.1", 443): "open", internal: "open", ("10.0.0.4", 5432): "open", ("10.0.0.4", 5671): "open"}
    assert expectations("g") == {("10.0.0.4", 5432): "refused_or_filtered", ("10.0.0.4", 5671): "refused_or_filtered"}
    assert expectations("d") == {("10.0.0.1", 443): "open", internal: "refused_or_filtered"}


def test_an_address_is_ansible_host_or_the_name():
    hostvars = {"a": {"ansible_host": "10.0.0.1"}, "b": {}, "c": {"ansible_host": ""}}
    assert topology.host_addresses(["a", "b", "c"], hostvars) == {"a": "10.0.0.1", "b": "b", "c": "c"}
    with pytest.raises(topology.TopologyError, match="not in the inventory: x"):
        topology.host_addresses(["a", "x"], hostvars)
