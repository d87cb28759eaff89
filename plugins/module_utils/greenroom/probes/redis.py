"""Redis: PING through the configured address, with its password (runbook 003 L306), and a value written and read back."""

from __future__ import annotations

import secrets as random
from urllib.parse import urlsplit

from .base import Arg, Context, Findings, Outcome, Probe, ProbeError, need, network_problem, shown
from .compare import version_at_least


def run(args: dict, context: Context) -> Outcome:
    library = need("redis")
    url = args["url"] or context.secret(args["url_key"])
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ProbeError("the Redis address must begin with redis://, rediss:// or unix://")
    where = f"{parts.hostname or parts.path}:{parts.port or 6379}" if parts.scheme != "unix" else parts.path
    options = {"socket_timeout": context.remaining(), "socket_connect_timeout": context.remaining(), "client_name": "greenroom"}
    if args["password_key"]:
        options["password"] = context.secret(args["password_key"])
    if args["ca_file"] and parts.scheme == "rediss":
        options["ssl_ca_certs"] = args["ca_file"]
    found = Findings()
    client = library.Redis.from_url(url, **options)
    refusal, wanted = args["expect"] == "refused", f"PING {where} is refused"
    try:
        answered = client.ping() is True
        if refusal:
            return Outcome(False, wanted, "PONG", f"{where}: it answers without the right password and must not")
        found.add(f"PING {where} answers PONG", "PONG" if answered else "another answer than PONG", answered)
        if args["version_min"]:
            version = client.info("server")["redis_version"]
            found.detail["version"] = version
            found.add(f"version ≥ {args['version_min']}", f"version {version}", version_at_least(version, args["version_min"]))
        if args["info"]:
            said = client.info("everything")
            for field, value in args["info"].items():
                found.add(f"{field} {value}", f"{field} {said.get(field)}", str(said.get(field)) == str(value))
        if args["round_trip"]:
            _round_trip(client, args, found)
    except library.exceptions.RedisError as error:
        inner = error.__cause__ or error.__context__
        network = isinstance(error, (library.exceptions.ConnectionError, library.exceptions.TimeoutError)) and isinstance(inner, OSError)
        seen = network_problem(inner, context.timeout_s) if network else shown(str(error))
        if refusal:
            denied = isinstance(error, (library.exceptions.AuthenticationError, library.exceptions.NoPermissionError))
            return Outcome(denied, wanted, seen, None if denied else f"{where}: {seen}")
        found.add(None if found.expected else f"PING {where} answers PONG", seen, False, seen)
    finally:
        client.close()
    return found.outcome(where)


def _round_trip(client, args, found):
    """Write a key that ends by itself after a minute, read it, delete it, see that it is gone."""
    key, value = f"{args['key_prefix']}greenroom:probe:{random.token_hex(8)}", random.token_hex(16)
    client.set(key, value, ex=60)
    try:
        got = client.get(key)
        got = got.decode() if isinstance(got, bytes) else got
    finally:
        client.delete(key)
    left = bool(client.exists(key))
    seen = "the value came back" if got == value else "another value came back"
    found.add(
        "a value is written, read back and deleted",
        seen + (", the key is still there" if left else ", the key is gone"),
        got == value and not left,
    )


def _check(args: dict) -> list:
    if bool(args["url"]) == bool(args["url_key"]):
        return [("url", "give either url, or url_key for an address that holds a password")]
    if args["url"] and urlsplit(args["url"]).password:
        return [("url", "holds a password; use url_key, or password_key beside it")]
    return []


PROBE = Probe(
    "redis",
    "a Redis server answers PING through its address, and keeps a value",
    {
        "url": Arg("str", "redis://, rediss:// or unix:// address without a password"),
        "url_key": Arg("secret", "key of a secret that is the whole address"),
        "password_key": Arg("secret", "key of the password"),
        "ca_file": Arg("str", "file of the authorities for rediss"),
        "expect": Arg("str", "whether it must answer", default="answers", choices=("answers", "refused")),
        "version_min": Arg("str", "oldest version allowed"),
        "info": Arg("dict", "fields of INFO and the values they must have", default={}),
        "round_trip": Arg("bool", "write, read and delete a key of the probe's own", default=False),
        "key_prefix": Arg("str", "beginning of that key's name", default=""),
    },
    run,
    _check,
)
