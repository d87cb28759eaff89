"""Production markers: names that only production uses, and that a run against another environment refuses to touch."""

from __future__ import annotations

import re

# Key of `production_markers` -> what a message calls one of its items.
KINDS = {"hosts": "host", "domains": "domain", "databases": "database", "ports": "port"}


def holds(value: object, marker: object, kind: str | None = None) -> bool:
    """Is `marker` in `value` (a name, a number or a whole address) as a whole name?

    `shop` is not in `shop_staging`. A domain, or any marker with a dot, is also in a host below it (`example.org` in
    `db.example.org`), a host only by itself. A number is a port: the whole value or `:5432` in an address.
    """
    text, name = str(value).lower(), re.escape(str(marker).lower())
    if kind is None:
        kind = "ports" if str(marker).isdigit() else "domains" if "." in str(marker) else "databases"
    pattern = {
        "hosts": rf"(?<![\w.-]){name}(?![\w-]|\.\w)",
        "domains": rf"(?<![\w-]){name}(?![\w-]|\.\w)",
        "databases": rf"(?<![\w-]){name}(?![\w-])",
        "ports": rf"(?:^|:){name}(?!\d)(?=$|[/?#,])",
    }[kind]
    return re.search(pattern, text) is not None
