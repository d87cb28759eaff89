"""The sandbox is made anew once; the tests of test_deploy.py then run in their order, each on what the one before left."""

import copy
import json
import os
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))  # for harness and repositories beside this file

import harness


@pytest.fixture(scope="session")
def hosts():
    """Five fresh hosts; the ones that stand, if GREENROOM_KEEP_HOSTS is set (for work on a single test)."""
    if not os.environ.get("GREENROOM_KEEP_HOSTS"):
        harness.fresh_hosts()


@pytest.fixture
def contract():
    """The sandbox's contract as it stands in the file, to be changed by a test."""
    return copy.deepcopy(yaml.safe_load((harness.INVENTORY / "group_vars" / "all" / "service.yml").read_text())["service"])


@pytest.fixture
def extra(tmp_path):
    """Writes variables into a file and returns the arguments that hand them to ansible-playbook."""

    def write(**variables) -> tuple[str, str]:
        path = tmp_path / "extra.yml"
        path.write_text(yaml.safe_dump(json.loads(json.dumps(variables))))
        return "-e", f"@{path}"

    return write
