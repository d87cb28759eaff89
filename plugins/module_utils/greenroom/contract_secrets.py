"""Rules on secrets and on production's names. Messages name keys, never a secret's value nor what was found in one.

Whether a value has the right type, is a placeholder or too weak stands in contract_values.py.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from urllib.parse import SplitResult, unquote, urlsplit

from .contract_rules import SHORTEST_SECRET, Context, needed_secrets
from .markers import KINDS, holds
from .problems import Problem, nearest

VAULT = "vault_service_env"
PRODUCTION_NAMES = {"production", "prod", "live"}
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>]+")
DSN_DATABASE = re.compile(r"(?<![A-Za-z0-9_])(?:dbname|database)\s*=\s*'?([^\s';&]+)", re.I)
DSN_PORT = re.compile(r"(?<![A-Za-z0-9_])port\s*=\s*'?(\d+)", re.I)


def given(context: Context) -> Iterator[Problem]:
    """Every declared secret has a value and every value is declared; all are texts, long enough, and not told elsewhere."""
    if context.secrets is None:
        return
    secret = {item["key"]: index for index, item in enumerate(context.contract["env"]) if item["secret"]}
    open_keys = {item["key"] for item in context.contract["env"]} - set(secret)
    piped = {item["stdin_secret"] for section in ("configure", "cli_checks") for item in context.contract[section] if item["stdin_secret"]}
    values = context.secrets.get(VAULT)
    if values is None and not secret and not piped:
        values = {}  # a service without secrets needs no such variable
    if not isinstance(values, dict):
        yield Problem(VAULT, "is no mapping of key to value", f"Write `{VAULT}:` and below it one line for each secret of `env`")
        values = {}
    for key in secret:
        if key not in values and context.contract["env"][secret[key]]["required"]:
            hint = nearest(key, set(values) - set(secret))
            yield Problem(f"{VAULT}.{key}", f"is missing{hint}", "Write its value into the encrypted file of the inventory")
    for key, value in values.items():
        if key not in secret and key not in piped:
            declare = f"Remove it, or declare `- {{key: {key}, type: string, secret: true}}` in `env`"
            fix = f"Add `secret: true` to {key} in `env`" if key in open_keys else declare
            yield Problem(f"{VAULT}.{key}", f"is no declared secret{nearest(key, set(secret) - set(values))}", fix)
        yield from _sound(f"{VAULT}.{key}", value)
    for name in needed_secrets(context.contract):
        value = context.secrets.get(name)
        if value is None or value == "":
            yield Problem(name, "is missing", "Write it into the encrypted file of the inventory")
        else:
            yield from _sound(name, value)


def _sound(path: str, value: object) -> Iterator[Problem]:
    """A secret is a text of some length: YAML reads 0123 and yes as something else than they look."""
    if not isinstance(value, str):
        yield Problem(path, "is no text", "Put the value into quotes")
    elif not value.strip():
        yield Problem(path, "is empty", "Write its value")
    elif len(value) < SHORTEST_SECRET:
        yield Problem(path, f"is shorter than {SHORTEST_SECRET} characters", "Write a longer one; `openssl rand -base64 32` makes one")


def told_elsewhere(context: Context) -> Iterator[Problem]:
    """No secret stands in the contract, and the owner's password is in no environment (design: it never lies on an app host)."""
    secrets = dict(_texts(context.secrets or {}, ""))
    for path, text in _texts(context.contract, "service"):
        for name, value in secrets.items():
            if len(value) >= SHORTEST_SECRET and value in text:
                yield Problem(path, f"holds the value of {name}", "Remove it here, or take another secret")
    owner = secrets.get("vault_postgresql_owner_password", "")
    for name, value in secrets.items():
        if len(owner) >= SHORTEST_SECRET and name != "vault_postgresql_owner_password" and owner in unquote(value):
            yield Problem(
                name,
                "holds the database owner's password, which must not reach an app host",
                "Take the password of the application role there, and another one for the owner",
            )


