"""How much load the reference service bears on this machine, generators included: through the TLS gateway, without it, a bare nginx reply.

    python tests/bench/bench_load.py [SECONDS]     (20; needs root, for generators in the gateway's network)

Deploys to the sandbox where nothing is deployed. The gateway's limit for one client is lifted while it measures, and restored.
Percentiles of locust are those of raw samples, as in the phase load. wrk is Debian's package; without it its rows are left out.
Exit status 1 if a wanted figure is missed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "plugins" / "module_utils"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "end_to_end"))
import harness

from greenroom import load_run, load_samples

ROOT = Path(__file__).resolve().parents[2]
WANTED = {"locust": 1500, "wrk": 2500}  # requests a second through the gateway
WANTED_P95_MS = 150
USERS, WARM_UP_S = 100, 5
APP, USER = "cli_sandbox0000000001", "ou_load00001"
LUA = 'done = function(s, l, r) io.write(string.format("P95 %.1f bad %d\\n", l:percentile(95) / 1000, s.errors.status)) end\n'
NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log stderr;
events {{ worker_connections 1024; }}
http {{ access_log off; keepalive_requests 1000000; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b;
  fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{ listen 127.0.0.1:{port}; default_type application/json; return 200 '{{"ok": true}}'; }} }}
"""


def locust(url: str, key: str, seconds: int, folder: Path, inside: list[str]) -> tuple[float, float]:
    """(good answers a second, P95 in milliseconds) by the service's own locust file, without pace."""
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    (run / "out").mkdir(parents=True)
    profile = {"file": "locustfile.py", "users": USERS, "spawn_rate": USERS, "warm_up_s": WARM_UP_S, "duration_s": seconds,
               "think_time_s": 0, "pace_rps": None, "processes": 2, "request_timeout_s": 10}  # fmt: skip
    tree = folder / "tree"
    if not tree.exists():
        (tree / "venv").mkdir(parents=True)
        (tree / "venv/bin").symlink_to(Path(sys.executable).parent)
        (tree / "src").symlink_to(ROOT / "examples" / "lark-service")
    job = {"directory": str(tree), "folder": str(run), "recorder": str(ROOT / "roles/load_test/files/record_samples.py"), "url": url,
           "profile": profile, "env": {"LARK_APP_ID": APP}, "secrets": {"LARK_API_KEY": key}}  # fmt: skip
    argv = [*inside, *load_run.locust_command(job, load_run.free_port())]
    done = subprocess.run(argv, env=load_run.environment(job), capture_output=True, text=True, timeout=seconds + 90, check=False)
    found = load_samples.figures(load_samples.read_processes(run / "out"), profile)
    if done.returncode or not found["samples"] or found["failed"]:
        raise SystemExit(f"locust against {url}: {found['failed']} of {found['samples']} failed {found['failures']}\n{done.stderr[-800:]}")
    return found["rps"], found["p95_ms"]


def wrk(url: str, key: str, seconds: int, folder: Path, inside: list[str]) -> tuple[float, float]:
    """(requests a second, P95 in milliseconds) by wrk with as many connections."""
    (folder / "p95.lua").write_text(LUA)
    warm = ["wrk", "-t2", f"-c{USERS}", f"-d{WARM_UP_S}s", "-H", f"X-API-Key: {key}", f"{url}/v1/users/{APP}/{USER}"]
    for argv in (warm, [*warm[:3], f"-d{seconds}s", "-s", str(folder / "p95.lua"), *warm[4:]]):
        done = subprocess.run([*inside, *argv], capture_output=True, text=True, timeout=seconds + 60, check=False)
    rate, p95 = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout), re.search(r"P95 ([\d.]+) bad (\d+)", done.stdout)
    if not rate or not p95 or int(p95[2]):
        raise SystemExit(f"wrk against {url}: {done.stdout[-800:]}{done.stderr[-400:]}")
    return float(rate[1]), float(p95[1])


@contextlib.contextmanager
def bare_nginx(folder: Path) -> Iterator[str]:
    """The address of an nginx on loopback that answers every path with the same few bytes."""
    port = load_run.free_port()
    (folder / "nginx").mkdir()
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder / "nginx", port=port))
    process = subprocess.Popen(["/usr/sbin/nginx", "-c", str(folder / "nginx.conf")], stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def without_rate_limit() -> Iterator[None]:
    """The gateway's limit for one client is lifted: the generator is one client."""
    conf = "/etc/nginx/nginx.conf"
    harness.on_host("gateway1", f"cp -p {conf} {conf}.bench; sed -i '/limit_req zone=/d' {conf}; nginx -t && nginx -s reload")
    try:
        yield
    finally:
        harness.on_host("gateway1", f"mv {conf}.bench {conf}; nginx -t && nginx -s reload")


def live_port() -> int:
    """The port of the slot that users are on."""
    slot = harness.on_host("gateway1", "ls /etc/greenroom/lark-service/switch").split()[0]
    contract = yaml.safe_load((harness.INVENTORY / "group_vars/all/service.yml").read_text())["service"]
    return contract["ports"][slot]


def main(seconds: int = 20) -> int:
    """Measure and print; the exit status."""
    if os.geteuid():
        raise SystemExit("bench_load needs root: it runs generators in the gateway's network (nsenter)")
    deployed = harness.ansible_playbook()
    if deployed.status:
        print(deployed.output[-2000:])
        return 1
    hosts = yaml.safe_load((harness.INVENTORY / "hosts.yml").read_text())["all"]["children"]
    gateway = hosts["gateway"]["hosts"]["gateway1"]["ansible_host"]
    app = hosts["app"]["hosts"]["app1"]["ansible_host"]
    key = yaml.safe_load((harness.INVENTORY / "group_vars/all/secrets.yml").read_text())["vault_sandbox_service_secrets"]["API_KEY"]
    shown = subprocess.run(["docker", "inspect", "-f", "{{.State.Pid}}", "greenroom-gateway1"], capture_output=True, text=True, check=True)
    inside = ["nsenter", "-t", shown.stdout.strip(), "-n", "--"]
    tools = {"locust": locust} | ({"wrk": wrk} if shutil.which("wrk") else {})
    if "wrk" not in tools:
        print("wrk is not installed (apt-get install wrk): its rows are left out")
    missed = []
    with tempfile.TemporaryDirectory() as name, without_rate_limit(), bare_nginx(Path(name)) as bare:
        folder = Path(name)
        ways = [
            ("TLS gateway, two app hosts", f"https://{gateway}", []),
            ("one app host, no gateway", f"http://{app}:{live_port()}", inside),
            ("bare static nginx reply", bare, []),
        ]
        for tool, measure in tools.items():
            rates = {}
            for way, url, prefix in ways:
                rates[way], p95 = measure(url, key, seconds, folder, prefix)
                print(f"{tool:7} {way:28} {rates[way]:9,.0f} req/s   P95 {p95:7.1f} ms", flush=True)
                if way == ways[0][0] and (rates[way] < WANTED[tool] or p95 >= WANTED_P95_MS):
                    missed.append(f"{tool}: {rates[way]:,.0f} req/s, P95 {p95:.0f} ms; wanted {WANTED[tool]:,} and below {WANTED_P95_MS}")
            through, direct, static = rates.values()
            print(f"{tool:7} through the gateway / without it: {through / direct:.2f}   / bare reply: {through / static:.2f}")
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main(*map(int, sys.argv[1:])))
