"""Keeps secrets out of what is printed or stored: the passwords of addresses, and known values in every form they may be written in.

Standard library only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from urllib.parse import quote, quote_plus, unquote, urlsplit

MASK = "***"
SHORTEST = 6  # characters; a shorter value would be found in any text
USER_OF_HTTP = re.compile(r"(?i)(https?://)[^/\s'\"@]*@")  # tokens are also written as the user
PASSWORD = re.compile(r"(?i)([a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s@]+@")


def redact(text: str) -> str:
    """`text` without the user information of addresses in it: user names and tokens of http(s), passwords of every scheme."""
    return PASSWORD.sub(rf"\1{MASK}@", USER_OF_HTTP.sub(rf"\1{MASK}@", text))


def secret_parts(values: Iterable[str]) -> list[str]:
    """Every text that must not be shown: the values, and the passwords of those that are URLs. Longest first, none under 6 characters."""
    parts = set()
    for value in values:
        parts.add(str(value))
        try:
            password = urlsplit(str(value)).password
        except ValueError:
            password = None
        if password:
            parts |= {password, unquote(password)}
    return sorted((part for part in parts if len(part) >= SHORTEST), key=len, reverse=True)


def forms(secret: str) -> set[str]:
    """How programs write a text: plainly, URL-quoted, as Python or JSON show it; and with percent signs doubled, as SQLAlchemy does."""
    plain = {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), repr(secret)[1:-1], json.dumps(secret)[1:-1]}
    return {form.replace("%", "%" * times) for form in plain for times in (1, 2, 4)}


def masked(text: str, secrets: Iterable[str]) -> str:
    """`text` without the `secrets` (see `secret_parts`), in whatever form they stand there."""
    for form in sorted({form for secret in secrets if secret for form in forms(secret)}, key=len, reverse=True):
        text = text.replace(form, MASK)
    return text