def urls(context: Context) -> Iterator[Problem]:
    """The URL in the environment says the same as the contract: user, password, port, database or virtual host."""
    if context.secrets is None:
        return
    for kind, password_name in (("database", "vault_postgresql_app_password"), ("broker", "vault_rabbitmq_password")):
        part = context.dependencies.get(kind)
        key = part.get("url_key") if part else None
        value = context.secret_env.get(key) if key else None
        if not isinstance(value, str) or not value:
            continue
        try:
            url = urlsplit(value)
            port = url.port
        except ValueError:
            yield Problem(f"{VAULT}.{key}", "is no URL", "Write scheme://user:password@host:port/name, special characters %-encoded")
            continue
        target = unquote(url.path[1:])
        wanted = part["name"] if kind == "database" else part["vhost"]
        where = f"service.dependencies.{kind}"
        if not url.scheme or not url.hostname:
            yield Problem(f"{VAULT}.{key}", "is no URL", "Write scheme://user:password@host:port/name, special characters %-encoded")
            continue
        if part["mode"] == "provided" and part["host"] and url.hostname != part["host"].lower():
            yield Problem(f"{VAULT}.{key}", f"names another host than {where}.host", "Write the same host in both")
        if port is not None and port != part["port"]:
            yield Problem(f"{VAULT}.{key}", f"names another port than {where}.port", "Write the same port in both")
        if unquote(url.username or "") != part["user"]:
            yield Problem(
                f"{VAULT}.{key}", f"names another user than {where}.user", "The service connects as that user, never as the owner"
            )
        if target != wanted:
            name = "name" if kind == "database" else "vhost"
            yield Problem(
                f"{VAULT}.{key}",
                f"names another {kind} than {where}.{name}",
                "Write the same name in both (%2F for a slash in a virtual host)",
            )
        password = context.secrets.get(password_name)
        if isinstance(password, str) and password and unquote(url.password or "") != password:
            yield Problem(
                f"{VAULT}.{key}",
                f"holds another password than {password_name}",
                f"Write {{{{ {password_name} | urlencode }}}} at the place of the password",
            )


def cache_url(context: Context) -> Iterator[Problem]:
    """The cache's URL says the same as the contract; that of an installed cache is TLS and holds its password."""
    part = context.dependencies.get("cache")
    item = next((item for item in context.contract["env"] if part and item["key"] == part["url_key"]), None)
    if item is None:
        return  # named by contract_rules
    where = f"{VAULT}.{item['key']}" if item["secret"] else f"service.env[{context.contract['env'].index(item)}].value"
    value = context.secret_env.get(item["key"]) if item["secret"] else item.get("value")
    if not isinstance(value, str) or not value:
        return
    try:
        url = urlsplit(value)
        port = url.port
    except ValueError:
        yield Problem(where, "is no URL", "Write rediss://:password@host:port/0, special characters %-encoded")
        return
    if port is not None and port != part["port"]:
        yield Problem(where, "names another port than service.dependencies.cache.port", "Write the same port in both")
    if part["mode"] == "provided":
        return
    if url.scheme != "rediss" or not url.hostname:
        yield Problem(where, "is no rediss:// URL, but an installed cache speaks TLS only", "Write rediss://:password@host:port/0")
    if url.username not in (None, "", "default"):
        yield Problem(where, "names a user; an installed cache knows `default` only", "Write rediss://:password@host:port/0")
    password = (context.secrets or {}).get("vault_redis_password")
    if isinstance(password, str) and password and unquote(url.password or "") != password:
        fix = "Write {{ vault_redis_password | urlencode }} at the place of the password"
        yield Problem(where, "holds another password than vault_redis_password", fix)


