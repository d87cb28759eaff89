"""Probes of the host itself: files, limits, ports, logs, environments; green on what is right, red on each real fault."""

import os
import socket
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest
from ansible.module_utils.greenroom import health_check
from ansible.module_utils.greenroom.probes import apt, os_release, resources


def measure(secrets=None, **probe):
    (record,) = health_check.run(health_check.plan([{"id": "test.id", **probe}], secrets), secrets)
    return record


# --- resources -------------------------------------------------------------------------------------------------------


def test_resources_of_this_machine(tmp_path):
    record = measure(type="resources", cpu=1, memory_gb=0.1, paths=[str(tmp_path)], disk_gb=0.001, inodes_percent=0.1)
    assert record["status"] == "pass", record
    assert record["detail"]["memory_bytes"] > 10**8


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"cpu": 4096}, "give the host more cores"),
        ({"memory_gb": 10**6}, "give the host more memory"),
        ({"paths": ["/"], "disk_gb": 10**9}, "free space below /"),
        ({"paths": ["/"], "inodes_percent": 100.1}, "many small files"),
    ],
)
def test_resources_that_are_too_small(change, told):
    record = measure(type="resources", **change)
    assert record["status"] == "fail"
    assert told in record["reason"]


def test_resources_of_a_folder_that_is_not_there_yet_are_those_of_its_parent(tmp_path):
    record = measure(type="resources", paths=[str(tmp_path / "a" / "b")], disk_gb=0.0001)
    assert f"({tmp_path})" in record["observed"]


def test_a_mount_that_is_read_only_is_red(tmp_path):
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    readonly = next((row[1] for row in mounts if "ro" in row[3].split(",") and os.path.isdir(row[1])), None)
    assert readonly, "this machine has no read-only mount to look at"
    assert "read-only" in measure(type="resources", paths=[readonly], disk_gb=0)["reason"]


def tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


MEMINFO = {"meminfo": "MemTotal:  25165824 kB\nMemFree: 1 kB\n"}
CORES = float(len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(
    ("proc", "cgroup", "cpu", "memory"),
    [
        # version 2: the group itself, and a stricter parent
        ({"self/cgroup": "0::/a/b\n"}, {"a/b/cpu.max": "50000 100000\n", "a/b/memory.max": "1000000000\n"}, 0.5, 1000000000),
        (
            {"self/cgroup": "0::/a/b\n"},
            {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "20000 100000\n", "a/b/memory.max": "max\n", "a/memory.max": "500\n"},
            0.2,
            500,
        ),
        # version 1: one folder a controller
        (
            {"self/cgroup": "4:cpu,cpuacct:/d/x\n7:memory:/d/x\n"},
            {
                "cpu,cpuacct/d/x/cpu.cfs_quota_us": "25000",
                "cpu,cpuacct/d/x/cpu.cfs_period_us": "100000",
                "memory/d/x/memory.limit_in_bytes": "3000",
            },
            0.25,
            3000,
        ),
        (
            {"self/cgroup": "4:cpu,cpuacct:/d/x\n7:memory:/d/x\n"},
            {
                "cpu/d/x/cpu.cfs_quota_us": "-1",
                "cpu/d/x/cpu.cfs_period_us": "100000",
                "memory/d/x/memory.limit_in_bytes": "9223372036854771712",
            },
            CORES,
            25165824 * 1024,
        ),
        # a session beside the container's own group: process 1 tells the limit
        ({"self/cgroup": "0::/user\n", "1/cgroup": "0::/init\n"}, {"init/cpu.max": "10000 100000", "init/memory.max": "77"}, 0.1, 77),
        ({}, {}, CORES, 25165824 * 1024),
    ],
)
def test_the_control_groups_limit_comes_before_the_machines(tmp_path, proc, cgroup, cpu, memory):
    proc, cgroup = tree(tmp_path / "proc", {**MEMINFO, **proc}), tree(tmp_path / "cgroup", {"x": "", **cgroup})
    assert resources.cpu_cores(proc, cgroup)[0] == cpu
    assert resources.memory_bytes(proc, cgroup)[0] == memory


# --- operating system and clock --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accepted", "ok"),
    [
        (["debian 12"], True),
        (["ubuntu 22.04", "debian >=11"], True),
        (["debian"], True),
        (["debian 1"], False),
        (["debian 13"], False),
        (["debian >=13"], False),
        (["ubuntu 12"], False),
    ],
)
def test_os_supported(tmp_path, accepted, ok):
    release = tmp_path / "os-release"
    release.write_text('PRETTY_NAME="Debian GNU/Linux 12"\nID=debian\nVERSION_ID="12"\n')
    record = measure(type="os", supported=accepted, os_release_file=str(release))
    assert (record["status"] == "pass") is ok
    assert record["detail"]["os"] == "debian 12"


