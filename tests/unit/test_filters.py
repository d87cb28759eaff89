"""The filters as Ansible calls them: every one is there, and errors are Ansible's own."""

import importlib.util
from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError

FILE = Path(__file__).resolve().parents[2] / "plugins" / "filter" / "greenroom.py"


@pytest.fixture(scope="module")
def filters():
    spec = importlib.util.spec_from_file_location("greenroom_filters", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FilterModule().filters()


def test_a_filter_does_what_its_function_does(filters):
    assert filters["host_addresses"](["a"], {"a": {"ansible_host": "10.0.0.1"}}) == {"a": "10.0.0.1"}
    assert filters["env_file_sha256"]({"A": "1"}) != filters["env_file_sha256"]({"A": "2"})


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("host_addresses", (["x"], {}), "host_addresses: not in the inventory: x"),
        ("web_unit", ({"name": "s", "processes": []}, "blue"), "web_unit: service.processes: no process is of kind web"),
        ("web_unit", ({}, "blue"), "web_unit: there is no 'processes'"),
        ("not_applicable", ({}, ["/nonexistent.yml"]), r"not_applicable: the catalogue (?s:.*)nonexistent"),
        ("run_started", ("yesterday",), "run_started: run_id: 'yesterday'"),
        ("rabbitmq_password", ("",), "rabbitmq_password: it needs a password"),
    ],
)
def test_errors_name_the_filter_and_the_cause(filters, name, arguments, text):
    with pytest.raises(AnsibleFilterError, match=text):
        filters[name](*arguments)
