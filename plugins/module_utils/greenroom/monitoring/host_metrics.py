"""What a host tells beside its exporters, as a page for node exporter's textfile collector.

`python3 -m greenroom.monitoring.host_metrics --config FILE`, from a timer, on every host: when its certificates end, how many bytes of
logs wait for the log server; on the gateway also which slot is live and when users were last switched, and taken back. Standard library
only. Ages are told as the time of what they are the age of.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from ..durable import write_atomic
from ..state import StateError, read_state
from ..switch import SLOTS

# {name: (help, labels)}
METRICS = {
    "host_last_look_timestamp_seconds": ("When this page was written.", ()),
    "certificate_not_after_timestamp_seconds": ("When the certificate ends; 0: it cannot be read.", ("path",)),
    "log_spool_bytes": ("Logs that wait for the log server.", ()),
    "slot_live": ("1 for the slot that users are on.", ("slot",)),
    "release_info": ("Always 1; the labels say what is live.", ("release", "version")),
    "last_switch_timestamp_seconds": ("When users were last switched, forward or back; 0: never.", ()),
    "last_rollback_timestamp_seconds": ("When users were last taken back; absent: never.", ()),
}


def certificate_end(path: str) -> float:
    """When a certificate ends, seconds since 1970; 0.0 if there is none or it cannot be read: that must raise the alert, not hide it."""
    done = subprocess.run(["openssl", "x509", "-noout", "-enddate", "-in", path], capture_output=True, text=True, check=False)
    try:
        end = datetime.datetime.strptime(done.stdout.strip().partition("=")[2], "%b %d %H:%M:%S %Y %Z")
    except ValueError:
        return 0.0
    return end.replace(tzinfo=datetime.UTC).timestamp()


def spool_bytes(folder: str) -> float:
    """Bytes of the sender's spool files (not its small notes of where it was)."""
    return float(sum(file.stat().st_size for file in Path(folder).glob("greenroom*") if file.is_file() and file.suffix != ".qi"))


def _when(text: str) -> float:
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def release_values(folder: str, service: str) -> dict[str, dict[tuple, float]]:
    """{name: {labels' values: value}} of the gateway's state and ledger in `folder`; nothing before the first deploy.

    A state that cannot be trusted gives nothing, too: `greenroom status` says what is wrong with it.
    """
    try:
        state = read_state(Path(folder) / "state.json", service)
    except StateError:
        return {}
    if state is None:
        return {}
    live = state["live"]
    found: dict[str, dict[tuple, float]] = {"slot_live": {(slot,): float(bool(live) and live["slot"] == slot) for slot in SLOTS}}
    if live:
        found["release_info"] = {(f"{live['number']}-{live['version']}", live["version"]): 1.0}
    moments, number = {"last_switch_timestamp_seconds": 0.0}, 0
    ledger = Path(folder) / "ledger.jsonl"
    for line in ledger.read_text(encoding="utf-8").splitlines() if ledger.exists() else []:
        try:
            entry = json.loads(line)
            if entry["action"] != "switched" or not entry["release"]:
                continue
            to, when = int(entry["release"].partition("-")[0]), _when(entry["at"])
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # a last line that a crash cut; the tool judges the chain
        moments["last_switch_timestamp_seconds"] = when
        if to < number:  # whoever did it: a run, the guard, a person with the tool
            moments["last_rollback_timestamp_seconds"] = when
        number = to
    return found | {name: {(): when} for name, when in moments.items()}


def page(config: Mapping, now: float) -> str:
    """The page in Prometheus' text format. config: {certificates: [paths], spool, service, state: folder or null, page}."""
    values: dict[str, dict[tuple, float]] = {
        "host_last_look_timestamp_seconds": {(): now},
        "certificate_not_after_timestamp_seconds": {(path,): certificate_end(path) for path in config["certificates"]},
        "log_spool_bytes": {(): spool_bytes(config["spool"])},
    }
    if config["state"]:
        values |= release_values(config["state"], config["service"])
    lines = []
    for name, found in values.items():
        text, labels = METRICS[name]
        lines += [f"# HELP greenroom_{name} {text}", f"# TYPE greenroom_{name} gauge"]
        for given, value in found.items():
            inside = ",".join(f"{label}={json.dumps(one)}" for label, one in zip(labels, given, strict=True))
            lines.append(f"greenroom_{name}{'{' + inside + '}' if inside else ''} {value!r}")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Write the page; readers see the old one or the new one, never a part."""
    parser = argparse.ArgumentParser(prog="greenroom.monitoring.host_metrics", description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True)
    config = json.loads(Path(parser.parse_args(argv).config).read_text(encoding="utf-8"))
    write_atomic(config["page"], page(config, time.time()).encode(), 0o644)
    return 0


if __name__ == "__main__":
    sys.exit(main())
