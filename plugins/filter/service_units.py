"""Filters: the systemd units of a service contract; the logic is in module_utils/greenroom/units.py."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from ansible.module_utils.greenroom import env_file, units


def env_file_sha256(values: Mapping, header: str | None = None) -> str:
    """The SHA-256 of the env file that the module file_set writes for these values. Raises ValueError naming the key."""
    return hashlib.sha256(env_file.render(values, header).encode()).hexdigest()


class FilterModule:
    """Makes the functions of the library known to templates."""

    def filters(self) -> dict:
        return {
            # {{ service | process_units }}
            "process_units": units.process_units,
            # {{ service | web_unit('blue') }}
            "web_unit": units.web_unit,
            # {{ service | background_units('blue') }}
            "background_units": units.background_units,
            # {{ service | all_units('blue') }}
            "all_units": units.all_units,
            # {{ service | agent_units('blue', known) }}
            "agent_units": units.agent_units,
            # {{ values | env_file_sha256('Made by …') }}
            "env_file_sha256": env_file_sha256,
        }
