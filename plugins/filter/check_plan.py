"""Filters: the probes that a service's contract asks for, and the names and environment of its tests (logic in module_utils/greenroom)."""

from __future__ import annotations

from pathlib import Path

import ansible.module_utils
from ansible.errors import AnsibleFilterError

_LIBRARY = str(Path(__file__).resolve().parents[1] / "module_utils")
if _LIBRARY not in ansible.module_utils.__path__:  # Ansible ships the library to hosts; on the control node nobody adds it for a filter
    ansible.module_utils.__path__.append(_LIBRARY)

from ansible.module_utils.greenroom import check_plan, scratch

DOCUMENTATION = r"""
name: check_plan
short_description: The probes that a service's contract asks for
description:
  - The functions of the library C(check_plan) and C(scratch) as filters. Each takes the service contract as its input.
options:
  _input:
    description: The service contract.
    type: dict
    required: true
author: Greenroom (@greenroom)
"""


def _filter(function):
    """`function` with its errors as Ansible shows them: what is wrong with which key, never a value of a secret."""

    def called(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except (ValueError, KeyError, StopIteration) as error:
            what = f"the contract has no {error}" if isinstance(error, (KeyError, StopIteration)) else str(error)
            raise AnsibleFilterError(f"{function.__name__}: {what}") from None

    return called


class FilterModule:
    """The filters of this file, as Ansible finds them."""

    def filters(self) -> dict:
        return {
            # {{ service | slot_probes('blue', {'version': '1.2.0', 'release': '3-1.2.0'}) }}
            "start_probes": _filter(check_plan.start_probes),
            "slot_probes": _filter(check_plan.slot_probes),
            "system_probes": _filter(check_plan.system_probes),
            # {{ service | gateway_probes(release, '10.0.0.11', '/etc/greenroom/ca.crt') }}
            "gateway_probes": _filter(check_plan.gateway_probes),
            "configure_steps": _filter(check_plan.configure_steps),
            "cli_probes": _filter(check_plan.cli_probes),
            "worker_probes": _filter(check_plan.worker_probes),
            "log_probes": _filter(check_plan.log_probes),
            "server_log_probes": _filter(check_plan.server_log_probes),
            "slot_runner": _filter(check_plan.runner),
            # {{ records | conjunction }}
            "conjunction": _filter(check_plan.conjunction),
            # {{ run_id | run_started }}
            "run_started": _filter(check_plan.run_started),
            # {{ service.name | scratch_names(run_id) }}, {{ service | scratch_environment(vault_service_env, names) }}
            "scratch_names": _filter(scratch.names),
            "scratch_environment": _filter(scratch.environment),
            "scratch_definitions": _filter(scratch.definitions),
            "scratch_leftovers": _filter(scratch.leftovers),
        }
