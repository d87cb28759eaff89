"""Reads a host's backup configuration, `/etc/greenroom/<service>/backup.json` (docs/backups_configuration.md says what stands in it)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from .errors import BackupError

SCHEMA = 1


class Configuration:
    """One host's configuration. `config["a.b"]` is a value; a missing one raises BackupError that names file and key."""

    def __init__(self, document: Mapping, path: str = "the configuration"):
        self.document, self.path = document, path
        if document.get("schema") != SCHEMA:
            raise BackupError(
                f"{path}: schema is {document.get('schema')!r}, this version of Greenroom reads {SCHEMA}. Deploy this host again"
            )

    def __getitem__(self, dotted: str):
        value, missing = self.document, object()
        for key in dotted.split("."):
            value = value.get(key, missing) if isinstance(value, Mapping) else missing
            if value is missing:
                raise BackupError(f"{self.path}: {dotted} is missing. Deploy this host again")
        return value

    def get(self, dotted: str, default=None):
        """The value, or `default` where it is missing or null."""
        try:
            value = self[dotted]
        except BackupError:
            return default
        return default if value is None else value

    def dsn(self) -> dict:
        """libpq keywords of the database that is backed up."""
        keywords = {"host": self["database.host"], "port": str(self["database.port"]), "user": self["database.user"]}
        return {**keywords, "dbname": self["database.name"]}


def load(path: str | Path) -> Configuration:
    """The configuration in `path`. Raises BackupError for a file that is missing, cut or of another version."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BackupError(f"{path}: cannot be read ({error.strerror}). The role db_backup writes it: deploy this host again") from error
    except ValueError as error:
        raise BackupError(f"{path}: is no JSON ({error}). Deploy this host again") from error
    if not isinstance(document, dict):
        raise BackupError(f"{path}: is no JSON object. Deploy this host again")
    return Configuration(document, str(path))
