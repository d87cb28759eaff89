"""Makes the project's library importable as Ansible ships it, `ansible.module_utils.greenroom`; gives each run a folder of its own."""

import shutil
import tempfile
from pathlib import Path

import ansible.module_utils
import pytest

ROOT = Path(__file__).resolve().parent.parent
ansible.module_utils.__path__.append(str(ROOT / "plugins" / "module_utils"))


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """A folder that no other pytest knows: one that starts closes pytest's common folder to the users that test servers run as."""
    if not config.option.basetemp and not hasattr(config, "workerinput"):
        config.option.basetemp = tempfile.mkdtemp(prefix="greenroom-tests-")
        config.add_cleanup(lambda: shutil.rmtree(config.option.basetemp, ignore_errors=True))
