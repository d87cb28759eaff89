"""A deploy of v0.2.0 over v0.1.0 on the sandbox under 200 requests/s through the gateway: what users lose, and how much longer they wait.

    python tests/bench/bench_upgrade.py [REF]     (v0.2.0; the sandbox must serve another version: make up)

Prints the figures of scripts/bench_upgrade. Exit status 1 if a request failed, nothing was switched, or the deploy failed.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INVENTORY = "inventories/sandbox"


def inventory() -> dict:
    """What the inventory says of the gateway's host, with its address. Ends the process if there is none."""
    listed = subprocess.run(["ansible-inventory", "-i", INVENTORY, "--list"], cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(listed.stdout)
    host = next(iter(found.get("gateway", {}).get("hosts", [])), None)
    if host is None:
        sys.exit(f"{INVENTORY} has no host in the group gateway")
    return found["_meta"]["hostvars"][host]


def live(address: str, name: str, port: int, path: str, field: str, ca: Path) -> str | None:
    """What the health page behind the gateway says in `field`; None if nobody answers."""
    try:
        context = ssl.create_default_context(cafile=ca)
        with socket.create_connection((address, port), 5) as plain, context.wrap_socket(plain, server_hostname=name) as secured:
            connection = http.client.HTTPConnection(name, port)
            connection.sock = secured
            connection.request("GET", path)
            return str(json.loads(connection.getresponse().read()).get(field))
    except (OSError, ValueError, http.client.HTTPException) as error:
        print(f"nobody answers at {address}:{port} as {name}: {error}", file=sys.stderr)
        return None


def main(ref: str = "v0.2.0") -> int:
    """Run the deploy under load; the exit status."""
    known = inventory()
    service, address = known["service"], known["ansible_host"]
    gateway, health = service["gateway"], service["health"]
    name, port = gateway["server_names"][0], int(gateway.get("https_port", 443))
    ca = ROOT / ".greenroom" / "ca" / service.get("environment", "staging") / "ca.crt"
    version = live(address, name, port, health.get("path", "/health"), health.get("version_field", "version"), ca)
    if version is None or version == ref.removeprefix("v"):
        sys.exit(f"the sandbox serves {version or 'nothing'}; this needs one that serves another version than {ref}: make down, make up")
    print(f"from {version} to {ref}, 200 requests/s over 40 connections", flush=True)
    command = [
        sys.executable, "scripts/bench_upgrade", "--url", f"https://{name}:{port}{health.get('path', '/health')}", "--connect", address,
        "--ca", str(ca), "--mark", health.get("release_field", "release"), "--expect-switch", "--before", "15", "--after", "15",
        "--limit", "1200", "--", "ansible-playbook", "deploy.yml", "-i", INVENTORY, "-e", f"run_ref={ref}",
    ]  # fmt: skip
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
