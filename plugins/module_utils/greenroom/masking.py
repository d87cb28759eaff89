"""Keeps secrets out of what is printed or stored: the passwords of addresses, and known values in every form they may be written in.

Standard library only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, quote_plus, unquote, urlsplit

MASK = "***"
SHORTEST = 6  # characters; a shorter value would be found in any text
USER_OF_HTTP = re.compile(r"(?i)(https?://)[^/\s'\"@]*@")  # tokens are also written as the user
PASSWORD = re.compile(r"(?i)([a-z][a-z0-9+.-]*://[^\s:/@]*:)[^\s@]+@")


def redact(text: str) -> str:
    """`text` without the user information of addresses in it: user names and tokens of http(s), passwords of every scheme."""
    return PASSWORD.sub(rf"\1{MASK}@", USER_OF_HTTP.sub(rf"\1{MASK}@", text))


def parts_of(value: str) -> set[str]:
    """A secret and, if it is an address, the password in it, as it stands there and decoded."""
    try:
        password = urlsplit(value).password
    except ValueError:
        password = None
    return {part for part in (value, password, unquote(password or "")) if part}


def secret_parts(values: Iterable[str]) -> list[str]:
    """Every text that must not be shown: the values, and the passwords of those that are URLs. Longest first, none under 6 characters."""
    parts = {part for value in values for part in parts_of(str(value))}
    return sorted((part for part in parts if len(part) >= SHORTEST), key=len, reverse=True)


def forms(secret: str) -> set[str]:
    """How programs write a text: plainly, URL-quoted, as Python or JSON show it; and with percent signs doubled, as SQLAlchemy does."""
    plain = {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), repr(secret)[1:-1], json.dumps(secret)[1:-1]}
    plain.add(secret.encode("unicode_escape").decode())
    return {form.replace("%", "%" * times) for form in plain for times in (1, 2, 4)}


def masked(text: str, secrets: Iterable[str]) -> str:
    """`text` without the `secrets` (see `secret_parts`), in whatever form they stand there."""
    for form in sorted({form for secret in secrets if secret for form in forms(secret)}, key=len, reverse=True):
        text = text.replace(form, MASK)
    return text


class Redactor:
    """Takes secrets out of texts, and out of what holds texts, and says which one stood there: `<secret KEY>`."""

    def __init__(self, secrets: Mapping[str, str]):
        found: dict = {}
        for key, value in secrets.items():
            for text in (form for part in parts_of(str(value)) for form in forms(part)):
                found.setdefault(text, key)
        self._found = sorted(found.items(), key=lambda item: -len(item[0]))  # the longest first: one may hold another

    def __call__(self, value: object) -> object:
        if isinstance(value, str):
            for text, key in self._found:
                value = value.replace(text, f"<secret {key}>")
            return value
        if isinstance(value, Mapping):
            return {self(key): self(item) for key, item in value.items()}
        if isinstance(value, (list, tuple, set)):
            return [self(item) for item in value]
        return value


def mask_lookalikes(text: str) -> str:
    """`text` with everything masked that looks like a password, a token or a key: foreign text is never trusted."""
    text = re.sub(r"(?i)((?:password|passwd|secret|token|api_?key|authorization)\w*[\"']?\s*[=:]\s*)(?:bearer\s+)?\S+", r"\1<masked>", text)
    text = PASSWORD.sub(r"\1<masked>@", text)
    return re.sub(r"[A-Za-z0-9_+/=-]{28,}", "<masked>", text)
