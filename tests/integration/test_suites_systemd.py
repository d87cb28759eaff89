"""A service's own tests under a real systemd: limits end them, nothing live is within their reach, root follows none of their links."""

import json
import subprocess
import uuid
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECRET = "postgresql://scratch:made-for-this-run@db.internal/scratch"
RUN = """
import json, sys
sys.path.insert(0, "/greenroom-library")
from greenroom import test_run
given = json.load(sys.stdin)
print(json.dumps(test_run.run_suites(given["suites"], given["job"])))
"""
SETUP = """
for _ in $(seq 100); do [ -S /run/dbus/system_bus_socket ] && break; sleep 0.1; done
systemctl is-system-running --wait >/dev/null || true
useradd demo
mkdir -p /opt/demo/tree/src /opt/demo/tree/venv/bin /etc/demo
echo live > /etc/demo/credentials.env
cat > /opt/demo/tree/venv/bin/suite
chmod +x /opt/demo/tree/venv/bin/suite
"""
# A test runner of its own: `suite MODE` writes its reports where the environment says.
SUITE = """#!/usr/bin/python3
import os, subprocess, sys, time
mode, junit = sys.argv[1], os.environ["GREENROOM_JUNIT"]
def report(*failures):
    bodies = ['<failure message="%s"/>' % why if why else "" for why in failures]
    cases = ['<testcase name="t%d">%s</testcase>' % pair for pair in enumerate(bodies)]
    open(junit, "w").write("<testsuite>" + "".join(cases) + "</testsuite>")
if mode == "look":
    found = []
    if os.getuid() == 0: found.append("runs as root")
    if os.path.exists("/etc/demo/credentials.env"): found.append("sees the live credentials")
    if "CALLER" in os.environ: found.append("has the caller's environment")
    if os.environ["DATABASE_URL"] != "%(secret)s": found.append("has another address")
    if sys.stdin.read(): found.append("has something to read")
    unit = open("/proc/self/cgroup").read().strip().splitlines()[-1].rpartition("/")[2]
    shown = subprocess.run(["systemctl", "show", unit], capture_output=True, text=True).stdout
    if "made-for-this-run" in shown + open("/proc/self/cmdline").read(): found.append("shows the secret")
    for path in ("/opt/demo/tree/src/x", "/etc/x", "/usr/x"):
        try:
            open(path, "w"); found.append("may write " + path)
        except OSError:
            pass
    report(None, "; ".join(found))
    text = open(junit).read().replace('"t0">', '"t0"><system-out>%s</system-out>' % os.environ["DATABASE_URL"])
    open(junit, "w").write(text)
if mode == "hang":
    report(None); time.sleep(60)
if mode == "grow":
    report(None); data = [bytearray(1 << 20) for _ in range(4000)]
if mode == "link":
    os.symlink("/etc/shadow", junit)
if mode == "silent":
    sys.exit(0)
if mode == "lie":
    report(None); sys.exit(3)
""".replace("%(secret)s", SECRET)


@pytest.fixture(scope="module")
def measure():
    """Runs suites in a container with systemd: {mode: result}."""
    for script in ("docker_engine", "make_image"):
        done = subprocess.run([str(ROOT / "scripts" / script)], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"scripts/{script}: {done.stdout}{done.stderr}"
    name = f"greenroom-suites-{uuid.uuid4().hex[:8]}"
    asked = subprocess.run(["docker", "info", "-f", "{{.CgroupVersion}}"], capture_output=True, text=True, check=True)
    argv = ["docker", "run", "-d", "--rm", "--name", name, "--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN", "--security-opt",
            "seccomp=unconfined", "--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp:exec",
            "-v", "/sys/fs/cgroup:/sys/fs/cgroup:rw", "-v", f"{ROOT}/plugins/module_utils:/greenroom-library:ro",
            *(["--cgroupns", "host"] if asked.stdout.strip() == "2" else []),
            "greenroom/host:bookworm", "/lib/systemd/systemd"]  # fmt: skip
    subprocess.run(argv, check=True, capture_output=True)

    def run(*command, text=None):
        argv = ["docker", "exec", "-i", "-e", "CALLER=1", name, *command]
        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def suites(*modes):
        made = [{"name": mode, "command": f"suite {mode}", "id": f"test.{mode}", "limit_s": 5} for mode in modes]
        id = uuid.uuid4().hex
        job = {"run_id": id, "user": "demo", "directory": "/opt/demo/tree", "reports": f"/opt/demo/{id}", "env": {},
               "secrets": {"DATABASE_URL": SECRET}, "memory_mb": 256, "hidden": ["/etc/demo"]}  # fmt: skip
        found = json.loads(run("python3", "-c", RUN, text=json.dumps({"suites": made, "job": job})))
        left = run("systemctl", "list-units", "--all", "--plain", "--no-legend", "greenroom-tests-*")
        assert not left.strip(), f"units are left: {left}"
        return dict(zip(modes, found, strict=True)), lambda file: run("cat", file)

    try:
        run("sh", "-ec", SETUP, text=SUITE)
        yield suites
    finally:
        subprocess.run(["docker", "kill", name], capture_output=True, check=False)


def test_nothing_of_the_host_is_within_reach_and_the_secret_shows_nowhere(measure):
    found, read = measure("look")
    (record,) = found["look"]["evidence"]
    assert record["status"] == "pass", found["look"]
    assert record["observed"] == "2 tests, 2 passed, 0 failures, 0 errors, 0 skipped"
    kept = "".join(read(file) for file in found["look"]["files"])
    assert "***" in kept and "made-for-this-run" not in kept


def test_every_way_to_prove_nothing_is_red_and_all_suites_run_side_by_side(measure):
    found, _ = measure("hang", "grow", "link", "silent", "lie")
    reasons = {mode: result["evidence"][0].get("reason", "") for mode, result in found.items()}
    assert {result["evidence"][0]["status"] for result in found.values()} == {"fail"}
    assert "time limit of 5 s" in reasons["hang"] and found["hang"]["seconds"] < 20
    assert "memory limit is 256 MiB" in reasons["grow"]
    assert "cannot be read" in reasons["link"] and not any(file.endswith("junit.xml") for file in found["link"]["files"])
    assert "it was not written" in reasons["silent"]
    assert "exit status 3 although" in reasons["lie"]
