"""`python -m greenroom.backup COMMAND --config FILE`: for timers, playbooks and people. Prints one JSON object; status 0 is good."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from ..durable import DurableError
from . import configuration, dump, manifest, signature, store, verify
from .errors import BackupError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command: its exit status. Errors stand on stderr as one line, and in the JSON as `error`."""
    parser = argparse.ArgumentParser(prog="greenroom.backup", description="Logical backups of a service's database.")
    parser.add_argument(
        "command", choices=sorted(_COMMANDS), help="; ".join(f"{name}: {one.__doc__}" for name, one in sorted(_COMMANDS.items()))
    )
    parser.add_argument("--config", required=True, help="the host's backup.json")
    parser.add_argument("--id", help="a backup; without it the newest")
    parser.add_argument("--max-age", type=float, default=verify.MAX_AGE_S, help="seconds; verify: an older newest backup is red")
    arguments = parser.parse_args(argv)
    try:
        result, good = _COMMANDS[arguments.command](configuration.load(arguments.config), arguments)
    except (BackupError, DurableError, OSError) as error:
        result, good = {**getattr(error, "result", {}), "error": str(error)}, False
        print(f"greenroom.backup {arguments.command}: {error}", file=sys.stderr)
    print(json.dumps(result, ensure_ascii=False, default=str))
    return 0 if good else 1


def _dump(config, _arguments):
    """take a backup"""
    return dump.run_dump(config), True


def _verify(config, arguments):
    """prove a backup by restoring it"""
    result = verify.verify(config, backup_id=arguments.id, max_age_s=arguments.max_age)
    return result, result["verdict"] == verify.VERIFIED


def _list(config, _arguments):
    """what lies where"""
    found, good = {}, True
    for place in map(store.make, config["places"]):
        try:
            documents = [manifest.parse(place.read(f"{one}/{manifest.MANIFEST}")) for one in manifest.ids(place.keys())]
            found[place.name] = [
                {"id": one["id"], "snapshot_time": one["snapshot_time"], "bytes": one["parts"][0]["size"]} for one in documents
            ]
        except (BackupError, OSError) as error:
            found[place.name], good = {"error": str(error)}, False
    return {"places": found, "proved": dump.proved(config)}, good


def _check(config, arguments):
    """read a backup back from every place, without opening it"""
    found = {}
    for place in map(store.make, config["places"]):
        try:
            trust = _trust(config) if config.get("signature.allowed_signers_file") else lambda content, signed: None
            document, bad = manifest.select(place, trust, arguments.id)
            part = document["parts"][0]
            same = place.measure(f"{document['id']}/{part['name']}") == {"size": part["size"], "sha256": part["sha256"]}
            reason = "; ".join(bad) or (None if same else f"{place.name}: {document['id']} is cut or damaged")
            found[place.name] = {"ok": not reason, "id": document["id"], "bytes": part["size"], "reason": reason}
        except (BackupError, OSError) as error:
            found[place.name] = {"ok": False, "id": None, "bytes": None, "reason": str(error)}
    return {"places": found}, all(one["ok"] for one in found.values())


def _trust(config):
    def trust(content: bytes, signed: bytes) -> None:
        allowed, signer = config["signature.allowed_signers_file"], config["signature.signer"]
        signature.verify(content, signed, allowed_signers_file=allowed, signer=signer, namespace=config["signature.namespace"])

    return trust


def _mark_proved(config, arguments):
    """remember that a restore proved a backup (--id), so that retention keeps it"""
    if not arguments.id:
        raise BackupError("mark-proved needs --id")
    dump.mark_proved(config, arguments.id)
    return {"proved": dump.proved(config)}, True


def _prune(config, _arguments):
    """apply the retention"""
    return {"retention": dump.prune(config, [store.make(place) for place in config["places"]])}, True


_COMMANDS = {"dump": _dump, "verify": _verify, "list": _list, "check": _check, "mark-proved": _mark_proved, "prune": _prune}
