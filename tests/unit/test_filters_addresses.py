"""The filter host_addresses."""

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[2] / "plugins" / "filter" / "host_addresses.py"


@pytest.fixture(scope="module")
def host_addresses():
    spec = importlib.util.spec_from_file_location("host_addresses", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FilterModule().filters()["host_addresses"]


def test_an_address_is_ansible_host_or_the_name(host_addresses):
    hostvars = {"a": {"ansible_host": "10.0.0.1"}, "b": {}, "c": {"ansible_host": ""}}
    assert host_addresses(["a", "b", "c"], hostvars) == {"a": "10.0.0.1", "b": "b", "c": "c"}


def test_a_host_outside_the_inventory_is_an_error(host_addresses):
    with pytest.raises(KeyError):
        host_addresses(["x"], {})
