"""host_state: what is there is read truly, on real files, units and keys of this machine."""

import os
import subprocess

import pytest
from ansible.module_utils.greenroom import host_state


def test_files_say_what_is_there_and_what_is_not(tmp_path):
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"abc")
    file.chmod(0o640)
    link.symlink_to(file)
    found = host_state.files([str(file), str(link), str(tmp_path), str(tmp_path / "none"), str(file / "below")])
    assert found[str(file)]["sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (found[str(file)]["mode"], found[str(file)]["type"], found[str(file)]["size"]) == ("0640", "file", 3)
    assert found[str(file)]["access"].endswith(" 0640")
    assert (found[str(link)]["type"], found[str(link)]["target"]) == ("link", str(file))
    assert found[str(tmp_path)]["type"] == "directory"
    for absent in (tmp_path / "none", file / "below"):
        assert found[str(absent)]["exists"] is False
        assert found[str(absent)]["sha256"] is None


def test_a_pattern_stands_for_what_it_matches(tmp_path):
    for name in ("13", "15"):
        (tmp_path / name).write_text(name)
    assert list(host_state.files([f"{tmp_path}/1*"])) == [f"{tmp_path}/13", f"{tmp_path}/15"]
    assert host_state.files([f"{tmp_path}/2*"]) == {}


def test_contents_are_small_text_only(tmp_path):
    (tmp_path / "text").write_text("grün\n")
    (tmp_path / "large").write_bytes(b"x" * (host_state.CONTENT_LIMIT + 1))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert host_state.contents([f"{tmp_path}/text", f"{tmp_path}/none"]) == {f"{tmp_path}/text": "grün\n", f"{tmp_path}/none": None}
    for name in ("large", "binary"):
        with pytest.raises(ValueError, match=name):
            host_state.contents([f"{tmp_path}/{name}"])


def test_packages_users_and_groups():
    assert host_state.packages([]) == {}
    if os.path.exists("/usr/bin/dpkg-query"):
        found = host_state.packages(["dpkg", "no-such-package"])
        assert found["dpkg"]
        assert found["no-such-package"] is None
    found = host_state.users(["root", "no-such-user"])
    assert (found["root"]["uid"], found["root"]["home"], found["no-such-user"]) == (0, "/root", None)
    assert "root" in found["root"]["groups"]
    assert host_state.groups(["root", "no-such-group"]) == {"root": 0, "no-such-group": None}


def test_a_key_of_another_certificate_is_not_a_pair(tmp_path):
    for name in ("one", "two"):
        made = f"-subj /CN={name} -keyout {tmp_path}/{name}.key -out {tmp_path}/{name}.crt"
        command = f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 {made}"
        subprocess.run(command.split(), check=True, capture_output=True)
    pairs = [("one.crt", "one.key", True), ("one.crt", "two.key", False), ("one.crt", "none.key", False), ("none.crt", "one.key", False)]
    for cert, key, wanted in pairs:
        found = host_state.key_pairs([{"cert": f"{tmp_path}/{cert}", "key": f"{tmp_path}/{key}"}])
        assert found == {f"{tmp_path}/{cert}": wanted}, (cert, key)


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, 2048),
        ({"sys/fs/cgroup/memory.max": "max"}, 2048),
        ({"sys/fs/cgroup/memory.max": str(1024 * 1024)}, 1024),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}, 2048),
        ({"proc/1/cgroup": "0::/docker/abc/init.scope\n", "sys/fs/cgroup/docker/abc/memory.max": str(512 * 1024)}, 512),
        ({"proc/1/cgroup": "5:memory:/docker/abc\n", "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": str(256 * 1024)}, 256),
    ],
)
def test_memory_is_the_lower_of_machine_and_control_group(tmp_path, files, wanted):
    for name, text in {"proc/meminfo": "MemTotal:       2048 kB\n", **files}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert host_state.memory_bytes(tmp_path) == wanted * 1024


def test_a_systemd_that_does_not_answer_is_an_error(tmp_path, monkeypatch):
    program = tmp_path / "systemctl"
    program.write_text("#!/bin/sh\necho 'Failed to connect to bus' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(RuntimeError, match="Failed to connect to bus"):
        host_state.units(["ssh.service"])
