"""Probes of systemd's world, in a container in which systemd really runs: units, journal, environment, ports, limits, a full disk."""

import json
import subprocess
import time
import uuid
from pathlib import Path

import pytest
from ansible.module_utils.greenroom import env_file

ROOT = Path(__file__).parents[2]
RUN = """
import json, sys
sys.path.insert(0, "/greenroom-library")
from greenroom import health_check
given = json.load(sys.stdin)
print(json.dumps(health_check.run(health_check.plan(given["probes"], given["secrets"]), given["secrets"])))
"""
NASTY = {
    "SPACES": "  two  words  ",
    "QUOTES": 'it\'s "q"',
    "DOLLAR": "$HOME ${X} $$",
    "HASH": "#a #b",
    "EQUALS": "a=b==",
    "PERCENT": "100% %h %%i",
    "BACKSLASH": "\\ \\n \\$ end\\",
    "BACKTICK": "`id`",
    "UNICODE": "Grüße 飞书 🚀",
    "TAB": "a\tb",
    "PLAIN": "x-1.0",
}


class Host:
    def __init__(self, name):
        self.name = name

    def run(self, *argv, text=None, check=True):
        done = subprocess.run(["docker", "exec", "-i", self.name, *argv], input=text, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    def write(self, path, content):
        self.run("sh", "-c", f"cat > {path}", text=content)

    def service(self, name, body, start=True):
        self.write(f"/etc/systemd/system/{name}", f"[Service]\n{body}\n[Install]\nWantedBy=multi-user.target\n")
        self.run("systemctl", "daemon-reload")
        if start:
            self.run("systemctl", "enable", "--now", name, check=False)

    def measure(self, secrets=None, **probe):
        given = json.dumps({"probes": [{"id": "test.id", "timeout_s": 20, **probe}], "secrets": secrets or {}})
        return json.loads(self.run("python3", "-c", RUN, text=given))[0]


@pytest.fixture(scope="module")
def host():
    """A container with systemd, half a core, 400 MB and a /tmp of 3 MB."""
    for script in ("docker_engine", "make_image"):
        done = subprocess.run([str(ROOT / "scripts" / script)], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"scripts/{script}: {done.stdout}{done.stderr}"
    cgroups = subprocess.run(["docker", "info", "-f", "{{.CgroupVersion}}"], capture_output=True, text=True, check=True).stdout.strip()
    name = f"greenroom-probes-{uuid.uuid4().hex[:8]}"
    argv = [
        "docker",
        "run",
        "-d",
        "--rm",
        "--name",
        name,
        "--cap-add",
        "SYS_ADMIN",
        "--cap-add",
        "NET_ADMIN",
        "--security-opt",
        "seccomp=unconfined",
        "--tmpfs",
        "/run",
        "--tmpfs",
        "/run/lock",
        "--tmpfs",
        "/tmp:exec,size=3m",
        "-v",
        "/sys/fs/cgroup:/sys/fs/cgroup:rw",
        "--memory",
        "400m",
        "--cpus",
        "0.5",
        "-v",
        f"{ROOT / 'plugins' / 'module_utils'}:/greenroom-library:ro",
    ]
    argv += ["--cgroupns", "host"] if cgroups == "2" else []
    subprocess.run([*argv, "greenroom/host:bookworm", "/lib/systemd/systemd"], check=True, capture_output=True)
    made = Host(name)
    try:
        made.run("sh", "-c", "until systemctl is-system-running --wait; do sleep 0.2; done 2>/dev/null", check=False)
        yield made
    finally:
        subprocess.run(["docker", "rm", "-f", name], check=False, capture_output=True)


def test_the_system_is_up_and_names_what_failed(host):
    host.run("systemctl", "reset-failed")
    assert host.measure(type="systemd", system=True)["status"] == "pass"
    host.service("broken.service", "ExecStart=/bin/false")
    record = host.measure(type="systemd", system=True)
    assert (record["status"], record["detail"]["failed_units"]) == ("pass", ["broken.service"])
    record = host.measure(type="systemd", system=True, allow_degraded=False)
    assert (record["status"], "broken.service" in record["reason"]) == ("fail", True)
    host.run("systemctl", "disable", "broken.service")
    host.run("systemctl", "reset-failed")


def test_a_unit_is_active_enabled_and_did_not_restart(host):
    host.service("steady.service", "ExecStart=/bin/sleep 1000")
    record = host.measure(type="systemd", unit="steady.service", sub_state="running", enabled=True, restarts_max=0)
    assert record["status"] == "pass", record
    assert "exposure" in host.measure(type="systemd", unit="steady.service", exposure_max=3.0)["reason"]
    assert "start at boot is enabled" in host.measure(type="systemd", unit="steady.service", enabled=False)["reason"]
    assert "state is active" in host.measure(type="systemd", unit="steady.service", active="inactive")["reason"]
    host.run("systemctl", "stop", "steady.service")
    assert "state is inactive, not active" in host.measure(type="systemd", unit="steady.service")["reason"]
    assert "not-found" in host.measure(type="systemd", unit="never-was.service")["reason"]
    assert host.measure(type="systemd", unit="never-was.service", active="absent")["status"] == "pass"


def test_a_unit_that_keeps_restarting_is_red(host):
    host.service("flapping.service", "ExecStart=/bin/sh -c 'sleep 0.3; exit 1'\nRestart=always\nRestartSec=0.1\nStartLimitIntervalSec=0")
    host.run("sh", "-c", "until [ $(systemctl show -p NRestarts --value flapping.service) -gt 0 ]; do sleep 0.1; done")
    record = host.measure(type="systemd", unit="flapping.service", restarts_max=0)
    host.run("systemctl", "disable", "--now", "flapping.service")
    assert record["status"] == "fail"
    assert "restarts is" in record["reason"]


def test_a_hardened_unit_passes_the_exposure_limit(host):
    host.service(
        "hard.service",
        "ExecStart=/bin/sleep 1000\nDynamicUser=yes\nProtectSystem=strict\nProtectHome=yes\nPrivateTmp=yes\nPrivateDevices=yes\n"
        "NoNewPrivileges=yes\nCapabilityBoundingSet=\nRestrictAddressFamilies=AF_UNIX\nRestrictNamespaces=yes\nSystemCallFilter=@system-service\n"
        "SystemCallArchitectures=native\nProtectKernelTunables=yes\nProtectKernelModules=yes\nProtectKernelLogs=yes\nProtectControlGroups=yes\n"
        "ProtectClock=yes\nProtectHostname=yes\nLockPersonality=yes\nMemoryDenyWriteExecute=yes\nRestrictRealtime=yes\nPrivateNetwork=yes\nUMask=0077\n"
        "ProtectProc=invisible\nIPAddressDeny=any",
        start=False,
    )
    record = host.measure(type="systemd", unit="hard.service", active="inactive", exposure_max=3.0)
    assert record["status"] == "pass", record
    assert 0 < record["detail"]["exposure"] <= 3


def test_what_systemd_hands_a_process_equals_what_the_writer_wrote(host):
    """The proof on a running systemd: written file, started unit, /proc of its process, byte for byte."""
    host.write("/etc/probe.env", env_file.render(NASTY, "made by a test"))
    host.service("probe-env.service", "EnvironmentFile=/etc/probe.env\nExecStart=/bin/sleep 1000")
    time.sleep(0.3)
    record = host.measure(type="environ", unit="probe-env.service", env_files=["/etc/probe.env"], exact=True)
    assert record["status"] == "pass", record
    assert record["detail"]["keys"] == len(NASTY)
    host.write("/etc/probe.env", env_file.render({**NASTY, "DOLLAR": "$HOME"}))
    record = host.measure(type="environ", unit="probe-env.service", env_files=["/etc/probe.env"])
    assert (record["status"], record["detail"]["differ"]) == ("fail", ["DOLLAR"])
    host.run("systemctl", "stop", "probe-env.service")
    assert "no main process" in host.measure(type="environ", unit="probe-env.service", env_files=["/etc/probe.env"])["reason"]


def test_the_journal_of_a_unit(host):
    lines = [{"timestamp": "x", "level": "info", "event": "started"}, {"timestamp": "x", "level": "error", "event": "the database is gone"}]
    script = "; ".join(f"echo '{json.dumps(line)}'" for line in lines)
    host.service("talks.service", "ExecStart=/bin/sh /etc/talks.sh\nType=oneshot", start=False)
    host.write("/etc/talks.sh", script + "\n")
    before = float(host.run("date", "+%s.%N"))
    assert host.measure(type="log", unit="talks.service", format="json")["status"] == "no_evidence"
    host.run("systemctl", "start", "talks.service")
    record = host.measure(type="log", unit="talks.service", format="json", since=before, within_s=5)
    assert record["status"] == "fail"
    assert "the database is gone" in record["reason"]
    assert (record["detail"]["lines"], record["detail"]["not_json"]) == (2, 0)  # systemd's own lines about the unit do not count
    allowed = host.measure(type="log", unit="talks.service", format="json", since=before, allow=["database is gone"])
    assert allowed["status"] == "pass"
    assert host.measure(type="log", unit="talks.service", cursor=allowed["detail"]["cursor"], allow_empty=True)["detail"]["lines"] == 0
    assert host.measure(type="log", unit="talks.service", format="json", since=time.time() + 60)["status"] == "no_evidence"


def test_ports_name_the_unit_that_holds_them(host):
    host.service("web@.service", "ExecStart=/usr/bin/python3 -m http.server %i --bind 127.0.0.1", start=False)
    host.run("systemctl", "start", "web@8123.service")
    host.run(
        "python3",
        "-c",
        "import socket, time\nfor _ in range(100):\n  try: socket.create_connection(('127.0.0.1', 8123)); break\n"
        "  except OSError: time.sleep(0.1)",
    )
    record = host.measure(type="ports", ports=[8123, 8124])
    assert record["status"] == "fail"
    assert "web@8123.service" in record["reason"]
    assert host.measure(type="ports", ports=[8123, 8124], held_by=["web@*.service"])["status"] == "pass"
    assert host.measure(type="ports", ports=[8123], held_by=["other@*.service"])["status"] == "fail"


def test_limits_are_those_of_the_control_group(host):
    record = host.measure(type="resources", cpu=2, memory_gb=4)
    assert record["status"] == "fail"
    assert "0.5 cores CPU (control group)" in record["observed"]
    assert "0.42 GB memory (control group)" in record["observed"]
    assert host.measure(type="resources", cpu=0.5, memory_gb=0.4)["status"] == "pass"


def test_a_full_disk_is_red_where_it_is_measured_and_where_it_is_written_to(host):
    assert host.measure(type="file", path="/tmp", writable=True)["status"] == "pass"
    host.run("sh", "-c", "head -c 4000000 /dev/zero > /tmp/fill", check=False)
    try:
        assert "no space left" in host.measure(type="file", path="/tmp", writable=True)["reason"]
        assert host.measure(type="resources", paths=["/tmp"], disk_gb=0.001)["status"] == "fail"
    finally:
        host.run("rm", "/tmp/fill")
    host.run("mount", "-o", "remount,ro", "/tmp")
    try:
        assert "read-only" in host.measure(type="file", path="/tmp", writable=True)["reason"]
        assert "read-only" in host.measure(type="resources", paths=["/tmp"], disk_gb=0)["reason"]
    finally:
        host.run("mount", "-o", "remount,rw", "/tmp")
    host.run("sh", "-c", "mkdir -p /mnt/few && mount -t tmpfs -o nr_inodes=20 none /mnt/few && cd /mnt/few && touch $(seq 18)")
    assert "inodes free" in host.measure(type="resources", paths=["/mnt/few"], inodes_percent=20)["reason"]


def test_packages_could_be_installed_or_what_is_in_the_way(host):
    assert "dpkg in order; no lock held" in host.measure(type="apt")["observed"]
    host.run("sh", "-c", "mkdir -p /var/tmp/apt && mv /etc/apt/sources.list* /var/tmp/apt/ 2>/dev/null; mkdir -p /etc/apt/sources.list.d")
    record = host.measure(type="apt")
    assert "no package source is configured" in record["reason"]
    host.write("/etc/apt/sources.list", "deb http://127.0.0.1:9/debian bookworm main\n")
    assert "package source 127.0.0.1:9: connection refused" in host.measure(type="apt")["reason"]
    with_lock = (
        "import fcntl, subprocess, sys, time\nf = open('/var/lib/dpkg/lock-frontend', 'w')\nfcntl.lockf(f, fcntl.LOCK_EX)\n"
        "open('/run/held', 'w').close()\ntime.sleep(30)"
    )
    holder = subprocess.Popen(["docker", "exec", host.name, "python3", "-c", with_lock])
    try:
        host.run("sh", "-c", "until [ -e /run/held ]; do sleep 0.1; done")
        assert "another package tool is at work (/var/lib/dpkg/lock-frontend by pid" in host.measure(type="apt")["reason"]
    finally:
        holder.kill()
        holder.wait()
