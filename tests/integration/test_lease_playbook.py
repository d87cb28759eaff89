"""The lease as a playbook takes it: it ends with ansible-playbook, however that ends, and the next run goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60  # nothing here takes as long
PLAY = """
- hosts: all
  gather_facts: false
  vars:
    about: &about {service: svc, run_id: "{{ name }}", directory: "{{ folder }}/state", switch: "{{ folder }}/switch"}
  tasks:
    - name: Take the lease
      release: {state: leased, <<: *about, wait_s: "{{ wait | default(0) }}", step: "a test of {{ name }}"}
      register: lease
    - name: Say that it is held
      ansible.builtin.copy: {dest: "{{ folder }}/{{ name }}", content: "{{ lease.fencing }}", mode: "0644"}
    - name: Work
      ansible.builtin.wait_for: {path: "{{ folder }}/go_on", timeout: 120}
    - name: Give it back
      release: {state: unleased, <<: *about, fencing: "{{ lease.fencing }}"}
"""


@pytest.fixture
def play(tmp_path):
    """Starts the playbook under a name; gives the process. What runs at the end is ended."""
    (tmp_path / "play.yml").write_text(PLAY)
    (tmp_path / "hosts.yml").write_text(
        "all: {hosts: {gateway: {ansible_connection: local, ansible_python_interpreter: /usr/bin/python3}}}\n"
    )
    started = []

    def play(name, **variables):
        environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"}
        given = json.dumps({"name": name, "folder": str(tmp_path), **variables})
        program = Path(sys.executable).with_name("ansible-playbook")
        command = [sys.executable, str(program), "-i", str(tmp_path / "hosts.yml"), str(tmp_path / "play.yml"), "-e", given]
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return started[-1]

    yield play
    for process in started:
        process.kill()
        process.wait()


def until(path):
    deadline = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} did not come"
        time.sleep(0.05)


def test_a_killed_playbook_loses_its_lease_and_the_next_one_gets_it(play, tmp_path):
    first = play("first")
    until(tmp_path / "first")
    second = play("second")
    said = second.communicate(timeout=SECONDS)[0]
    assert second.returncode == 2 and "a test of first" in said and '"greenroom_exit": 75' in said and f"pid {first.pid} there" in said
    third = play("third", wait=SECONDS)
    first.send_signal(signal.SIGKILL)
    first.wait()
    until(tmp_path / "third")
    assert (tmp_path / "third").read_text() == "2"
    (tmp_path / "go_on").touch()
    said = third.communicate(timeout=SECONDS)[0]
    assert third.returncode == 0, said
    assert not (tmp_path / "state" / "lease.json").exists()
    entry = (
        json.loads((tmp_path / "state" / "ledger.jsonl").read_text().splitlines()[-1])
        if (tmp_path / "state/ledger.jsonl").exists()
        else None
    )
    assert entry is None or (entry["action"], entry["fencing"]) == ("lease_taken_over", 2)
