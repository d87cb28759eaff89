"""Drives the sandbox as a person does: ansible-playbook in a process of its own, judged by its exit status, its terminal and its report."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INVENTORY = ROOT / "inventories" / "sandbox"
HOSTS = ("gateway1", "app1", "app2", "data", "monitor")


@dataclass
class Run:
    """One finished ansible-playbook: exit status, everything it printed, seconds, and its report (None when it wrote none)."""

    status: int
    output: str
    seconds: float
    report: dict | None = field(repr=False)

    def changed(self) -> dict[str, int]:
        """Changed tasks by host, from the recap."""
        counts = {}
        for line in self.output.splitlines():
            name, separator, rest = line.partition(" : ")
            if separator and "changed=" in rest:
                counts[name.split()[-1]] = int(rest.split("changed=")[1].split()[0])
        return counts

    def evidence(self, identifier: str) -> list[dict]:
        """The records of one catalogue id."""
        assert self.report is not None, f"no report was written; the run printed:\n{self.output[-3000:]}"
        return [entry for entry in self.report["evidence"] if entry["id"] == identifier]


def _reports() -> set[Path]:
    folder = ROOT / "reports"
    return {path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()} if folder.is_dir() else set()


def ansible_playbook(*arguments: str, playbook: str = "deploy.yml", inventory: Path = INVENTORY, limit_s: int = 900) -> Run:
    """Runs a playbook to its end. Raises subprocess.TimeoutExpired after limit_s seconds."""
    before, started = _reports(), time.monotonic()
    done = subprocess.run(
        ["ansible-playbook", playbook, "-i", str(inventory), *arguments],
        cwd=ROOT, env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=limit_s, check=False,
    )
    fresh = sorted(_reports() - before)
    document = fresh[-1] / "report.json" if fresh else None
    report = json.loads(document.read_text()) if document and document.is_file() else None
    return Run(done.returncode, done.stdout, time.monotonic() - started, report)


def on_host(host: str, script: str, *, check: bool = True, limit_s: int = 60) -> str:
    """Runs a shell script as root on a sandbox host through the engine; returns what it printed.

    Raises AssertionError with the output when it fails and check is set.
    """
    done = subprocess.run(
        ["docker", "exec", "-i", f"greenroom-{host}", "sh", "-ec", script],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=limit_s, check=False,
    )
    assert not check or done.returncode == 0, f"on {host}: exit {done.returncode}\n{done.stdout}"
    return done.stdout


def fresh_hosts() -> None:
    """Takes the sandbox away and makes it anew: five hosts as a fresh installation has them."""
    for state in ("absent", "present"):
        done = ansible_playbook("-e", f"sandbox_state={state}", playbook="playbooks/sandbox.yml")
        assert done.status == 0, done.output[-3000:]


def secrets() -> Iterator[str]:
    """Every generated secret's value of the sandbox."""
    import yaml

    def leaves(node: object) -> Iterator[str]:
        if isinstance(node, dict):
            for value in node.values():
                yield from leaves(value)
        elif isinstance(node, str):
            yield node

    yield from leaves(yaml.safe_load((INVENTORY / "group_vars" / "all" / "secrets.yml").read_text()))
