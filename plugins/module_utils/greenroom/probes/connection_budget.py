"""Connection budget: what all processes of both slots may open fits the server's and the role's limits (001 §1.2 L27).

slots x hosts x processes x pool + reserve <= the smaller limit: two releases run side by side around a switch.
"""

from __future__ import annotations

from .base import Arg, Context, Outcome, Probe


def run(args: dict, context: Context) -> Outcome:
    pool = args["slots"] * args["hosts"] * args["processes"] * args["pool"]
    need = pool + args["reserve"]
    server = args["max_connections"] - args["superuser_reserved"]
    limits = {"the server's limit": server, **({"the role's limit": args["role_limit"]} if args["role_limit"] not in (None, -1) else {})}
    # The role's limit binds the service's own connections only; the reserve (migration, exporters, people) comes by other roles.
    needs = {"the server's limit": need, "the role's limit": pool}
    wanted = ", ".join(f"≤ {limit} ({name})" for name, limit in limits.items())
    formula = f"{args['slots']} slots x {args['hosts']} hosts x {args['processes']} processes x pool {args['pool']}"
    seen = f"{formula} = {pool}, with {args['reserve']} in reserve {need}"
    problems = [f"{needs[name]} connections may be opened, {name} is {limit}" for name, limit in limits.items() if needs[name] > limit]
    advice = "; lower pool_max or the number of processes, or raise the limit"
    return Outcome(not problems, wanted, seen, "; ".join(problems) + advice if problems else None, {"pool": pool, "need": need})


PROBE = Probe(
    "connection_budget",
    "the connections that all processes of both slots may open fit the database's limits",
    {
        "slots": Arg("int", "releases side by side", default=2),
        "hosts": Arg("int", "application hosts", required=True),
        "processes": Arg("int", "processes a slot and host that hold a pool", required=True),
        "pool": Arg("int", "connections a process", required=True),
        "reserve": Arg("int", "for migration, exporters and people", default=10),
        "max_connections": Arg("int", "the server's max_connections", required=True),
        "superuser_reserved": Arg("int", "the server's superuser_reserved_connections, where reserve does not count them", default=0),
        "role_limit": Arg("int", "the role's CONNECTION LIMIT, -1 for none"),
    },
    run,
)
