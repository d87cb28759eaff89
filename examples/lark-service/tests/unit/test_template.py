"""env.template and README.md name every variable of the settings, and no other."""

import re
from pathlib import Path

from lark_service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
KEYS = {name.upper() for name in Settings.model_fields}


def test_env_template_has_every_variable_exactly_once():
    named = re.findall(r"^#?\s?([A-Z][A-Z0-9_]+)=", (ROOT / "env.template").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(named) == sorted(KEYS)


def test_readme_has_every_variable():
    assert set(re.findall(r"^\| `([A-Z][A-Z0-9_]+)`", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)) == KEYS