def test_os_artefact_and_python():
    machine = os.uname().machine
    assert measure(type="os", wheel_tag=f"manylinux_2_17_{machine}", python_min="3.8", python=sys.executable)["status"] == "pass"
    assert "older than 9.99" in measure(type="os", wheel_tag=f"manylinux_9_99_{machine}")["reason"]
    assert "build the release for" in measure(type="os", wheel_tag="manylinux2014_riscv64")["reason"]
    assert "install Python 4.0" in measure(type="os", python_min="4.0", python=sys.executable)["reason"]
    assert "not there" in measure(type="os", python_min="3.1", python="/nowhere/python3")["reason"]


def test_os_versions_are_compared_as_numbers():
    assert os_release.supported("x", "3.10", ["x >=3.9"])
    assert not os_release.supported("x", "3.9", ["x >=3.10"])
    assert os_release.split_tag("manylinux1_x86_64") == ("2.5", "x86_64")
    assert os_release.split_tag("linux_x86_64") == (None, "x86_64")


def test_clock():
    assert measure(type="clock", controller_epoch=time.time(), max_offset_s=5)["status"] == "pass"
    for shift in (-86400, 86400):
        record = measure(type="clock", controller_epoch=time.time() + shift, max_offset_s=5)
        assert record["status"] == "fail"
        assert f"{-shift:+.0f}"[:5] in record["reason"]
    record = measure(type="clock")
    assert record["status"] in ("pass", "fail")  # what the kernel says here
    assert "the kernel" in record["observed"]


# --- file ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def a_file(tmp_path):
    path = tmp_path / "a"
    path.write_text("hello")
    path.chmod(0o640)
    return str(path)


def test_file_as_it_should_be(a_file, tmp_path):
    digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    record = measure(
        type="file", path=a_file, kind="file", mode="0640", not_world_readable=True, sha256=digest, min_bytes=5, max_bytes=5, writable=True
    )
    assert record["status"] == "pass", record
    assert measure(type="file", path=str(tmp_path), kind="directory", writable=True)["status"] == "pass"
    assert list(os.listdir(tmp_path)) == ["a"]  # the write probe leaves nothing
    os.symlink(a_file, tmp_path / "l")
    assert measure(type="file", path=str(tmp_path / "l"), kind="link", link_target=a_file)["status"] == "pass"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"mode": "0600"}, "mode is 0640, not 0600"),
        ({"kind": "directory"}, "kind is file, not directory"),
        ({"owner": "nobody_else"}, "not nobody_else"),
        ({"group": "nobody_else"}, "not nobody_else"),
        ({"sha256": "00" * 32}, "sha256 is 2cf24dba"),
        ({"min_bytes": 6}, "size is 5 bytes"),
        ({"max_bytes": 4}, "size is 5 bytes"),
        ({"exists": False}, "exists"),
        ({"link_target": "/etc"}, "not /etc"),
    ],
)
def test_file_is_red_on(a_file, change, told):
    record = measure(type="file", path=a_file, **change)
    assert record["status"] == "fail"
    assert told in record["reason"]


def test_file_that_others_can_read_or_that_is_not_there_or_not_writable(a_file):
    os.chmod(a_file, 0o644)
    assert "without rights for others" in measure(type="file", path=a_file, not_world_readable=True)["reason"]
    assert "does not exist" in measure(type="file", path=f"{a_file}-none")["reason"]
    assert measure(type="file", path=f"{a_file}-none", exists=False)["status"] == "pass"
    assert "cannot be written to" in measure(type="file", path="/proc", writable=True)["reason"]  # not even root may
    assert measure(type="file", path=f"{a_file}-none/x/y", nearest_parent=True, writable=True)["status"] == "pass"


# --- ports -----------------------------------------------------------------------------------------------------------


