"""How long from a dead service to a rollback that is verified, with the contract's own numbers; and how often a healthy week goes back.

Real nginx, two hosts' services as processes on loopback, the guard as systemd starts it (tests/integration/guard_site.py). Each run kills
the live slot's processes at a random moment between two looks. Usage: python tests/bench/bench_guard.py [runs, default 3]
"""

import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import conftest  # noqa: F401 - makes the library importable

ROOT = Path(__file__).resolve().parents[2]


def contract_limits() -> dict:
    """The section `guard` of a contract that says nothing about it."""
    from ansible.module_utils.greenroom.contract import load_schema, normalized

    return normalized({}, load_schema(ROOT / "schemas" / "service.json"))["guard"]


def one_run(folder: Path, authority: object, nginx: str, limits: dict) -> dict:
    """Kill the live slot on both hosts: {moved_s, verified_s, told_s}, seconds since."""
    from guard_site import HOSTS, Site, await_

    site = Site(folder, authority, nginx)
    try:
        site.start()
        site.start_guard(**limits)
        site.more_looks(2)
        time.sleep(random.uniform(0, limits["interval_s"]))
        began = time.monotonic()
        for host in HOSTS:
            site.kill((host, "green"))
        await_(lambda: site.users_on() == "blue", "users are on the release before", 120)
        moved = time.monotonic() - began
        await_(lambda: (site.memory()["kept"]["rollback"] or {}).get("state") == "verified", "it is verified", 120)
        verified = time.monotonic() - began
        await_(lambda: site.told("rolled_back"), "it is told", 120)
        assert site.ask("/")[0] == 200
        return {"moved_s": moved, "verified_s": verified, "told_s": time.monotonic() - began}
    finally:
        site.close()


def main() -> None:
    """Measure and print; fails above the limit of 60 s."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("integration_conftest", ROOT / "tests" / "integration" / "conftest.py")
    servers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(servers)
    from test_guard_rules import healthy_week

    limits = contract_limits()
    runs = []
    with tempfile.TemporaryDirectory() as keys:
        authority = servers.Authority(Path(keys))
        for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 3):
            runs.append(one_run(servers.server_folder(None, "guard"), authority, servers.program("nginx", "/usr/sbin/nginx"), limits))
            print(json.dumps({key: round(value, 1) for key, value in runs[-1].items()}), flush=True)
    for key, words in (("moved_s", "users on the release before"), ("verified_s", "verified"), ("told_s", "told")):
        values = [run[key] for run in runs]
        print(
            f"dead service to {words}: median {statistics.median(values):.1f} s, worst {max(values):.1f} s, {limits['interval_s']} s a look"
        )
    bad, looks, ill, failed = healthy_week(seed=random.randrange(1 << 30))
    print(f"a healthy week: {bad} rollbacks in {looks} looks, {ill} of them with a failed health check, {failed} failed requests")
    if bad or max(run["verified_s"] for run in runs) > 60:
        sys.exit("above the limit: 60 s, 0 rollbacks")


if __name__ == "__main__":
    main()