def markers(context: Context) -> Iterator[Problem]:
    """production_markers has the right shape, and nothing of this inventory is what production names."""
    wanted = context.markers
    if wanted is None:
        return
    if not isinstance(wanted, dict):
        yield Problem("production_markers", "is no mapping", "Write production_markers: {hosts: [], domains: [], databases: [], ports: []}")
        return
    for key, value in wanted.items():
        if key not in KINDS:
            yield Problem(f"production_markers.{key}", f"is not known{nearest(key, KINDS)}", f"Write one of: {', '.join(KINDS)}")
        elif not isinstance(value, list) or not all(isinstance(item, int if key == "ports" else str) and item for item in value):
            kind = "numbers" if key == "ports" else "names"
            yield Problem(f"production_markers.{key}", f"is no list of {kind}", f"Write a list of {kind}, an empty one if there are none")
    if context.contract["environment"] in PRODUCTION_NAMES and any(wanted.values()):
        yield Problem(
            "service.environment",
            "says that this is production, but production_markers name what must not be touched",
            "Leave production_markers out of the inventory of production, or correct `environment`",
        )
    for kind in KINDS:
        listed = wanted.get(kind)
        for index, marker in enumerate(listed if isinstance(listed, list) else ()):
            yield from _marked(context, kind, marker, f"production_markers.{kind}[{index}]")


def _marked(context: Context, kind: str, marker: object, name: str) -> Iterator[Problem]:
    fix = "Write what belongs to this environment"
    for path, value in _values(context.contract, "service"):
        if path != "service.environment" and _names(kind, marker, path, value):
            yield Problem(path, f"is or contains what production uses: {marker} ({name})", fix)
    for path, value in _values(context.secrets or {}, ""):
        if _names(kind, marker, path, value):
            yield Problem(path, f"points at production ({name})", fix)
    if kind in ("hosts", "domains"):
        for host in dict.fromkeys(host for hosts in (context.groups or {}).values() for host in hosts):
            address = str((context.addresses or {}).get(host, host))
            if _names(kind, marker, "", host) or _names(kind, marker, "", address):
                yield Problem("groups", f"{host} ({address}) is a host of production: {marker} ({name})", "Take it out of this inventory")


def _names(kind: str, marker: object, path: str, value: object) -> bool:
    """Does `value` equal the marker, or name it inside an address? A name counts as a whole, so `staging-db` is not `db`."""
    text = str(value).strip().lower()
    wanted = str(marker).strip().lower()
    if kind == "ports":
        if isinstance(value, bool):
            return False
        is_port = re.search(r"port(s\.(blue|green))?$", path, re.I) or re.search(r"_port\b", path, re.I)
        return (bool(is_port) and text == wanted) or wanted in _ports(text)
    if kind == "databases":
        # The name alone counts where a database or a virtual host is named; a package may well be called like production's database.
        named = re.search(r"^service\.(dependencies\.(database\.name|broker\.vhost)|env\[\d+\]\.value)$|^vault_", path) is not None
        return (named and text.lstrip("/") == wanted) or wanted in _databases(text)
    return holds(text, wanted, kind)


def _urls(text: str) -> Iterator[SplitResult]:
    for found in URL.findall(text):
        with contextlib.suppress(ValueError):  # a text that only looks like a URL
            yield urlsplit(found)


def _ports(text: str) -> set[str]:
    found = set(DSN_PORT.findall(text))
    for url in _urls(text):
        with contextlib.suppress(ValueError):
            found.add(str(url.port))
    return found


def _databases(text: str) -> set[str]:
    """Names of databases and virtual hosts in URLs and DSNs inside a text, %-decoded, with and without a leading slash."""
    found = {unquote(url.path[1:]) for url in _urls(text)} | set(DSN_DATABASE.findall(text))
    return found | {name.lstrip("/") for name in found}


def _values(tree: object, path: str) -> Iterator[tuple[str, object]]:
    """Every leaf of a tree as (path, value). The path of an entry of `env` ends with its key, so that rules see its name."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _values(value, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from _values(value, f"{path}[{index}]")
    elif tree is not None:
        yield path, tree


def _texts(tree: object, path: str) -> Iterator[tuple[str, str]]:
    return ((path, value) for path, value in _values(tree, path) if isinstance(value, str))


SECRET_RULES: list[tuple[tuple[str, ...], Callable[[Context], Iterator[Problem]]]] = [
    (("env", "dependencies", "configure", "cli_checks"), given),
    ((), told_elsewhere),
    (("env", "dependencies"), urls),
    (("env", "dependencies"), cache_url),
    (("environment",), markers),
]
