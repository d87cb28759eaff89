"""A scratch database and virtual host for one run of the service's own tests: their names, and the environment that points at them.

Nothing in that environment is live: an address keeps its server and options and gets the scratch name, user and password; every other
secret is replaced by one made for the run; the address of a cache, which cannot be made for a run, is left out (runbook weaknesses D34).
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets as random
import string
from collections.abc import Iterable, Mapping
from urllib.parse import quote, urlsplit, urlunsplit

from .env_file import text_of

GROUP = "greenroom_scratch"
"""Group role of all scratch roles: pg_hba lets its members in, and CONNECT on each database says where to."""

_RUN = r"\d{8}t\d{6}z[_-][0-9a-z]+"  # a run id as it stands in a name


def names(service: str, run_id: str) -> dict[str, str]:
    """{slug, database, role, vhost, user} of a run. Database and role have the same name, at most 63 characters.

    Raises ValueError for a run id without a letter or digit.
    """
    slug = re.sub(r"[^a-z0-9]+", "_", run_id.lower()).strip("_")
    if not slug:
        raise ValueError(f"the run id {run_id!r} has no letter or digit to name a scratch database with")
    database, user = f"{service.replace('-', '_')}_scratch_{slug}"[:63], f"scratch-{service}-{slug.replace('_', '-')}"
    return {"slug": slug, "database": database, "role": database, "vhost": f"/{user}", "user": user}


def password(length: int = 32) -> str:
    """Random letters and digits: they need no quoting in an address, a URL or a shell."""
    return "".join(random.choice(string.ascii_letters + string.digits) for _ in range(length))


def address(url: str, user: str, secret: str, path: str) -> str:
    """`url` with other credentials and another path; server, port and options stay.

    Raises ValueError (without the value) if `url` is no address of a server.
    """
    parts = urlsplit(url)
    if not parts.scheme or not parts.hostname:
        raise ValueError("is no address of a server")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    host += f":{parts.port}" if parts.port else ""
    return urlunsplit(parts._replace(netloc=f"{quote(user, safe='')}:{quote(secret, safe='')}@{host}", path=path))


def environment(service: Mapping, live: Mapping[str, str], made: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The environment of the tests: {env: values that may be seen, secrets: values that must not be}.

    service: the normalized contract. live: `vault_service_env`, read only for where the servers are. made: what `names` returned, with
    `password`. Raises ValueError, naming the key and never a value.
    """
    dependencies = service.get("dependencies") or {}
    paths = {"database": "/" + made["database"], "broker": "/" + quote(made["vhost"], safe="")}
    users = {"database": made["role"], "broker": made["user"]}
    kinds = {dependency.get("url_key"): kind for kind, dependency in dependencies.items() if dependency.get("url_key")}
    env, hidden = {}, {}
    for item in service.get("env") or []:
        key, kind = item["key"], kinds.get(item["key"])
        if kind == "cache":
            continue
        if kind:
            value = live.get(key, item.get("value"))
            if not value:
                raise ValueError(f"{key}: vault_service_env has no value for it, so the address of the {kind} is not known")
            try:
                hidden[key] = address(str(value), users[kind], made["password"], paths[kind])
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None
        elif item.get("secret"):
            hidden[key] = password(max(32, int(item.get("min_length") or 0)))
        elif item.get("value") is not None:
            env[key] = text_of(key, item["value"])
    return {"env": env | {"GREENROOM_SLOT": "scratch"}, "secrets": hidden}


def definitions(made: Mapping[str, str]) -> dict:
    """The virtual host, and its user with rights there only, as RabbitMQ's management API takes them. Holds a salted hash, no password."""
    salt = random.token_bytes(4)
    digest = base64.b64encode(salt + hashlib.sha256(salt + made["password"].encode()).digest()).decode()
    return {
        "vhosts": [{"name": made["vhost"]}],
        "users": [{"name": made["user"], "password_hash": digest, "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": []}],
        "permissions": [{"user": made["user"], "vhost": made["vhost"], "configure": ".*", "write": ".*", "read": ".*"}],
    }


def leftovers(found: Iterable[str], service: str, but: Iterable[str] = ()) -> list[str]:
    """Those of the databases, roles, virtual hosts or users `found` that runs of this service made and did not take away, without `but`.

    Only a run that holds the lease may remove them: nobody else is using them then.
    """
    pattern = re.compile(rf"{re.escape(service.replace('-', '_'))}_scratch_{_RUN}|/?scratch-{re.escape(service)}-{_RUN}")
    return sorted(set(filter(pattern.fullmatch, found)) - set(but))
