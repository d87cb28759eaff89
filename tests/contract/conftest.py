"""What the contract tests share: the project's files as git knows them, and YAML read as plain data."""

import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


class Plain(yaml.SafeLoader):
    """YAML as plain data; Ansible's own tags (!vault, !unsafe) stand for their text."""


Plain.add_multi_constructor("!", lambda loader, suffix, node: loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else None)


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def files():
    """Paths relative to the project of everything that is or would be committed, as text files go."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    found = [Path(name) for name in sorted(set(names)) if name and (ROOT / name).is_file()]
    assert len(found) > 30, "git lists hardly any file: is this the project's own repository?"
    return found


@pytest.fixture(scope="session")
def text():
    """Reads a file of the project; None for one that is no text."""

    def read(name):
        try:
            return (ROOT / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            return None

    return read


@pytest.fixture(scope="session")
def load():
    """Reads a YAML file of the project as plain data."""
    return lambda name: yaml.load((ROOT / name).read_text(encoding="utf-8"), Loader=Plain)


@pytest.fixture(scope="session")
def ansible_environment():
    """The environment in which Ansible's programs use the project's configuration, without colours."""
    import os

    return {
        **os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0", "NO_COLOR": "1",
        "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
    }  # fmt: skip
