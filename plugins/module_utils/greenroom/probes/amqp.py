"""RabbitMQ: log in to a virtual host, send a message through a queue of one's own and get it back, or be refused."""

from __future__ import annotations

import logging
import secrets as random
import time

from .base import Arg, Context, Findings, Outcome, Probe, need, network_problem, tls_context
from .compare import version_at_least


def run(args: dict, context: Context) -> Outcome:
    pika = need("pika")
    logging.getLogger("pika").setLevel(logging.CRITICAL)  # it logs each failed login in many lines; the record says it in one
    where = f"vhost {args['vhost']} at {args['host']}:{args['port']} as {args['user']}"
    refusal = args["expect"] == "refused"
    parameters = pika.ConnectionParameters(
        host=args["host"], port=args["port"], virtual_host=args["vhost"],
        credentials=pika.PlainCredentials(args["user"], context.secret(args["password_key"]) or ""),
        ssl_options=pika.SSLOptions(tls_context(args["ca_file"]), args["sni"] or args["host"]) if args["tls"] else None,
        socket_timeout=context.remaining(), stack_timeout=context.remaining(), blocked_connection_timeout=context.remaining(),
        connection_attempts=1, heartbeat=0, client_properties={"connection_name": "greenroom health_check"},
    )  # fmt: skip
    wanted = f"the login to {where} is refused" if refusal else f"logs in to {where}"
    try:
        connection = pika.BlockingConnection(parameters)
    except (pika.exceptions.AMQPError, OSError) as error:
        seen, denied = _explain(pika, error, context)
        if refusal and denied:
            return Outcome(True, wanted, seen)
        return Outcome(False, wanted, seen, f"{where}: {seen}")
    try:
        if refusal:
            return Outcome(False, wanted, "logged in", f"{where}: the login works and must not")
        found = Findings()
        found.add(wanted, "logged in")
        _use(args, context, pika, connection, found)
        return found.outcome(where)
    except pika.exceptions.AMQPError as error:
        seen, _ = _explain(pika, error, context)
        return Outcome(False, wanted, seen, f"{where}: {seen}")
    finally:
        if connection.is_open:
            connection.close()


def _explain(pika, error: BaseException, context: Context) -> tuple[str, bool]:
    """(what happened in words, whether the broker said no to the user)."""
    names = pika.exceptions
    if isinstance(error, (names.ProbableAuthenticationError, names.AuthenticationError)):
        return "the broker refuses the user or its password", True
    if isinstance(error, names.ProbableAccessDeniedError):
        return "the broker denies this user the virtual host", True
    if isinstance(error, (names.ConnectionClosedByBroker, names.ChannelClosedByBroker)):
        text = f"the broker answered {error.reply_code} {error.reply_text.splitlines()[0]}"
        return text, error.reply_code in (403, 530)
    if isinstance(error, names.AMQPConnectionError):
        inner = next((item for item in _chain(error) if isinstance(item, OSError)), None)
        if inner is not None:
            return network_problem(inner, context.timeout_s), False
        if "imeout" in repr(error):
            return f"no answer within {context.timeout_s:g} s", False
    if isinstance(error, OSError):
        return network_problem(error, context.timeout_s), False
    return f"{type(error).__name__}: {error}".strip(": "), False


def _chain(error):
    """The exceptions inside pika's connection errors, which come wrapped several times."""
    waiting, seen = [error], []
    while waiting:
        item = waiting.pop()
        if item is None or item in seen:
            continue
        seen.append(item)
        waiting += [item.__cause__, item.__context__, getattr(item, "exception", None)]
        waiting += [argument for argument in getattr(item, "args", ()) if isinstance(argument, BaseException)]
        waiting += list(getattr(item, "exceptions", ()))
    return seen


