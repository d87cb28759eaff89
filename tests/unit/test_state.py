"""The state machine of releases: written first, checksummed, ordered by a counter, and never guessed at."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from ansible.module_utils.greenroom import state as state_module
from ansible.module_utils.greenroom.durable import DurableError, read_sealed, seal, sealed, write_atomic, write_sealed
from ansible.module_utils.greenroom.lease import LeaseHeld, identity
from ansible.module_utils.greenroom.slots import SlotError, link_slot, read_links, release_number
from ansible.module_utils.greenroom.state import Releases, StateError, idle_slot, matches_live, protected, store_copy
from ansible.module_utils.greenroom.switch import SwitchError

LIBRARY = Path(__file__).resolve().parents[2] / "plugins" / "module_utils"


class Gateway:
    """A gateway's folders in a temporary place, with the lease of one run at a time."""

    def __init__(self, root):
        self.root = root
        (root / "state").mkdir()
        self.releases = Releases(root / "state", "svc", root / "switch")
        self.run_id, self.fencing = "run-0", None

    def begin(self, run_id):
        lease, _, _ = self.releases.lease.acquire(owner="anna@control", control=identity(os.getpid()), run_id=run_id, ttl_s=3600)
        self.run_id, self.fencing = run_id, lease["fencing"]
        return {"run_id": run_id, "fencing": self.fencing}

    def end(self):
        self.releases.lease.release(self.fencing, self.run_id)

    def plan(self, version="1.0.0", commit="a" * 40, lock="l" * 64, config="c1", **more):
        return self.releases.plan(
            run_id=self.run_id, fencing=self.fencing, version=version, commit=commit, lock_sha256=lock, config_digest=config, **more
        )[0]

    def stage(self):
        return self.releases.stage(run_id=self.run_id, fencing=self.fencing, artefact_sha256="f" * 64)[0]

    def switch(self, slot, reason="verified"):
        return self.releases.switch_to(slot, run_id=self.run_id, fencing=self.fencing, reason=reason)[0]

    def deploy(self, run_id, version="1.0.0", commit="a" * 40, config="c1"):
        self.begin(run_id)
        job = self.plan(version, commit, config=config)["in_progress"]
        self.stage()
        self.switch(job["slot"])
        state = self.releases.confirm(run_id=run_id, fencing=self.fencing)[0]
        self.end()
        return state


@pytest.fixture
def gateway(tmp_path):
    return Gateway(tmp_path)


# -- files ---------------------------------------------------------------------------------------------------------------


def test_sealed_files_round_trip_and_any_edit_is_noticed(tmp_path):
    path = tmp_path / "x.json"
    written = write_sealed(path, {"a": 1, "b": "ü\n"})
    assert read_sealed(path, "") == written and sealed(written)
    raw = path.read_bytes()
    for position in range(len(raw) - 1):
        path.write_bytes(raw[:position])
        with pytest.raises(DurableError, match=r"x\.json.*ask the other hosts"):
            read_sealed(path, "ask the other hosts")
    path.write_bytes(raw.replace(b'"a": 1', b'"a": 2'))
    with pytest.raises(DurableError, match="checksum"):
        read_sealed(path, "")
    path.unlink()
    assert read_sealed(path, "") is None


