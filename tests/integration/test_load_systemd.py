"""A load test under a real systemd: units with limits, a name that leads elsewhere for one unit, no secret left, hosts sampled."""

import importlib.util
import json
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode puts no folder of tests on the path
from load_fixtures import PROFILE, SERVER, THRESHOLDS

ROOT = Path(__file__).parents[2]
PACKAGES = Path(importlib.util.find_spec("locust").origin).parents[1]  # never imported here: it turns this process' threads into others
SLOW = PROFILE | {"pace_rps": 150, "duration_s": 10}
SECRET = "s3cret-of-the-locust-file"
STEP = """
import json, sys
sys.path.insert(0, "/greenroom-library")
from greenroom import load_judgement, load_run, load_sampler, transient_unit
job = json.load(sys.stdin)
def sampled():
    transient_unit.stop(load_run.unit_name(job["run_id"], "sampler"))
    return {"samples": load_sampler.read(load_run.samples_file(job["folder"])), "clock": job["clock"], "problem": ""}
def sample():
    load_run.start_sampler(job["run_id"], job["folder"], 60, library="/greenroom-library")
steps = {"start": lambda: load_run.start(job), "wait": lambda: load_run.wait(job, 5), "judge": lambda: load_judgement.conclude(job),
         "sample": sample, "sampled": sampled, "remove": lambda: load_run.remove(job["run_id"], job["folder"])}
print(json.dumps(steps[sys.argv[1]]()))
"""
SETUP = """
for _ in $(seq 100); do [ -S /run/dbus/system_bus_socket ] && break; sleep 0.1; done
systemctl is-system-running --wait >/dev/null || true
useradd load
mkdir -p /opt/load/tree/src /opt/load/tree/venv/bin
printf '#!/bin/sh\\nexec /usr/bin/python3 -m locust "$@"\\n' > /opt/load/tree/venv/bin/locust
chmod +x /opt/load/tree/venv/bin/locust
cat > /opt/load/tree/src/locustfile.py
"""
# Fails unless it runs as the wanted user, with the secret, and without the caller's environment.
LOCUST_FILE = f"""
import os
from locust import FastHttpUser, constant, task
assert os.getuid() != 0 and os.environ["KEY"] == "{SECRET}" and "CALLER" not in os.environ
GROWN = [bytearray(1 << 20) for _ in range(int(os.environ["GROW"]))]

class Reader(FastHttpUser):
    wait_time = constant(0)

    @task
    def read(self):
        self.client.get("/", headers={{"X-Key": os.environ["KEY"]}})
"""


