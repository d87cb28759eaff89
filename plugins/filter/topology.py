"""Filters over the fleet; the logic is in module_utils/greenroom/topology.py."""

from __future__ import annotations

from pathlib import Path

import ansible.module_utils

_LIBRARY = str(Path(__file__).resolve().parents[1] / "module_utils")
if _LIBRARY not in ansible.module_utils.__path__:
    # Ansible ships the project's library to the hosts; on the control node nobody puts it on the path for a filter.
    ansible.module_utils.__path__.append(_LIBRARY)

from ansible.errors import AnsibleFilterError  # noqa: E402
from ansible.module_utils.greenroom import catalogue, topology  # noqa: E402


def resolved_addresses(addresses: dict) -> dict:
    """{host: name or address} -> {host: address}; raises AnsibleFilterError naming each host whose name does not resolve."""
    try:
        return topology.resolved(addresses)
    except topology.TopologyError as error:
        raise AnsibleFilterError(str(error)) from error


def not_applicable(service: dict, catalogues: list[str]) -> dict:
    """{id: reason} of what the catalogues (paths) ask and this service cannot have; raises AnsibleFilterError for a broken catalogue."""
    try:
        return topology.not_applicable(service, [entry.id for entry in catalogue.load(catalogues)])
    except (OSError, ValueError, catalogue.CatalogueError) as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """Makes the functions of the library known to templates."""

    def filters(self) -> dict:
        return {
            # {{ contract | firewall_rules(groups, addresses, inventory_hostname) }}
            "firewall_rules": topology.firewall_rules,
            # {{ contract | firewall_probes(groups, addresses, inventory_hostname) }}
            "firewall_probes": topology.firewall_probes,
            # {{ groups | addresses_of(addresses, 'app', 'gateway') }}
            "addresses_of": topology.addresses_of,
            # {{ groups['all'] | host_addresses(hostvars) | resolved_addresses }}
            "resolved_addresses": resolved_addresses,
            # {{ contract | not_applicable(paths of the catalogues) }}
            "not_applicable": not_applicable,
            # {{ contract | configuration_digest(folder of the unit templates) }}
            "configuration_digest": topology.configuration_digest,
        }