def test_kill_between_temporary_file_and_rename_keeps_the_old_content(tmp_path):
    """A real process killed with SIGKILL at the worst moment, then a normal write that cleans up after it."""
    path = tmp_path / "state.json"
    write_atomic(path, b"old")
    code = f"""
        import ansible.module_utils, os, signal
        ansible.module_utils.__path__.append({str(LIBRARY)!r})
        from ansible.module_utils.greenroom.durable import write_atomic
        os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        write_atomic({str(path)!r}, b"new")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.glob(".state.json.*.part"))) == 1
    write_atomic(path, b"newer")
    assert path.read_bytes() == b"newer"
    assert os.listdir(tmp_path) == ["state.json"]


def test_a_full_disk_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    write_atomic(path, b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new" * 1000)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["state.json"]


# -- the ordinary way ------------------------------------------------------------------------------------------------------


def test_an_absent_file_is_a_first_deploy(gateway):
    state = gateway.releases.read()
    assert state["counter"] == 0 and state["live"] is None and state["next_number"] == 1 and idle_slot(state) == "blue"
    assert gateway.releases.problems(state) == []
    assert os.listdir(gateway.root / "state") == []


def test_two_deploys_move_live_previous_and_last_known_good(gateway):
    first = gateway.deploy("run-1")
    assert (first["live"]["number"], first["live"]["slot"], first["previous"]) == (1, "blue", None)
    assert first["last_known_good"]["number"] == 1 and first["live"]["confirmed"]
    second = gateway.deploy("run-2", "1.1.0", "b" * 40)
    assert (second["live"]["number"], second["live"]["slot"], second["previous"]["number"]) == (2, "green", 1)
    assert second["slots"] == {"blue": 1, "green": 2} and second["next_number"] == 3
    assert gateway.releases.switch.read() == "green"
    assert second["versions"]["1.0.0"] == {"commit": "a" * 40, "lock_sha256": "l" * 64}
    assert second["releases"]["2"]["artefact_sha256"] == "f" * 64
    assert protected(second) == [1, 2]
    actions = [entry["action"] for entry in gateway.releases.history()]
    assert actions == ["planned", "staged", "switching", "switched", "confirmed"] * 2
    assert [entry["counter"] for entry in gateway.releases.history()] == list(range(1, 11))
    assert {entry["who"] for entry in gateway.releases.history()} == {"anna@control"}
    assert gateway.releases.problems(second) == []


def test_every_step_again_changes_nothing(gateway):
    gateway.begin("run-1")
    common = {"run_id": "run-1", "fencing": gateway.fencing}
    content = {"version": "1.0.0", "commit": "a" * 40, "lock_sha256": "l" * 64}
    steps = [
        lambda: gateway.releases.plan(**common, **content),
        lambda: gateway.releases.stage(**common, artefact_sha256="f" * 64),
        lambda: gateway.releases.switch_to("blue", **common, reason="x"),
        lambda: gateway.releases.confirm(**common),
    ]
    for step in steps:
        assert step()[1] is True
        counter = gateway.releases.read()["counter"]
        assert step()[1] is False
        assert gateway.releases.read()["counter"] == counter


def test_what_is_live_is_recognised_for_a_no_op(gateway):
    state = gateway.deploy("run-1")
    same = ("1.0.0", "a" * 40, "l" * 64, "c1")
    assert matches_live(state, *same)
    for position, other in enumerate(("1.0.1", "b" * 40, "m" * 64, "c2")):
        changed = [*same]
        changed[position] = other
        assert not matches_live(state, *changed)
    gateway.begin("run-2")
    assert not matches_live(gateway.plan("1.1.0", "b" * 40), *same)


def test_a_failed_verification_goes_back_and_marks_the_release_bad(gateway):
    gateway.deploy("run-1")
    gateway.begin("run-2")
    gateway.plan("1.1.0", "b" * 40)
    gateway.stage()
    gateway.switch("green")
    common = {"run_id": "run-2", "fencing": gateway.fencing}
    with pytest.raises(StateError, match=r"users are on green.*Switch to blue first") as refused:
        gateway.releases.fail(**common, reason="error rate 6 %", bad=True)
    assert refused.value.exit_status == 4
    state = gateway.switch("blue", "error rate 6 %")
    assert state["live"]["number"] == 1 and state["previous"] is None and state["in_progress"]["step"] == "switched_back"
    state, changed = gateway.releases.fail(**common, reason="error rate 6 %", bad=True)
    assert changed and state["in_progress"] is None and state["live"]["confirmed"]
    assert [(one["number"], one["reason"]) for one in state["bad"]] == [(2, "error rate 6 %")]
    assert gateway.releases.fail(**common, reason="again")[1] is False
    gateway.end()
    gateway.begin("run-3")
    with pytest.raises(StateError, match=r"found bad in run run-2: error rate 6 %.*run_retry_bad=true"):
        gateway.plan("1.1.0", "b" * 40)
    with pytest.raises(StateError, match="found bad"):
        gateway.plan("1.1.0", "b" * 40, config=None)
    assert gateway.plan("1.1.0", "b" * 40, config="repaired")["in_progress"]["number"] == 3
    gateway.end()
    gateway.begin("run-4")
    assert gateway.plan("1.1.0", "b" * 40, retry_bad=True)["in_progress"]["number"] == 4


def test_a_failed_staging_leaves_users_and_the_numbers_go_on(gateway):
    gateway.deploy("run-1")
    gateway.begin("run-2")
    gateway.plan("1.1.0", "b" * 40)
    state = gateway.releases.fail(run_id="run-2", fencing=gateway.fencing, reason="disk full")[0]
    assert state["live"]["number"] == 1 and state["bad"] == [] and state["next_number"] == 3


def test_a_first_deploy_that_fails_after_the_switch_closes_the_gateway(gateway):
    gateway.begin("run-1")
    gateway.plan()
    gateway.stage()
    gateway.switch("blue")
    state = gateway.switch(None, "unhealthy")
    assert state["live"] is None and gateway.releases.switch.read() is None
    state = gateway.releases.fail(run_id="run-1", fencing=gateway.fencing, reason="unhealthy", bad=True)[0]
    assert state["in_progress"] is None and gateway.releases.problems(state) == []


# -- refusals --------------------------------------------------------------------------------------------------------------


def test_a_version_belongs_to_one_commit_and_one_lock(gateway):
    gateway.deploy("run-1")
    gateway.begin("run-2")
    with pytest.raises(StateError, match=rf"version 1.0.0 is commit {'a' * 40} .*this one is commit {'b' * 40}"):
        gateway.plan("1.0.0", "b" * 40)
    with pytest.raises(StateError, match="new version"):
        gateway.plan("1.0.0", "a" * 40, lock="m" * 64)


@pytest.mark.parametrize("version", ["1..2", "1 2", "$(id)", "../x", "v" * 64, "", "-1", "1\n", "1/2"])
def test_a_bad_version_string_is_refused(gateway, version):
    gateway.begin("run-1")
    with pytest.raises(StateError, match="not of the form"):
        gateway.plan(version)
    assert gateway.releases.read()["counter"] == 0


def test_nothing_changes_without_the_lease(gateway):
    gateway.begin("run-1")
    content = {"version": "1", "commit": "a" * 40, "lock_sha256": "l" * 64}
    with pytest.raises(StateError, match="needs the fencing number"):
        gateway.releases.plan(run_id="run-1", **content)
    for fencing, run_id in ((99, "run-1"), (gateway.fencing, "run-2")):
        with pytest.raises(LeaseHeld, match="stale"):
            gateway.releases.plan(run_id=run_id, fencing=fencing, **content)
    gateway.end()
    with pytest.raises(LeaseHeld, match="there is none"):
        gateway.plan()
    assert not gateway.releases.path.exists()


def test_a_holder_that_lost_its_lease_cannot_switch(gateway):
    gateway.begin("run-1")
    gateway.plan()
    gateway.stage()
    old = gateway.fencing
    gateway.releases.lease.unlock(gateway.releases.lease.read()["token"])
    gateway.begin("run-2")
    with pytest.raises(LeaseHeld):
        gateway.releases.switch_to("blue", run_id="run-1", fencing=old, reason="late")
    assert gateway.releases.switch.read() is None


def test_only_a_staged_release_can_be_switched_to_and_only_a_switched_one_confirmed(gateway):
    gateway.deploy("run-0")
    gateway.begin("run-1")
    gateway.plan("1.1.0", "b" * 40)
    with pytest.raises(StateError, match="holds no release"):
        gateway.switch("green")
    gateway.stage()
    with pytest.raises(StateError, match="cannot be confirmed: step staged, users are on blue"):
        gateway.releases.confirm(run_id="run-1", fencing=gateway.fencing)
    gateway.switch("green")
    gateway.releases.switch.flip("blue")
    with pytest.raises(StateError, match="users are on blue"):
        gateway.releases.confirm(run_id="run-1", fencing=gateway.fencing)


def test_a_planned_release_is_not_taken_for_what_its_slot_held_before(gateway):
    gateway.deploy("run-1")
    gateway.deploy("run-2", "1.1.0", "b" * 40)
    gateway.begin("run-3")
    assert gateway.plan("1.2.0", "d" * 40)["in_progress"]["slot"] == "blue"
    with pytest.raises(StateError, match="planned but not staged"):
        gateway.switch("blue")


def test_a_switch_moved_by_hand_stops_the_next_deploy_until_a_person_decides(gateway):
    gateway.deploy("run-1")
    gateway.deploy("run-2", "1.1.0", "b" * 40)
    gateway.releases.switch.flip("blue")
    gateway.begin("run-3")
    with pytest.raises(StateError, match=r"users are on blue, but .*state.json says green.*greenroom switch") as refused:
        gateway.plan("1.2.0", "d" * 40)
    assert refused.value.exit_status == 4
    state = gateway.switch("blue", "blue it is")
    assert (state["live"]["number"], state["previous"]["number"]) == (1, 2) and gateway.releases.problems(state) == []
    assert gateway.plan("1.2.0", "d" * 40)["in_progress"]["slot"] == "green"


def test_a_run_that_died_before_the_switch_is_taken_up_or_abandoned(gateway):
    gateway.deploy("run-1")
    gateway.begin("run-2")
    assert gateway.plan("1.1.0", "b" * 40)["in_progress"]["number"] == 2
    gateway.end()
    gateway.begin("run-3")
    state = gateway.plan("1.1.0", "b" * 40)
    assert (state["in_progress"]["number"], state["in_progress"]["run_id"], state["next_number"]) == (2, "run-3", 3)
    gateway.end()
    gateway.begin("run-4")
    state = gateway.plan("1.2.0", "d" * 40)
    assert state["in_progress"]["number"] == 3
    assert [one["action"] for one in gateway.releases.history(2)] == ["abandoned", "planned"]


def test_a_run_that_died_after_the_switch_needs_a_person_who_decides(gateway):
    gateway.deploy("run-1")
    gateway.begin("run-2")
    gateway.plan("1.1.0", "b" * 40)
    gateway.stage()
    gateway.switch("green")
    gateway.end()
    gateway.begin("run-3")
    with pytest.raises(StateError, match=r"run-2 moved users .* never confirmed.*greenroom switch blue"):
        gateway.plan("1.2.0", "d" * 40)
    gateway.end()
    gateway.begin("manual-1")
    state = gateway.switch("blue", "going back")
    assert state["live"]["number"] == 1 and state["in_progress"] is None and state["previous"] is None


def test_a_failing_switch_is_recorded_and_users_stay(gateway, monkeypatch):
    gateway.deploy("run-1")
    gateway.begin("run-2")
    gateway.plan("1.1.0", "b" * 40)
    gateway.stage()

    def readonly(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "rename", readonly)
    with pytest.raises(SwitchError, match="users are on blue"):
        gateway.switch("green")
    monkeypatch.undo()
    state = gateway.releases.read()
    assert state["live"]["number"] == 1 and state["in_progress"]["step"] == "staged" and gateway.releases.problems(state) == []
    assert gateway.releases.history(1)[0]["action"] == "switch_failed"
    assert gateway.switch("green")["live"]["number"] == 2


@pytest.mark.parametrize("when", ["before the flip", "after the flip"])
def test_a_kill_around_the_flip_is_finished_by_asking_again(gateway, monkeypatch, when):
    """The intent was written; the result was not. Both orders end in the same state."""
    gateway.deploy("run-1")
    gateway.begin("run-2")
    gateway.plan("1.1.0", "b" * 40)
    gateway.stage()

    class Killed(BaseException):
        pass

    real = gateway.releases.switch.flip

    def flip(slot):
        if when == "after the flip":
            real(slot)
        raise Killed

    monkeypatch.setattr(gateway.releases.switch, "flip", flip)
    with pytest.raises(Killed):
        gateway.switch("green")
    monkeypatch.setattr(gateway.releases.switch, "flip", real)
    state = gateway.releases.read()
    assert state["in_progress"]["step"] == "switching" and state["live"]["number"] == 1
    assert "never confirmed" in gateway.releases.problems(state)[0]
    state = gateway.switch("green")
    assert state["live"]["number"] == 2 and state["previous"]["number"] == 1 and gateway.releases.switch.read() == "green"


# -- damage ----------------------------------------------------------------------------------------------------------------


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
    lines = gateway.releases.ledger_path.read_bytes().split(b"\n")
    gateway.releases.ledger_path.write_bytes(b"\n".join([lines[0], lines[1].replace(b"anna", b"otto"), *lines[2:]]))
    with pytest.raises(StateError, match=r"ledger\.jsonl:2: was edited"):
        gateway.releases.history()
    gateway.releases.ledger_path.write_bytes(b"\n".join([lines[0], *lines[2:]]))
    with pytest.raises(StateError, match=r"ledger\.jsonl:2: was edited"):
        gateway.releases.history()


def test_a_shortened_ledger_is_noticed(gateway):
    state = gateway.deploy("run-1")
    lines = gateway.releases.ledger_path.read_bytes().split(b"\n")
    gateway.releases.ledger_path.write_bytes(b"\n".join(lines[:2]) + b"\n")
    assert "ends with entry 2" in gateway.releases.problems(state)[0]
    gateway.begin("run-2")
    with pytest.raises(StateError, match=r"ends with entry 2, but .* entry 5 is the last"):
        gateway.plan("1.1.0", "b" * 40)


@pytest.mark.parametrize("torn", [0, 1, 30])
def test_a_crash_between_state_and_ledger_is_healed_by_the_next_write(gateway, monkeypatch, torn):
    gateway.deploy("run-1")
    raw = gateway.releases.ledger_path.read_bytes()
    last = raw.rstrip(b"\n").rfind(b"\n") + 1
    gateway.releases.ledger_path.write_bytes(raw[: last + torn])
    assert len(gateway.releases.history()) == 4
    assert gateway.releases.problems(gateway.releases.read()) == []
    gateway.begin("run-2")
    gateway.plan("1.1.0", "b" * 40)
    assert gateway.releases.ledger_path.read_bytes().startswith(raw)
    assert [one["seq"] for one in gateway.releases.history()] == [1, 2, 3, 4, 5, 6]


def test_an_unwritable_state_says_what_is_not_recorded(gateway, monkeypatch):
    gateway.deploy("run-1")
    gateway.begin("run-2")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state_module, "write_sealed", full)
    with pytest.raises(StateError, match=r"No space left on device.*'planned' is not recorded"):
        gateway.plan("1.1.0", "b" * 40)
    monkeypatch.undo()
    assert gateway.releases.read()["in_progress"] is None


def test_mtime_means_nothing(gateway):
    gateway.deploy("run-1")
    before = gateway.releases.read()
    os.utime(gateway.releases.path, (0, 0))
    os.utime(gateway.releases.ledger_path, (2**31, 2**31))
    assert gateway.releases.read() == before and gateway.releases.problems(before) == []


# -- check mode --------------------------------------------------------------------------------------------------------------


def test_dry_shows_the_state_as_it_would_be_and_writes_nothing(gateway):
    gateway.deploy("run-1")
    before = {path: path.read_bytes() for path in gateway.root.rglob("*") if path.is_file()}
    dry = Releases(gateway.root / "state", "svc", gateway.root / "switch", dry=True)
    state, changed = dry.plan(run_id="check", version="1.1.0", commit="b" * 40, lock_sha256="l" * 64)
    assert changed and state["in_progress"]["number"] == 2
    for step in (
        lambda: dry.stage(run_id="check", artefact_sha256="f"),
        lambda: dry.switch_to("green", run_id="check", reason="x"),
        lambda: dry.confirm(run_id="check"),
    ):
        assert step()[1] is True
    assert {path: path.read_bytes() for path in gateway.root.rglob("*") if path.is_file()} == before


# -- application hosts ---------------------------------------------------------------------------------------------------------


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


@pytest.fixture
def host(tmp_path):
    for name in ("1-1.0.0", "2-1.1.0"):
        (tmp_path / "releases" / name).mkdir(parents=True)
        (tmp_path / "releases" / name / "release.json").write_text("{}")
    return tmp_path


def test_a_slot_is_linked_with_one_rename_and_again_changes_nothing(host):
    releases, slots = host / "releases", host / "slots"
    assert link_slot(slots, "blue", releases / "1-1.0.0", releases, dry=True) is True and not slots.exists()
    assert link_slot(slots, "blue", releases / "1-1.0.0", releases) is True
    assert link_slot(slots, "blue", releases / "1-1.0.0", releases) is False
    assert link_slot(slots, "blue", releases / "2-1.1.0", releases) is True
    assert read_links(slots, releases) == ({"blue": "2-1.1.0", "green": None}, [])
    assert os.listdir(slots) == ["blue"]


def test_what_is_no_finished_release_is_not_linked(host):
    releases, slots = host / "releases", host / "slots"
    (releases / "3-1.2.0").mkdir()
    (host / "elsewhere" / "4-1.3.0").mkdir(parents=True)
    (host / "elsewhere" / "4-1.3.0" / "release.json").write_text("{}")
    (releases / "latest").mkdir()
    (releases / "5-1.5.0").symlink_to(host / "elsewhere" / "4-1.3.0")
    for target, reason in (
        (releases / "3-1.2.0", "never finished"),
        (host / "elsewhere" / "4-1.3.0", "no release folder"),
        (releases / "latest", "no release folder"),
        (releases / "5-1.5.0", "no release folder"),
        (releases / "1-1.0.0" / "..", "no release folder"),
        (releases / "9-9.9.9", "never finished"),
    ):
        with pytest.raises(SlotError, match=reason):
            link_slot(slots, "blue", target, releases)
    assert not os.path.lexists(slots / "blue")


def test_a_directory_instead_of_a_link_is_never_touched(host):
    releases, slots = host / "releases", host / "slots"
    (slots / "blue").mkdir(parents=True)
    (slots / "blue" / "precious").write_text("x")
    for adopt in (False, True):
        with pytest.raises(SlotError, match=rf"{slots}/blue: is a directory or file"):
            link_slot(slots, "blue", releases / "1-1.0.0", releases, adopt=adopt)
    assert (slots / "blue" / "precious").read_text() == "x"
    assert read_links(slots, releases)[1]


@pytest.mark.parametrize("target", ["gone", "outside"])
def test_a_dangling_or_foreign_link_needs_adopt(host, target):
    releases, slots = host / "releases", host / "slots"
    (host / "outside").mkdir()
    slots.mkdir()
    (slots / "blue").symlink_to(host / target)
    with pytest.raises(SlotError, match="changed it by hand"):
        link_slot(slots, "blue", releases / "1-1.0.0", releases)
    assert link_slot(slots, "blue", releases / "1-1.0.0", releases, adopt=True) is True


def test_release_names():
    assert release_number("12-1.4.0+gabc") == 12
    for name in ("1.4.0", "0-1", "01-1", "-1", "1-", "1-..", "1-a b", "1-1\n"):
        assert release_number(name) is None
