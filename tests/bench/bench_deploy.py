"""The phases on fresh sandbox hosts, and the same again with nothing to do: seconds by phase, from the runs' own reports.

    python tests/bench/bench_deploy.py [ROUNDS]     (3 no-op rounds; takes the sandbox away and makes it anew)

Exit status 1 if a deploy failed or a no-op changed anything but the lease.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "end_to_end"))

import harness


def table(run: harness.Run) -> str:
    """The phases of a run with their seconds."""
    return "  ".join(f"{phase['name']} {phase['seconds']:.1f}" for phase in run.report["phases"] if phase["seconds"] is not None)


def main(rounds: int = 3) -> int:
    """Prints the figures; the exit status."""
    harness.fresh_hosts()
    fresh = harness.ansible_playbook()
    if fresh.status:
        print(fresh.output[-2000:])
        return 1
    print(f"fresh hosts: {fresh.seconds:.1f} s   {table(fresh)}")
    again = [harness.ansible_playbook() for _ in range(rounds)]
    for run in again:
        changed = {host: count for host, count in run.changed().items() if count and host != "gateway1"}
        print(f"nothing to do: {run.seconds:.1f} s   {table(run)}")
        if run.status or changed:
            print(run.output[-2000:] if run.status else f"changed: {changed}")
            return 1
    median = statistics.median(run.seconds for run in again)
    print(f"medians: fresh {fresh.seconds:.1f} s (wanted: 360), nothing to do {median:.1f} s (wanted: 45)")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*map(int, sys.argv[1:])))
