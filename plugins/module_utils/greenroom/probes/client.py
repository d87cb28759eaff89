"""A small HTTP client for probes: verified TLS only, no redirects, no proxy, a deadline for the whole exchange."""

from __future__ import annotations

import base64
import http.client
import socket
import time
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from .base import Arg, Context, ProbeError, tls_context

BODY_LIMIT = 16 * 1024 * 1024

# The arguments every probe that speaks HTTP has.
ARGS = {
    "url": Arg("str", "http or https address; a user or password in it is refused"),
    "base_url": Arg("str", "beginning of the address, for lists of checks that are run against several places"),
    "path": Arg("str", "the rest of the address, beside base_url"),
    "method": Arg("str", "HTTP method", default="GET"),
    "headers": Arg("dict", "request headers", default={}),
    "secret_headers": Arg("secrets", "request headers whose values are secrets: header name to key", default={}),
    "bearer_key": Arg("secret", "key of a token sent as `Authorization: Bearer`"),
    "user": Arg("str", "user of basic authentication, with password_key"),
    "password_key": Arg("secret", "key of its password"),
    "ca_file": Arg("str", "file of the authorities to trust instead of the system's"),
    "sni": Arg("str", "name to ask for and to verify in TLS, default the address's host"),
    "connect_to": Arg("str", "host or host:port to connect to instead of the address's (the Host header stays)"),
}


class Response(NamedTuple):
    """status, headers (lower-case names, values of repeated ones joined by a comma), body, seconds, TLS version or None."""

    status: int
    headers: dict
    body: bytes
    seconds: float
    tls: str | None


def check(args: Mapping) -> list:
    """Problems of the address arguments as (key, message)."""
    if bool(args["url"]) == bool(args["base_url"]):
        return [("url", "give either url, or base_url with path")]
    if args["base_url"] and args["path"] is None:
        return [("path", "missing beside base_url")]
    parts = urlsplit(address(args))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return [("url", "must be an http or https address with a host")]
    if "@" in parts.netloc:
        return [("url", "holds a user or password; use user with password_key, bearer_key or secret_headers")]
    if bool(args["user"]) != bool(args["password_key"]):
        return [("password_key", "user and password_key belong together")]
    return []


def address(args: Mapping) -> str:
    """The address that the arguments name."""
    return args["url"] or args["base_url"].rstrip("/") + "/" + args["path"].lstrip("/")


def request(args: Mapping, context: Context, body: bytes | None = None, extra: Mapping | None = None) -> Response:
    """One exchange on a connection of its own, timed from before the connect to the last byte of the body.

    Raises OSError, http.client.HTTPException or TimeoutError.
    """
    parts = urlsplit(address(args))
    secure = parts.scheme == "https"
    host, port = parts.hostname, parts.port or (443 if secure else 80)
    headers = {"Host": parts.netloc, "Accept": "*/*", "User-Agent": "greenroom-health-check", "Connection": "close"}
    headers.update({str(name): str(value) for name, value in {**args["headers"], **(extra or {})}.items()})
    headers.update({name: context.secret(key) for name, key in args["secret_headers"].items()})
    if args["bearer_key"]:
        headers["Authorization"] = f"Bearer {context.secret(args['bearer_key'])}"
    if args["user"]:
        pair = f"{args['user']}:{context.secret(args['password_key'])}".encode()
        headers["Authorization"] = "Basic " + base64.b64encode(pair).decode()
    target = (host, port)
    if args["connect_to"]:
        target = split_address(args["connect_to"], port)

    tls = tls_context(args["ca_file"]) if secure else None
    started = time.monotonic()
    sock = socket.create_connection(target, context.remaining())
    try:
        if tls:
            sock = tls.wrap_socket(sock, server_hostname=args["sni"] or host)
        connection = http.client.HTTPConnection(host, port)
        connection.sock = sock
        sock.settimeout(context.remaining())
        connection.request(args["method"].upper(), (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), body, headers)
        answer = connection.getresponse()
        received = bytearray()
        while True:
            sock.settimeout(context.remaining())
            chunk = answer.read1(65536)
            if not chunk:
                break
            received += chunk
            if len(received) > BODY_LIMIT:
                raise ProbeError(f"the answer is longer than {BODY_LIMIT} bytes")
        if answer.length:
            raise http.client.IncompleteRead(b"", answer.length)
        found: dict = {}
        for name, value in answer.getheaders():
            found[name.lower()] = f"{found[name.lower()]}, {value}" if name.lower() in found else value
        return Response(answer.status, found, bytes(received), time.monotonic() - started, sock.version() if tls else None)
    finally:
        sock.close()


def split_address(text: str, default_port: int) -> tuple[str, int]:
    """`host`, `host:port` or `[v6]:port` as (host, port)."""
    parts = urlsplit(f"//{text}")
    return parts.hostname or text, parts.port or default_port
