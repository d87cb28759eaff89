"""RabbitMQ's salted password hashes: make one, and tell whether one is of a password."""

from __future__ import annotations

DOCUMENTATION = r"""
name: rabbitmq_password
short_description: Make RabbitMQ's salted hash of a password
description:
  - The hash that C(/api/definitions) imports and exports (C(rabbit_password_hashing_sha256)), so that a password is set without
    handing it over.
  - With a second argument it keeps that hash if it is already one of the password, so that nothing changes where nothing has to.
positional: known
options:
  _input:
    description: The password.
    type: str
    required: true
  known:
    description: The hash that the broker has.
    type: str
    default: ""
author: Greenroom
"""

EXAMPLES = r"""
- name: The user as the broker imports it
  ansible.builtin.set_fact:
    user: {name: example, password_hash: "{{ password | rabbitmq_password(found.password_hash) }}", tags: ""}
"""

RETURN = r"""
_value:
  description: The hash, base64 of four bytes of salt and the SHA-256 of salt and password.
  type: str
"""

import base64
import binascii
import hashlib
import hmac
import secrets

from ansible.errors import AnsibleFilterError


def rabbitmq_password(password: str, known: str = "") -> str:
    """The hash of `password`; `known` itself where it is one. Raises AnsibleFilterError for an empty password."""
    if not isinstance(password, str) or not password:
        raise AnsibleFilterError("rabbitmq_password needs a password, not an empty value")
    try:
        found = base64.b64decode(known or "", validate=True)
    except (binascii.Error, ValueError):
        found = b""
    if len(found) == 36 and hmac.compare_digest(_hash(found[:4], password), found):
        return known
    return base64.b64encode(_hash(secrets.token_bytes(4), password)).decode()


def _hash(salt: bytes, password: str) -> bytes:
    return salt + hashlib.sha256(salt + password.encode()).digest()


class FilterModule:
    """Ansible's way to find the filter."""

    def filters(self):
        return {"rabbitmq_password": rabbitmq_password}