@pytest.fixture(scope="module")
def host():
    """Runs commands in a container with systemd, and steps of a load test."""
    for script in ("docker_engine", "make_image"):
        done = subprocess.run([str(ROOT / "scripts" / script)], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"scripts/{script}: {done.stdout}{done.stderr}"
    name = f"greenroom-load-{uuid.uuid4().hex[:8]}"
    asked = subprocess.run(["docker", "info", "-f", "{{.CgroupVersion}}"], capture_output=True, text=True, check=True)
    argv = ["docker", "run", "-d", "--rm", "--name", name, "--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN", "--security-opt",
            "seccomp=unconfined", "--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp:exec", "-v", f"{PACKAGES}:/packages:ro",
            "-v", f"{ROOT}/roles/load_test/files:/recorder:ro",
            "-v", "/sys/fs/cgroup:/sys/fs/cgroup:rw", "-v", f"{ROOT}/plugins/module_utils:/greenroom-library:ro",
            *(["--cgroupns", "host"] if asked.stdout.strip() == "2" else []),
            "greenroom/host:bookworm", "/lib/systemd/systemd"]  # fmt: skip
    subprocess.run(argv, check=True, capture_output=True)

    def run(*command, text=None, check=True):
        argv = ["docker", "exec", "-i", "-e", "CALLER=1", name, *command]
        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{command[:4]}: {done.stdout}{done.stderr}"
        return done.stdout

    try:
        run("sh", "-ec", SETUP, text=LOCUST_FILE)
        run("systemd-run", "--unit=server", "python3", "-c", SERVER.replace('"127.0.0.1", 0', '"127.0.0.1", 8080'), "0", "0", "-")
        yield run
    finally:
        subprocess.run(["docker", "kill", name], capture_output=True, check=False)


def job(**change):
    """The arguments of a run of its own."""
    id = uuid.uuid4().hex[:10]
    return {
        "run_id": id, "user": "load", "directory": "/opt/load/tree", "folder": f"/var/lib/{id}", "baselines": f"/var/lib/{id}.json",
        "recorder": "/recorder/record_samples.py", "url": "http://service.internal:8080", "connect": "127.0.0.1", "ca_file": None,
        "profile": SLOW, "thresholds": THRESHOLDS | {"throughput_rps": 105, "cpu_percent": 100, "memory_percent": 100}, "rate_limit": None,
        "env": {"PYTHONPATH": "/packages", "GROW": "0"}, "secrets": {"KEY": SECRET}, "memory_mb": 1024, "hidden": ["/etc/hidden"],
        "service": "demo", "release": "1-1.0.0", "hosts": {}, "clock": 0.0,
    } | change  # fmt: skip


def step(host, name, job):
    return json.loads(host("python3", "-c", STEP, name, text=json.dumps(job)))


def finished(host, job):
    """Wait for the end; what the looks at it said."""
    said = []
    for _look in range(40):
        found = step(host, "wait", job)
        said.append(found["progress"]["text"])
        if found["finished"]:
            return said
    raise AssertionError(f"the generator did not end: {said}")


def test_a_whole_load_test_and_nothing_of_it_is_left(host):
    mine = job()
    step(host, "sample", mine)
    step(host, "start", mine)
    unit = f"greenroom-load-{mine['run_id']}-generator.service"
    pid = host("systemctl", "show", "-p", "MainPID", "--value", unit).strip()
    shown = host("systemctl", "show", unit) + host("cat", f"/proc/{pid}/cmdline")
    assert SECRET not in shown and "--headless" in shown
    assert SECRET not in host("grep", "-rs", SECRET, "/run", "/var/lib", check=False)
    said = finished(host, mine)
    assert len(said) > 1 and "users" in said[-1], said
    made = step(host, "judge", mine | {"hosts": {"app1": step(host, "sampled", mine)}})
    # On a machine that is busy otherwise the generator itself is the limit, and the result says so and nothing else.
    bad = {one["id"]: one["reason"] for one in made["evidence"] if one["status"] != "pass"}
    assert not bad or ("late (P95)" in bad["load.executed"] or "were sent" in bad["load.executed"]), (made["why"], made["output"])
    assert (
        not {"load.cpu", "load.memory", "load.profile", "load.script", "load.tool", "load.report"} & bad.keys() and len(made["files"]) == 4
    )
    assert host("stat", "-c", "%U %a", *made["files"]).split() == ["root", "600"] * 4
    assert "service.internal" not in host("cat", "/etc/hosts")
    left = host("systemctl", "list-units", "--all", "--plain", "--no-legend", "greenroom-load-*")
    assert not left.strip(), left
    step(host, "remove", mine)
    assert host("sh", "-c", f"ls -d {mine['folder']}* || true").split() in ([], [mine["baselines"]])


def reason_of_invalid(host, job):
    made = step(host, "judge", job)
    assert made["verdict"] == "invalid", made["why"]
    return next(one["reason"] for one in made["evidence"] if one["id"] == "load.executed")


def test_a_generator_at_its_memory_limit_is_invalid(host):
    mine = job(memory_mb=150, env={"PYTHONPATH": "/packages", "GROW": "400"})
    step(host, "start", mine)
    finished(host, mine)
    assert "ended with" in reason_of_invalid(host, mine)


def test_a_generator_that_is_killed_is_invalid(host):
    mine = job()
    step(host, "start", mine)
    while "requests/s" not in step(host, "wait", mine)["progress"]["text"]:
        pass
    host("systemctl", "kill", "-s", "KILL", f"greenroom-load-{mine['run_id']}-generator.service")
    finished(host, mine)
    assert "its unit ended with signal" in reason_of_invalid(host, mine)
