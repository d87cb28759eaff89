"""The firewall's own nftables table: compare what is loaded with what a file asks for, load it, go back by itself.

What the file asks for is found out by loading it in an empty network namespace and listing it there, so that the kernel's own words are
compared with each other: no baseline that somebody could forget to renew. Standard library only; needs root, nft and unshare (util-linux).
Source of the rule: runbook 001 §1.1 and §9.2 (only the necessary ports).
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

from .durable import write_atomic
from .records import measured

FAMILY, TABLE = "inet", "greenroom"
UNIT = "greenroom-firewall.service"
REVERT_UNIT = "greenroom-firewall-revert"


class FirewallError(RuntimeError):
    """nft or systemd refused; the message carries their own words."""


def _run(argv: list[str], **options) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30, **options)
    except FileNotFoundError:
        raise FirewallError(f"{argv[0]} is not installed: apt-get install nftables util-linux") from None
    if done.returncode:
        raise FirewallError(f"{' '.join(argv[:4])}: {done.stderr.strip() or done.stdout.strip() or f'exit status {done.returncode}'}")
    return done.stdout


def plain(listing: str) -> list:
    """The rules of an nft JSON listing without what changes by itself: counters, handles, the tool's own version."""

    def strip(value):
        if isinstance(value, dict):
            return {key: strip(inner) for key, inner in value.items() if key not in ("handle", "packets", "bytes")}
        return [strip(inner) for inner in value] if isinstance(value, list) else value

    return [strip(item) for item in json.loads(listing)["nftables"] if "metainfo" not in item]


def loaded() -> list | None:
    """The loaded table as `plain` gives it, None if it is not loaded."""
    tables = json.loads(_run(["nft", "-j", "list", "tables"]))["nftables"]
    if not any(item.get("table", {}).get("name") == TABLE and item["table"]["family"] == FAMILY for item in tables):
        return None
    return plain(_run(["nft", "-j", "list", "table", FAMILY, TABLE]))


def wanted(path: str | Path) -> list:
    """What the file at `path` makes of an empty host, as `plain` gives it. Raises FirewallError where nft refuses the file."""
    script = 'nft -f "$1" && nft -j list table "$2" "$3"'
    return plain(_run(["unshare", "--net", "sh", "-c", script, "sh", str(path), FAMILY, TABLE]))


def wanted_text(path: Path, text: str) -> list:
    """As `wanted`, for a text that is meant to become the file `path`, which nft's words name."""
    with tempfile.NamedTemporaryFile("w", suffix=".nft") as file:
        file.write(text)
        file.flush()
        try:
            return wanted(file.name)
        except FirewallError as error:
            raise FirewallError(str(error).replace(file.name, str(path))) from None


def as_text(rules: list | None) -> str:
    """One rule a line, for a hash or a comparison by eye; empty for no table."""
    return "".join(json.dumps(item, sort_keys=True) + "\n" for item in rules or [])


def _same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


def candidate_of(path: Path) -> Path:
    """File of a change that is loaded but not confirmed yet; a reboot loads `path`, the last state that was proved."""
    return path.with_name(f"{path.name}.candidate")


def load(path: Path, text: str, revert_after_s: int) -> None:
    """Load `text`; it becomes the file `path` by `confirm`, and is taken back after `revert_after_s` seconds without.

    The timer runs on the host, so the way back needs no connection. A second `load` before that starts the time anew.
    Raises FirewallError before anything has changed if nft refuses the text.
    """
    wanted_text(path, text)
    candidate = candidate_of(path)
    stop_timer()
    write_atomic(candidate, text.encode(), 0o600)
    back = f'if [ -e "{path}" ]; then nft -f "{path}"; else nft delete table {FAMILY} {TABLE}; fi; rm -f "{candidate}"'
    timer = [f"--unit={REVERT_UNIT}", f"--on-active={revert_after_s}", "--timer-property=AccuracySec=1s"]
    _run(["systemd-run", "--quiet", "--collect", *timer, "/bin/sh", "-c", back])
    _run(["nft", "-f", str(candidate)])


def pending() -> bool:
    """Whether a timer waits to take the table back."""
    return subprocess.run(["systemctl", "is-active", "--quiet", f"{REVERT_UNIT}.timer"], check=False).returncode == 0


def stop_timer() -> bool:
    """Cancel the way back; False if none was set."""
    if not pending():
        return False
    _run(["systemctl", "stop", f"{REVERT_UNIT}.timer"])
    return True


def confirm(path: Path) -> bool:
    """The connection is proved: the change becomes the file. False if it has been taken back already."""
    if not stop_timer():
        return False
    try:
        candidate_of(path).replace(path)
    except FileNotFoundError:
        return False
    return True


def measure(path: Path, text: str) -> dict:
    """Evidence `prep.network.firewall`: the loaded table is the wanted one, drops what no rule allows, and is loaded at boot."""
    with measured("prep.network.firewall", expected="the wanted table is loaded, drops by default, and is loaded at boot") as check:
        asked = wanted_text(path, text)
        found = loaded() or []
        chains = [item["chain"] for item in found if "chain" in item]
        drops = any(chain.get("hook") == "input" and chain.get("policy") == "drop" for chain in chains)
        enabled = subprocess.run(["systemctl", "is-enabled", "--quiet", UNIT], check=False).returncode == 0
        rules = sum("rule" in item for item in found)
        problems = [
            *(["the table is not loaded"] if not found else []),
            *(["the loaded rules are not the wanted ones"] if found and as_text(found) != as_text(asked) else []),
            *(["what no rule allows is let in"] if found and not drops else []),
            *(
                [f"{path} is not the wanted file, so the next boot loads another table"]
                if not path.exists() or path.read_text() != text
                else []
            ),
            *([f"{UNIT} is not enabled, so no table is loaded at boot"] if not enabled else []),
            *(["a change waits to be confirmed or taken back"] if pending() else []),
        ]
        check.detail = {"rules": rules, "counters": counters()}
        check.judge(not problems, f"{rules} rules loaded" if found else "no table", "; ".join(problems) or None)
    return check.record


def counters() -> dict:
    """Packets counted so far by the rules that carry a comment and a counter, by comment, e.g. {"dropped": 12}."""
    if loaded() is None:
        return {}
    items = json.loads(_run(["nft", "-j", "list", "table", FAMILY, TABLE]))["nftables"]
    found = {}
    for rule in (item["rule"] for item in items if "rule" in item):
        counted = [part["counter"]["packets"] for part in rule["expr"] if isinstance(part.get("counter"), dict)]
        if counted and rule.get("comment"):
            found[rule["comment"]] = counted[0]
    return found
