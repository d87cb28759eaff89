"""The tool `greenroom` on the gateway: what is live, and the one switch, when the control node is away.

Does what the module `release` does, with the same code. Standard library only; runs on the system's Python as
`/usr/bin/python3 -m greenroom.cli` with /opt/greenroom/lib on its path.

Exit status: 0 done, 2 not done and everything as before, 3 refused before any change, 4 a person is needed, 75 the lease is held.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
import sys
import uuid
from pathlib import Path

from .durable import DurableError
from .guard_probe import look_at_slots
from .guard_rules import not_ready
from .lease import LeaseError, LeaseHeld, describe
from .maintenance import add_arguments as maintenance_arguments
from .maintenance import command as maintenance
from .overview import overview
from .releases import Releases
from .rollback import flip_back
from .state import StateError, idle_slot, utc
from .switch import SLOTS, SwitchError, other

EXIT_REFUSED, EXIT_PERSON, EXIT_HELD = 3, 4, 75
PROBE_TIMEOUT_S = 3


class Refused(Exception):
    """The command line asks for something that cannot be done; nothing was touched."""


def _services(root: Path) -> list[str]:
    home = root / "var/lib/greenroom"
    return sorted(entry.name for entry in home.iterdir() if entry.is_dir()) if home.is_dir() else []


def open_releases(root: Path, service: str | None) -> Releases:
    """The `Releases` of `service`, or of the only one on this gateway. Raises Refused."""
    known = _services(root)
    if service is None:
        if len(known) != 1:
            found = f"several services on this gateway ({', '.join(known)})" if known else f"no service in {root / 'var/lib/greenroom'}"
            raise Refused(f"{found}; name one with --service")
        service = known[0]
    elif service not in known:
        raise Refused(f"no service {service!r} on this gateway; known: {', '.join(known) or 'none'}")
    return Releases(root / "var/lib/greenroom" / service, service, root / "etc/greenroom" / service / "switch")


def _who() -> str:
    return f"{os.environ.get('SUDO_USER') or getpass.getuser()}@{os.uname().nodename}"


def _release(about: dict | None) -> str:
    return f"{about['number']}-{about['version']}" if about else "none"


def status(releases: Releases, args: argparse.Namespace) -> int:
    """Print what is live, previous, good, bad, in progress, and who holds the lease. 4 when something needs a person."""
    state = releases.read()
    view = {
        **overview(releases, state),
        "service": releases.service,
        "slots": {
            slot: f"{number}-{state['releases'].get(str(number), {}).get('version')}" if number else None
            for slot, number in state["slots"].items()
        },
        "bad": state["bad"],
        "counter": state["counter"],
    }
    lease, problems = view["lease"], view["problems"]
    if args.json:
        print(json.dumps(view, indent=1, sort_keys=True, ensure_ascii=False))
        return EXIT_PERSON if problems else 0
    live = state["live"]
    print(f"service          {releases.service}")
    print(f"users are on     {view['users_on'] or 'the maintenance page'}")
    print(
        f"live             {_release(live)}"
        + (f" in {live['slot']}, since {live['at']}{'' if live['confirmed'] else ', not confirmed yet'}" if live else "")
    )
    print(f"previous         {_release(state['previous'])}")
    print(f"last known good  {_release(state['last_known_good'])}")
    for slot in SLOTS:
        print(f"slot {slot:<11} {view['slots'][slot] or 'none'}{'  (idle)' if slot == idle_slot(state) else ''}")
    if state["bad"]:
        print(f"bad              {', '.join(_release(one) for one in state['bad'])}")
    job = state["in_progress"]
    if job:
        print(f"in progress      {_release(job)} in {job['slot']}, step {job['step']}, run {job['run_id']}")
    print(
        "lease            "
        f"{'none' if lease is None else describe(lease) + ('' if lease['alive'] else ' - it is dead') + ', token ' + lease['token']}"
    )
    for problem in problems:
        print(f"PROBLEM          {problem}")
    return EXIT_PERSON if problems else 0


def switch(releases: Releases, args: argparse.Namespace) -> int:
    """Move users to a slot under a lease of this command's own, or under a run's whose fencing number is given."""
    slot = None if args.slot == "none" else args.slot
    run_id = f"manual-{utc().replace(':', '').replace('-', '')}-{uuid.uuid4().hex[:4]}"
    with contextlib.ExitStack() as stack:
        fencing = args.fencing
        if fencing is None:
            fencing = stack.enter_context(releases.lease.held(owner=_who(), run_id=run_id, step=f"switch {args.slot}"))["fencing"]
        stack.enter_context(releases.lease.lock())
        run_id = releases.lease.require(fencing)["run_id"]
        state, changed = releases.switch_to(
            slot, run_id=run_id, reason=args.reason, fencing=fencing, approved_by=args.approved_by, accept_bad=args.accept_bad
        )
    where = f"{slot}: {_release(state['live'])}" if slot else "the maintenance page"
    print(f"users are on {where}" + ("" if changed else " (they were already)"))
    return 0


def rollback(releases: Releases, args: argparse.Namespace) -> int:
    """Take users back to the release before, if its slot is ready and the schema fits. 4 when the control node is needed."""
    path = releases.switch.directory.parent / "guard.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        hosts, ports, page = config["hosts"], config["ports"], config["health"]
    except (OSError, ValueError, KeyError) as error:
        raise Refused(
            f"{path}: cannot be read ({error}), so nobody knows whether the slot is ready. To move users unseen: greenroom switch SLOT"
        ) from error

    def warm(slot: str, release: str) -> str | None:
        looks = look_at_slots(hosts, ports, page, PROBE_TIMEOUT_S)
        return not_ready(looks[slot], looks[other(slot)], release if page["release_field"] else None)

    done = flip_back(releases, why=args.reason, who=_who(), warm=warm, to=args.to, approved_by=args.approved_by)
    print(f"users are on {done['slot']}: {done['to']}; {done['from'] or 'nothing'} is marked bad")
    return 0


def history(releases: Releases, args: argparse.Namespace) -> int:
    """Print the newest ledger entries after checking the whole chain."""
    entries = releases.history(args.n)
    if args.json:
        print(json.dumps(entries, indent=1, sort_keys=True, ensure_ascii=False))
        return 0
    for entry in entries:
        move = f" {entry.get('from') or 'closed'} -> {entry.get('to') or 'closed'}" if "from" in entry else ""
        print(
            f"{entry['seq']:>5}  {entry['at']}  {entry['action']:<14} {entry.get('release') or '-'}{move}  {entry.get('result') or ''}  "
            f"by {entry['who'] or '-'}{'  why: ' + entry['why'] if entry.get('why') else ''}"
        )
    if not entries:
        print("no entries yet")
    return 0


def unlock(releases: Releases, args: argparse.Namespace) -> int:
    """Take the lease away from a run that is dead. Its fencing number is refused from then on."""
    with releases.lease.lock():
        held = releases.lease.read()
        if held is None:
            print("nobody holds the lease")
            return 0
        try:
            releases.lease.unlock(args.token, force=args.force)
        except LeaseHeld as error:
            raise Refused(str(error)) from error
        releases.note(
            "unlocked", {"owner": _who(), "fencing": held["fencing"]}, run_id=held["run_id"], why=args.reason,
            result=f"lease of {held['owner']} removed{' by force' if args.force else ''}",
        )  # fmt: skip
    print(f"removed the lease of {describe(held)}")
    return 0


def _reason(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("a reason is needed; it goes into the ledger")
    return text.strip()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="greenroom", description="What is live on this gateway, and the one switch.")
    top.add_argument("--service", help="needed only where the gateway serves several")
    top.add_argument("--root", type=Path, default=Path("/"), help=argparse.SUPPRESS)  # for tests
    commands = top.add_subparsers(dest="command", required=True)

    one = commands.add_parser("status", help="what is live, previous, in progress, and who holds the lease")
    one.add_argument("--json", action="store_true")
    one.set_defaults(run=status)

    one = commands.add_parser("switch", help="move users to a slot now, with one rename")
    one.add_argument("slot", choices=[*SLOTS, "none"], help="none shows the maintenance page")
    one.add_argument("--reason", required=True, type=_reason)
    one.add_argument("--approved-by")
    one.add_argument("--fencing", type=int, help="act under the lease of a run that is waiting for you")
    one.add_argument("--accept-bad", action="store_true", help="serve a release that was found bad")
    one.set_defaults(run=switch)

    one = commands.add_parser("rollback", help="back to the release before, if it is warm and fits the schema")
    one.add_argument("--reason", required=True, type=_reason)
    one.add_argument("--to", help="number or version of another release")
    one.add_argument("--approved-by")
    one.set_defaults(run=rollback)

    one = commands.add_parser("history", help="the ledger: who changed what, when, why, with what result")
    one.add_argument("-n", type=int, default=20, help="how many entries (default 20)")
    one.add_argument("--json", action="store_true")
    one.set_defaults(run=history)

    one = commands.add_parser("unlock", help="take the lease away from a run that is dead")
    how = one.add_mutually_exclusive_group(required=True)
    how.add_argument("--token", help="as `greenroom status` shows it")
    how.add_argument("--force", action="store_true", help="whoever holds it; stands in the ledger with the reason")
    one.add_argument("--reason", required=True, type=_reason)
    one.set_defaults(run=unlock)

    one = commands.add_parser("maintenance", help="the maintenance page, with an end: on, off, status")
    maintenance_arguments(one)
    one.set_defaults(run=lambda releases, args: maintenance(releases, args, _who()))
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one command; its exit status."""
    try:
        args = parser().parse_args(argv)
    except SystemExit as error:
        return EXIT_REFUSED if error.code == 2 else error.code  # argparse says 2; here 2 means that a change failed
    try:
        releases = open_releases(args.root, args.service)
        return args.run(releases, args)
    except LeaseHeld as error:
        print(f"greenroom: {error}", file=sys.stderr)
        return EXIT_HELD
    except (StateError, SwitchError) as error:
        print(f"greenroom: {error}", file=sys.stderr)
        return getattr(error, "exit_status", EXIT_PERSON)
    except (Refused, LeaseError, DurableError) as error:
        print(f"greenroom: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except PermissionError as error:
        print(f"greenroom: {error.filename}: {error.strerror}; run it with sudo", file=sys.stderr)
        return EXIT_REFUSED
    except OSError as error:
        print(f"greenroom: {error.filename or releases.directory}: {error.strerror}", file=sys.stderr)
        return EXIT_PERSON


if __name__ == "__main__":
    sys.exit(main())
