"""The files of the state and the ledger: sealed, chained, ordered by a counter, and never guessed at."""

import json
import os
import sys
from pathlib import Path

import pytest
from ansible.module_utils.greenroom import releases as releases_module
from ansible.module_utils.greenroom.durable import seal
from ansible.module_utils.greenroom.state import StateError, store_copy

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode puts no folder of tests on the path
from gateway_folders import Gateway


@pytest.fixture
def gateway(tmp_path):
    return Gateway(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "edited", "empty", "other service", "gone", "schema"])
def test_a_damaged_state_names_its_file_and_the_copies_and_changes_nothing(gateway, damage):
    gateway.deploy("run-1")
    path, raw = gateway.releases.path, gateway.releases.path.read_bytes()
    state = gateway.releases.read()
    if damage == "cut":
        path.write_bytes(raw[: len(raw) // 2])
    elif damage == "edited":
        path.write_bytes(raw.replace(b'"next_number": 2', b'"next_number": 1'))
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other service":
        path.write_text(json.dumps(seal({**state, "service": "other"})))
    elif damage == "schema":
        path.write_text(json.dumps(seal({**state, "schema": 2})))
    else:
        path.unlink()
    after = path.read_bytes() if path.exists() else None
    with pytest.raises(StateError, match=str(path)) as refused:
        gateway.releases.read()
    assert refused.value.exit_status == 4
    if damage != "schema":
        assert "app hosts keep copies" in str(refused.value)
    gateway.begin("run-2")
    with pytest.raises(StateError):
        gateway.plan("1.1.0", "b" * 40)
    assert (path.read_bytes() if path.exists() else None) == after


def test_an_edited_ledger_is_named_by_line(gateway):
    gateway.deploy("run-1")
    lines = gateway.releases.ledger.path.read_bytes().split(b"\n")
    gateway.releases.ledger.path.write_bytes(b"\n".join([lines[0], lines[1].replace(b"anna", b"otto"), *lines[2:]]))
    with pytest.raises(StateError, match=r"ledger\.jsonl:2: was edited"):
        gateway.releases.history()
    gateway.releases.ledger.path.write_bytes(b"\n".join([lines[0], *lines[2:]]))
    with pytest.raises(StateError, match=r"ledger\.jsonl:2: was edited"):
        gateway.releases.history()


def test_a_shortened_ledger_is_noticed(gateway):
    state = gateway.deploy("run-1")
    lines = gateway.releases.ledger.path.read_bytes().split(b"\n")
    gateway.releases.ledger.path.write_bytes(b"\n".join(lines[:2]) + b"\n")
    assert "ends with entry 2" in gateway.releases.problems(state)[0]
    gateway.begin("run-2")
    with pytest.raises(StateError, match=r"ends with entry 2, but .* entry 5 is the last"):
        gateway.plan("1.1.0", "b" * 40)


@pytest.mark.parametrize("torn", [0, 1, 30])
def test_a_crash_between_state_and_ledger_is_healed_by_the_next_write(gateway, monkeypatch, torn):
    gateway.deploy("run-1")
    raw = gateway.releases.ledger.path.read_bytes()
    last = raw.rstrip(b"\n").rfind(b"\n") + 1
    gateway.releases.ledger.path.write_bytes(raw[: last + torn])
    assert len(gateway.releases.history()) == 4
    assert gateway.releases.problems(gateway.releases.read()) == []
    gateway.begin("run-2")
    gateway.plan("1.1.0", "b" * 40)
    assert gateway.releases.ledger.path.read_bytes().startswith(raw)
    assert [one["seq"] for one in gateway.releases.history()] == [1, 2, 3, 4, 5, 6]


def test_an_unwritable_state_says_what_is_not_recorded(gateway, monkeypatch):
    gateway.deploy("run-1")
    gateway.begin("run-2")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(releases_module, "write_sealed", full)
    with pytest.raises(StateError, match=r"No space left on device.*'planned' is not recorded"):
        gateway.plan("1.1.0", "b" * 40)
    monkeypatch.undo()
    assert gateway.releases.read()["in_progress"] is None


def test_mtime_means_nothing(gateway):
    gateway.deploy("run-1")
    before = gateway.releases.read()
    os.utime(gateway.releases.path, (0, 0))
    os.utime(gateway.releases.ledger.path, (2**31, 2**31))
    assert gateway.releases.read() == before and gateway.releases.problems(before) == []


def test_copies_move_forward_only(gateway, tmp_path):
    old = gateway.deploy("run-1")
    new = gateway.deploy("run-2", "1.1.0", "b" * 40)
    host = tmp_path / "app1"
    assert store_copy(host, old, dry=True) is True and not host.exists()
    assert store_copy(host, json.dumps(old)) is True
    assert store_copy(host, new) is True
    assert store_copy(host, new) is False
    with pytest.raises(StateError, match=r"the copy here has counter 10, the gateway's state only 5"):
        store_copy(host, old)
    for bad in ({**new, "next_number": 99}, "{", {"counter": 1}):
        with pytest.raises(StateError):
            store_copy(host, bad)
    (host / "state.json").write_text("damaged")
    assert store_copy(host, new) is True
    # and the copy is what rescues the gateway
    gateway.releases.path.write_bytes((host / "state.json").read_bytes())
    assert gateway.releases.read() == new