def _use(args, context, pika, connection, found) -> None:
    properties = connection._impl.server_properties or {}
    product, version = _plain(properties.get("product")), _plain(properties.get("version"))
    found.detail.update(product=product, version=version)
    if args["version"]:
        ok = product == "RabbitMQ" and f"{version}.".startswith(f"{args['version']}.")
        found.add(f"RabbitMQ {args['version']}", f"{product} {version}", ok)
    if args["version_min"]:
        found.add(f"version ≥ {args['version_min']}", f"version {version}", version_at_least(version, args["version_min"]))
    for kind in ("queue", "exchange"):
        for name in args[f"{kind}s"]:
            channel = connection.channel()
            try:
                declared = getattr(channel, f"{kind}_declare")(name, passive=True)
                count = f" ({declared.method.message_count} messages)" if kind == "queue" else ""
                found.add(f"{kind} {name} exists", f"{kind} {name} exists{count}")
                channel.close()
            except pika.exceptions.ChannelClosedByBroker as error:
                found.add(f"{kind} {name} exists", f"{kind} {name}: {error.reply_code}", False, f"{kind} {name}: {error.reply_text}")
    if args["round_trip"]:
        wanted = "a message comes back through a queue of its own"
        try:
            took = _round_trip(args, context, pika, connection)
        except (pika.exceptions.AMQPError, _Lost) as error:
            text = str(error) if isinstance(error, _Lost) else _explain(pika, error, context)[0]
            found.add(wanted, text, False, f"round trip: {text}")
        else:
            found.add(wanted, f"message back after {took:g} ms")
            found.detail["round_trip_ms"] = took


class _Lost(Exception):
    pass


def _round_trip(args, context, pika, connection) -> float:
    """Milliseconds from publish (confirmed) to the same bytes read; the queue is exclusive and deletes itself."""
    body = random.token_bytes(64)
    channel = connection.channel()
    name = f"{args['queue_prefix']}greenroom.probe.{random.token_hex(8)}"
    channel.queue_declare(name, exclusive=True, auto_delete=True)
    try:
        channel.confirm_delivery()
        started = time.monotonic()
        try:
            channel.basic_publish("", name, body, mandatory=True)
        except (pika.exceptions.UnroutableError, pika.exceptions.NackError) as error:
            raise _Lost(f"the broker did not take the message ({type(error).__name__})") from error
        while True:
            method, _, received = channel.basic_get(name, auto_ack=True)
            if method:
                break
            if time.monotonic() >= context.deadline:
                raise _Lost("the message did not come back")
            connection.sleep(0.01)
        if received != body:
            raise _Lost("another message came back than the one that was sent")
        return round((time.monotonic() - started) * 1000, 2)
    finally:
        if channel.is_open:
            channel.queue_delete(name)


def _plain(value) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


PROBE = Probe(
    "amqp",
    "a RabbitMQ broker accepts the user on the virtual host and carries a message, or refuses the user",
    {
        "host": Arg("str", "host name or address", required=True),
        "port": Arg("int", "port number", default=5672),
        "user": Arg("str", "user", required=True),
        "password_key": Arg("secret", "key of the password"),
        "vhost": Arg("str", "virtual host", default="/"),
        "tls": Arg("bool", "use TLS, verified", default=False),
        "ca_file": Arg("str", "file of the authorities to trust instead of the system's"),
        "sni": Arg("str", "name to verify, default host"),
        "expect": Arg("str", "whether the login must work", default="connected", choices=("connected", "refused")),
        "version": Arg("str", "RabbitMQ's version, or its beginning such as 3"),
        "version_min": Arg("str", "oldest version allowed"),
        "queues": Arg("list", "queues that must exist (passive declare)", default=[], elements="str"),
        "exchanges": Arg("list", "exchanges that must exist (passive declare)", default=[], elements="str"),
        "round_trip": Arg("bool", "publish and consume a message on an exclusive auto-delete queue", default=True),
        "queue_prefix": Arg("str", "beginning of that queue's name, where permissions ask for one", default=""),
    },
    run,
)
