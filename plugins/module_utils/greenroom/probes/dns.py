"""DNS: a name resolves on this host, by the way its programs resolve names."""

from __future__ import annotations

import socket

from .base import Arg, Context, Outcome, Probe, network_problem


def run(args: dict, context: Context) -> Outcome:
    wanted = f"{args['name_to_resolve']} resolves" + (f" to {', '.join(sorted(args['addresses']))}" if args["addresses"] else "")
    try:
        answers = socket.getaddrinfo(args["name_to_resolve"], None, type=socket.SOCK_STREAM)
    except OSError as error:
        seen = network_problem(error, context.timeout_s)
        return Outcome(False, wanted, seen, f"{args['name_to_resolve']}: {seen}; look at /etc/resolv.conf and /etc/hosts of this host")
    found = sorted({answer[4][0] for answer in answers})
    ok = not args["addresses"] or set(found) == set(args["addresses"])
    return Outcome(
        ok, wanted, ", ".join(found), None if ok else f"{args['name_to_resolve']} resolves to {', '.join(found)}", {"addresses": found}
    )


PROBE = Probe(
    "dns",
    "a name resolves on this host",
    {
        "name_to_resolve": Arg("str", "the name", required=True),
        "addresses": Arg("list", "exactly these addresses are wanted", elements="str"),
    },
    run,
)
