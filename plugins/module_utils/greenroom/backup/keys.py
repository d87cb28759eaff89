"""age's keys on the control node: a new identity (private), and the recipient (public) that belongs to one.

Hosts seal with the recipient; the identity goes to the restore host alone. Needs pyrage (control node only).
"""

from __future__ import annotations

import re

IDENTITY = re.compile(r"AGE-SECRET-KEY-1[0-9A-Z]{58}")
RECIPIENT = re.compile(r"age1[0-9a-z]{58}")


def new_identity(_of: object = None) -> str:
    """A new private key, `AGE-SECRET-KEY-1…`. The argument is there because filters have one; it is not used."""
    from pyrage import x25519

    return str(x25519.Identity.generate())


def recipient_of(identity: str) -> str:
    """The public half of `identity`, `age1…`. Raises ValueError for anything that is no identity, without showing it."""
    from pyrage import IdentityError, x25519

    text = str(identity).strip()
    try:
        return str(x25519.Identity.from_str(text).to_public())
    except (IdentityError, ValueError):
        raise ValueError(
            "vault_db_backup_identity is no private key of age (AGE-SECRET-KEY-1…). Take the one that was made with `age-keygen` for this"
            " environment: what was sealed for it cannot be read with another."
        ) from None
