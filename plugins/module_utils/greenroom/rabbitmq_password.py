"""RabbitMQ's salted password hashes: make one, and tell whether one is of a password.

The hash that `/api/definitions` imports and exports (`rabbit_password_hashing_sha256`): base64 of four bytes of salt and the SHA-256 of
salt and password.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets


def rabbitmq_password(password: str, known: str = "") -> str:
    """The hash of `password`; `known` itself where it is one. Raises ValueError for an empty password."""
    if not isinstance(password, str) or not password:
        raise ValueError("it needs a password, not an empty value")
    try:
        found = base64.b64decode(known or "", validate=True)
    except (binascii.Error, ValueError):
        found = b""
    if len(found) == 36 and hmac.compare_digest(_hash(found[:4], password), found):
        return known
    return base64.b64encode(_hash(secrets.token_bytes(4), password)).decode()


def _hash(salt: bytes, password: str) -> bytes:
    return salt + hashlib.sha256(salt + password.encode()).digest()
