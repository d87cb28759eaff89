"""The environment template that belongs to this version, and what is asked of it (runbook 000 L12-16)."""

from __future__ import annotations

import re
from pathlib import Path

from lark_service.settings import Settings

# What people look for in it, as headings of its opening comment.
TOPICS = ("How to use this file", "Security", "Backup", "Monitoring")
_VARIABLE = re.compile(r"^#?\s?([A-Z][A-Z0-9_]+)=", re.MULTILINE)


def text() -> str:
    """The template as installed with the package, or from the source tree. Raises OSError if it is in neither place."""
    here = Path(__file__).resolve().parent
    installed = here / "env.template"
    return (installed if installed.exists() else here.parents[1] / "env.template").read_text(encoding="utf-8")


def problems(template: str) -> list[str]:
    """What is wrong with a template: variables missing, unknown, twice or without a comment, topics without a word about them."""
    named = _VARIABLE.findall(template)
    known = [field.upper() for field in Settings.model_fields]
    found = [f"{key} is not in the template" for key in known if key not in named]
    found += [f"{key} is no variable of the service" for key in sorted(set(named) - set(known))]
    found += [f"{key} stands there {named.count(key)} times" for key in sorted(set(named)) if named.count(key) > 1]
    blocks = [block.splitlines() for block in re.split(r"\n\s*\n", template)]
    described = {key for block in blocks if block[0].startswith("# ") for key in _VARIABLE.findall("\n".join(block[1:]))}
    found += [f"{key} has no comment" for key in known if key in named and key not in described]
    found += [f"nothing is said about {topic!r}" for topic in TOPICS if not re.search(rf"^# {topic}\n#   \S", template, re.MULTILINE)]
    return found
