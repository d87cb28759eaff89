"""The configuration of the guard and of its watch, as the role `guard` writes it from the contract. Standard library only."""

from __future__ import annotations

import json
import os
from pathlib import Path

from .switch import SLOTS

KEYS = ("service", "hosts", "ports", "health", "metrics", "guard", "log", "live_url", "state_dir", "switch_dir", "notify", "metrics_dir")


class ConfigError(Exception):
    """The configuration file is unusable; the text names file and key."""


def read_config(path: str | os.PathLike) -> dict:
    """{service, hosts: {name: address}, ports: {slot: port}, health, metrics (or null), guard: sections of the contract, log, live_url,
    state_dir, switch_dir, notify: file of the channel, metrics_dir}. Raises ConfigError.
    """
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
        missing = [key for key in KEYS if key not in config]
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON ({error})") from error
    if missing or not config["hosts"] or set(config["ports"]) != set(SLOTS):
        raise ConfigError(f"{path}: {', '.join(missing) or 'hosts or ports'}: missing or malformed. Run deploy.yml --tags prepare.")
    return config
