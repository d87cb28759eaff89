"""Filters over the fleet's topology; the logic is in module_utils/greenroom/topology.py."""

from __future__ import annotations

from ansible.module_utils.greenroom import topology


class FilterModule:
    """Makes the functions of the library known to templates."""

    def filters(self) -> dict:
        return {
            # {{ service | firewall_rules(groups, addresses, inventory_hostname) }}
            "firewall_rules": topology.firewall_rules,
            # {{ groups | addresses_of(addresses, 'app', 'gateway') }}
            "addresses_of": topology.addresses_of,
        }
