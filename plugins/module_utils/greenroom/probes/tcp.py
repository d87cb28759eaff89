"""TCP: a port answers, or must not answer (a firewall rule seen from a host that must not get in)."""

from __future__ import annotations

import errno
import socket

from .base import Arg, Context, Outcome, Probe, network_problem

_FILTERED = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM)


def run(args: dict, context: Context) -> Outcome:
    where = f"{args['host']}:{args['port']}"
    must_answer = args["expect"] == "open"
    wanted = f"{where} {'accepts connections' if must_answer else 'refuses or drops connections'}"
    if args["reference_port"]:
        # A host that is down refuses everybody: without this, a firewall check would pass on a dead host.
        try:
            socket.create_connection((args["host"], args["reference_port"]), context.remaining() / 2).close()
        except OSError as error:
            seen = f"{args['host']}:{args['reference_port']}: {network_problem(error, context.timeout_s)}"
            return Outcome(
                "no_evidence",
                wanted,
                seen,
                f"the host does not answer on port {args['reference_port']} either, so a closed port proves nothing",
            )
    try:
        limit = min(context.remaining(), args["connect_s"] or context.timeout_s)
        socket.create_connection((args["host"], args["port"]), limit).close()
        seen, closed = "accepts connections", False
    except socket.gaierror as error:
        seen = network_problem(error, context.timeout_s)
        return Outcome(False, wanted, seen, f"{where}: {seen}")
    except OSError as error:
        seen = network_problem(error, args["connect_s"] or context.timeout_s)
        closed = isinstance(error, (ConnectionRefusedError, socket.timeout, TimeoutError)) or error.errno in _FILTERED
        if not must_answer and not closed:
            return Outcome("no_evidence", wanted, seen, f"{where}: {seen}: neither open nor closed")
    ok = closed is not must_answer
    return Outcome(ok, wanted, seen, None if ok else f"{where}: {seen}")


PROBE = Probe(
    "tcp",
    "a TCP port accepts connections, or must not",
    {
        "host": Arg("str", "host name or address", required=True),
        "port": Arg("int", "port number", required=True),
        "expect": Arg("str", "what has to be seen", default="open", choices=("open", "refused_or_filtered")),
        "connect_s": Arg("float", "seconds after which a port counts as filtered, default timeout_s"),
        "reference_port": Arg("int", "port of the same host that must be open, so that a host that is down proves nothing"),
    },
    run,
)
