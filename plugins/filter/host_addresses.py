"""Filter: the address of each host, as the control node reaches it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

DOCUMENTATION = r"""
name: host_addresses
short_description: The address of each host of a list
description: A host's address is its C(ansible_host), or its name where that is not set.
positional: hostvars
options:
  _input:
    description: Names of hosts.
    type: list
    elements: str
    required: true
  hostvars:
    description: The magic variable C(hostvars).
    type: dict
    required: true
author: Greenroom (@greenroom)
"""

EXAMPLES = r"""
- name: Show the addresses of the app hosts
  ansible.builtin.debug:
    var: groups['app'] | host_addresses(hostvars)
"""

RETURN = r"""
_value:
  description: Name of the host to its address.
  type: dict
"""


def host_addresses(hosts: Iterable[str], hostvars: Mapping[str, Mapping]) -> dict[str, str]:
    """{host: ansible_host or the host's name}. Raises KeyError for a host that is not in the inventory."""
    return {host: str(hostvars[host].get("ansible_host") or host) for host in hosts}


class FilterModule:
    """The filters of this file, as Ansible finds them."""

    def filters(self) -> dict:
        return {"host_addresses": host_addresses}
