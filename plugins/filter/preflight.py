"""Filters of the role preflight; the logic is in module_utils/greenroom/preflight_plan.py."""

from __future__ import annotations

from pathlib import Path

import ansible.module_utils
from ansible.errors import AnsibleFilterError

_LIBRARY = str(Path(__file__).resolve().parents[1] / "module_utils")
if _LIBRARY not in ansible.module_utils.__path__:  # Ansible ships the library to hosts; on the control node nobody adds it for a filter
    ansible.module_utils.__path__.append(_LIBRARY)

from ansible.module_utils.greenroom import preflight_plan


def _filter(function):
    """`function` with its errors as Ansible shows them."""

    def called(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except (ValueError, KeyError) as error:
            raise AnsibleFilterError(f"{function.__name__}: {error}") from None

    return called


class FilterModule:
    """The filters of this file, as Ansible finds them."""

    def filters(self) -> dict:
        return {
            # {{ contract | preflight_host_probes(groups, inventory_hostname, settings, secrets, now) }}
            "preflight_host_probes": _filter(preflight_plan.host_probes),
            # {{ contract | preflight_control_probes(groups, settings) }}
            "preflight_control_probes": _filter(preflight_plan.control_probes),
            # {{ contract | dependency_probes(groups, addresses, secrets, 5) }}
            "dependency_probes": _filter(preflight_plan.dependency_probes),
            # {{ {host: result} | preflight_blockers }}
            "preflight_blockers": _filter(preflight_plan.blockers),
        }
