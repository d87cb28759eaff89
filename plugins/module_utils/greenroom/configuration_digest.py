"""Whether two releases are configured alike: one digest of all that a release's configuration is made from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from .durable import canonical

# What a release's configuration does not depend on: where its code comes from has a digest of its own, and the rest only judges it.
NOT_CONFIGURATION = (
    "source", "artefact", "catalogue", "not_applicable", "contacts", "checks", "cli_checks", "tests", "thresholds", "load", "monitoring",
    "keep_releases", "hooks", "requirements", "external",
)  # fmt: skip


def configuration_digest(service: Mapping, templates: str) -> str:
    """SHA-256 of what a release's configuration is made from: the contract without what only judges it, and the unit templates.

    service: the normalised contract (it holds no secret); templates: a folder. Raises OSError when the folder cannot be read.
    """
    digest = hashlib.sha256(canonical({key: value for key, value in service.items() if key not in NOT_CONFIGURATION}))
    for path in sorted(path for path in Path(templates).rglob("*") if path.is_file()):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