def test_ports_free_or_ours():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        assert measure(type="ports", ports=[port])["status"] == "pass"  # bound, nobody listens
        sock.listen()
        record = measure(type="ports", ports=[port], held_by=["nginx", "example-web@*.service"])
        assert record["status"] == "fail"
        assert f"pid {os.getpid()}" in record["reason"]
        name = Path("/proc/self/comm").read_text().strip()
        record = measure(type="ports", ports=[port], held_by=[name])
        assert record["status"] == "pass", record
        assert f"{name} (pid {os.getpid()}" in record["observed"]


def test_ports_on_ipv6_count_too():
    with socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        sock.listen()
        assert measure(type="ports", ports=[sock.getsockname()[1]])["status"] == "fail"


# --- python_env ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A virtual environment with two hand-made packages, and its lock file."""
    root = tmp_path_factory.mktemp("venv")
    venv.create(root / "v", with_pip=False)
    site = next((root / "v" / "lib").glob("python*")) / "site-packages"
    for name, version in (("Some_Pkg", "1.2.0"), ("other", "0.9")):
        info = site / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (site / "some_pkg.py").write_text('__version__ = "1.2.0"\n')
    lock = root / "requirements.txt"
    lock.write_text(
        "# made\nsome-pkg==1.2.0 \\\n    --hash=sha256:aa\nother[x]==0.9 \\\n    --hash=sha256:bb\n"
        "colorama==0.4 ; sys_platform == 'win32' \\\n    --hash=sha256:cc\n"
    )
    return root / "v", site, lock


def test_python_env_equals_its_lock(environment):
    folder, _, lock = environment
    record = measure(type="python_env", venv=str(folder), lock=str(lock), no_editable=True, import_name="some_pkg", version="1.2.0")
    assert record["status"] == "pass", record


def test_python_env_is_red_on_each_difference(environment, tmp_path):
    folder, site, lock = environment

    def with_lock(text):
        path = tmp_path / "lock.txt"
        path.write_text(text)
        return measure(type="python_env", venv=str(folder), lock=str(path))["reason"]

    assert "missing: third 1" in with_lock(lock.read_text() + "third==1\n")
    assert "another version: other 0.9 (not 1.0)" in with_lock("some.pkg==1.2.0\nother==1.0\n")
    assert "in no lock file: other" in with_lock("some_pkg==1.2.0\n")
    assert "lock.txt:1: not of the form" in with_lock("other>=0.9\n")
    assert "in no lock file: other, some-pkg" in with_lock("# empty\n")
    assert "does not import" in measure(type="python_env", venv=str(folder), import_name="missing_pkg")["reason"]
    assert "not some_pkg imports, version 2" in measure(type="python_env", venv=str(folder), import_name="some_pkg", version="2")["reason"]
    assert measure(type="python_env", venv=str(tmp_path / "none"), no_editable=True)["status"] == "fail"
    marker = site / "__editable___x_finder.py"
    marker.write_text("")
    assert "editable" in measure(type="python_env", venv=str(folder), no_editable=True)["reason"]
    marker.unlink()
    direct = next(site.glob("other*")) / "direct_url.json"
    direct.write_text('{"url": "file:///src", "dir_info": {"editable": true}}')
    assert "editable: other" in measure(type="python_env", venv=str(folder), no_editable=True)["reason"]
    direct.unlink()


# --- arithmetic, apt --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "ok", "told"),
    [
        ({}, True, "2 slots x 2 hosts x 2 processes x pool 10 = 80, with 10 in reserve 90"),
        ({"pool": 11, "superuser_reserved": 3}, False, "98 connections may be opened, the server's limit is 97"),
        ({"role_limit": 79}, False, "80 connections may be opened, the role's limit is 79"),
        ({"role_limit": 80}, True, ""),
        ({"role_limit": -1}, True, ""),
    ],
)
def test_connection_budget(change, ok, told):
    record = measure(**{"type": "connection_budget", "hosts": 2, "processes": 2, "pool": 10, "max_connections": 100, **change})
    assert (record["status"] == "pass") is ok
    assert told in (record["observed"] if ok else record["reason"])


def test_apt_lock_names_its_holder(tmp_path):
    path = tmp_path / "lock"
    path.touch()
    assert apt.lock_holder(str(path)) is None
    code = f"import fcntl, time; f = open({str(path)!r}, 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        holder.stdout.readline()
        assert apt.lock_holder(str(path)) == holder.pid
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
