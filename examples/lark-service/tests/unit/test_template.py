"""env.template and README.md name every variable of the settings, and no other; a template that does not is refused."""

import re
from pathlib import Path

import pytest

from lark_service import template
from lark_service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
KEYS = {name.upper() for name in Settings.model_fields}


def test_env_template_is_complete():
    assert template.problems(template.text()) == []


def test_readme_has_every_variable():
    assert set(re.findall(r"^\| `([A-Z][A-Z0-9_]+)`", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)) == KEYS


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("#POOL_MAX=10\n", "", "POOL_MAX is not in the template"),
        ("#POOL_MAX=10\n", "#POOL_MAX=10\n#POOL_SIZE=10\n", "POOL_SIZE is no variable of the service"),
        ("#POOL_MAX=10\n", "#POOL_MAX=10\nPOOL_MAX=20\n", "POOL_MAX stands there 2 times"),
        ("# Connections to PostgreSQL a process may open, 1 to 100.\n", "", "POOL_MAX has no comment"),
        ("# Backup\n", "", "nothing is said about 'Backup'"),
        ("# Security\n", "# Security\n#\n", "nothing is said about 'Security'"),
    ],
)
def test_a_template_with_a_gap_is_refused(old, new, problem):
    text = template.text()
    assert old in text
    assert template.problems(text.replace(old, new)) == [problem]
