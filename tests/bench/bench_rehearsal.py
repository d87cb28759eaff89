"""What the rehearsal of a revision costs, on the reference service's history with the next version's revision.

    python tests/bench/bench_rehearsal.py [default|full]

Prints seconds a revision (clusters and control included) of three runs, and where a walk spends them. Exit status 1 if the median at
default depth is above 3 s a revision.
"""

from __future__ import annotations

import shutil
import statistics
import sys
from pathlib import Path

import ansible.module_utils

ROOT = Path(__file__).resolve().parents[2]
ansible.module_utils.__path__.append(str(ROOT / "plugins" / "module_utils"))
sys.path.insert(0, str(ROOT / "tests" / "integration"))
from rehearsal_project import make_venv, open_folder  # noqa: E402

LIMIT_S, RUNS = 3.0, 3


def main() -> int:
    """Run it."""
    from ansible.module_utils.greenroom.rehearsal import adapters, run
    from ansible.module_utils.greenroom.rehearsal.ground import Options

    depth = sys.argv[1] if len(sys.argv) > 1 else "default"
    figures, steps = [], {}
    with open_folder() as folder:
        release = folder / "release"
        shutil.copytree(ROOT / "examples" / "lark-service", release / "src")
        for file in (ROOT / "examples" / "lark-service-v0.2.0" / "migrations" / "versions").glob("*.py"):
            shutil.copy(file, release / "src" / "migrations" / "versions")
        (release / "venv").symlink_to(make_venv(folder / "venv"))
        options = Options(extensions=("pgcrypto",), depth=depth, rows={"messages": 1_000_000})
        for number in range(RUNS + 1):
            found = run.rehearse(adapters.AlembicAdapter(str(release)), folder / "s", options)
            if number:  # the first one compiles what it imports
                figures.append(found["seconds"] / len(found["revisions"]))
            for one in found["revisions"]:
                for step in one["steps"]:
                    steps.setdefault(f"{step['step']} {step['name']}", []).append(step["seconds"])
    print(f"{depth}: {len(found['revisions'])} revisions, {len(found['control']['walked'])} of the control; seconds a revision: "
          f"median {statistics.median(figures):.2f} of {', '.join(f'{one:.2f}' for one in figures)}")  # fmt: skip
    for name, seconds in steps.items():
        print(f"  step {name:34} median {statistics.median(seconds):6.3f} s")
    return int(depth == "default" and statistics.median(figures) > LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
