"""The lease: one holder, which lives with its process; fencing numbers that only grow; a dead holder's is taken over after the grace."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from ansible.module_utils.greenroom import lease as lease_module
from ansible.module_utils.greenroom import lease_keeper
from ansible.module_utils.greenroom.durable import DurableError
from ansible.module_utils.greenroom.lease import LeaseError, LeaseFile, LeaseHeld, age_s

SECONDS = 20  # nothing here takes as long


@pytest.fixture
def leases(tmp_path):
    return LeaseFile(tmp_path)


def take(leases, run_id="run-1", **about):
    return leases.acquire(owner="anna@control", run_id=run_id, **{"grace_s": 0, **about})


def until(condition, what):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_taking_giving_back_and_taking_again_raises_the_fencing_number(leases):
    first = take(leases)
    assert (first.lease["fencing"], first.taken_over) == (1, None) and leases.alive()
    first.give_back()
    assert leases.read() is None and not leases.alive()
    assert take(leases, "run-2").lease["fencing"] == 2


def test_a_second_run_is_refused_with_owner_age_version_step_and_the_way_out(leases):
    first = take(leases, version="1.2.0", step="staging", pid=4711)
    with pytest.raises(LeaseHeld) as refused:
        take(leases, "run-2")
    text = str(refused.value)
    for part in ("anna@control", "pid 4711", "run-1", "0 min", "1.2.0", "step staging", f"--token {first.lease['token']}", "run_wait_s"):
        assert part in text
    assert refused.value.exit_status == 75 and refused.value.holder["run_id"] == "run-1"


def test_a_dead_holder_is_taken_over_after_the_grace_and_fenced_off(leases):
    first = take(leases)
    first.drop()
    assert not leases.alive()
    began = time.monotonic()
    second = take(leases, "run-2", grace_s=0.4)
    assert time.monotonic() - began >= 0.4
    assert second.taken_over["run_id"] == "run-1" and second.lease["fencing"] == 2
    with pytest.raises(LeaseHeld, match="stale"):
        leases.require(1, "run-1")
    with pytest.raises(LeaseHeld, match="lost the lease"):
        leases.release(1, "run-1")
    assert not first.is_mine() and leases.require(2, "run-2")["fencing"] == 2


def test_a_run_whose_channel_was_lost_comes_back_under_its_number_unless_somebody_took_it(leases):
    first = take(leases)
    first.drop()
    again = take(leases, again=1, grace_s=SECONDS)
    assert again.lease["fencing"] == 1
    again.drop()
    take(leases, "run-2")
    with pytest.raises(LeaseHeld, match="fencing number 1 of run run-1 was lost to anna@control"):
        take(leases, again=1)


def test_waiting_ends_with_the_holder(leases):
    first = take(leases)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    waiter = context.Process(target=lambda: results.put(take(leases, "run-2", wait_s=SECONDS).lease["fencing"]))
    waiter.start()
    first.give_back()
    assert results.get(timeout=SECONDS) == 2
    waiter.join()


def test_a_step_of_the_wall_clock_changes_no_age(leases, monkeypatch):
    lease = take(leases).lease
    for day in (86400, -86400):
        shifted = time.time() + day
        monkeypatch.setattr(lease_module.time, "time", lambda shifted=shifted: shifted)
        assert age_s(lease) < 60


def test_after_a_reboot_of_the_gateway_the_wall_clock_tells_the_age(leases):
    lease = take(leases).lease
    assert age_s({**lease, "gateway_boot_id": "before", "taken_epoch_s": time.time() - 10**9}) >= 10**9


def test_unlock_needs_this_leases_token_or_force(leases):
    first = take(leases)
    with pytest.raises(LeaseHeld, match="another lease"):
        leases.unlock("00000000")
    assert leases.read()["run_id"] == "run-1"
    assert leases.unlock(first.lease["token"])["run_id"] == "run-1"
    assert leases.unlock("anything") is None
    with pytest.raises(LeaseHeld, match="there is none"):
        leases.require(first.lease["fencing"])
    first.drop()
    take(leases, "run-2")
    assert leases.unlock(None, force=True)["run_id"] == "run-2"


def test_an_edited_or_cut_lease_stops_with_the_files_name(leases):
    take(leases).drop()
    held = json.loads(leases.path.read_text())
    leases.path.write_text(json.dumps({**held, "owner": "mallory@elsewhere"}))
    with pytest.raises(LeaseError, match=rf"{leases.path}: its checksum does not fit"):
        take(leases, "run-2")
    leases.path.write_text(json.dumps(held)[:50])
    with pytest.raises(LeaseError, match="cut or edited"):
        leases.read()


def test_a_lost_fencing_file_does_not_lower_the_number(leases):
    for number in range(3):
        take(leases, f"run-{number}").drop()
    leases.fencing_path.unlink()
    assert take(leases, "run-9").lease["fencing"] == 4


def test_a_lock_that_somebody_keeps_is_reported_with_its_file(leases):
    with leases.lock(), pytest.raises(DurableError, match=r"\.lock: locked by another process for 0.1 s"), leases.lock(timeout_s=0.1):
        pass


# -- contenders ----------------------------------------------------------------------------------------------------------


def contend(directory, number, rounds, results):
    """Take the lease again and again; while it is held, nobody else may be in the file `inside`. Now and then die without a word."""
    leases, random_ = LeaseFile(directory), random.Random(number)
    inside, done = directory / "inside", []
    while len(done) < rounds:
        held = take(leases, f"run-{number}", wait_s=SECONDS, grace_s=0)
        handle = os.open(inside, os.O_CREAT | os.O_EXCL | os.O_WRONLY)  # raises if somebody else holds the lease
        leases.require(held.lease["fencing"], f"run-{number}")
        done.append(held.lease["fencing"])
        os.close(handle)
        os.unlink(inside)
        held.drop() if random_.random() < 0.3 else held.give_back()
    results.put((number, done))


def test_eight_contenders_have_exactly_one_holder_each_time(tmp_path):
    rounds = int(os.environ.get("GREENROOM_ROUNDS", "80")) // 8
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=contend, args=(tmp_path, number, rounds, results)) for number in range(8)]
    for process in processes:
        process.start()
    outcomes = [results.get(timeout=SECONDS * rounds) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(fencing for _number, done in outcomes for fencing in done) == list(range(1, 8 * rounds + 1))


# -- the channel: keeper on the control node, hold.py on the gateway ---------------------------------------------------------

CONTROL = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def gateway(tmp_path):
    """A gateway's folders, and how the keeper reaches it: a shell, as the connection `local` does."""

    class Gateway:
        leases = LeaseFile(tmp_path / "state")
        argv = ("/bin/sh", "-c", lease_keeper.remote_command("/usr/bin/python3"))

        def start(self, control, run_id="run-1", wait_s=0):
            request = {
                "service": "svc", "directory": str(tmp_path / "state"), "switch": str(tmp_path / "switch"), "owner": "anna@control",
                "pid": control.pid, "run_id": run_id, "version": "1.2.0", "step": "verify", "wait_s": wait_s, "again": None,
            }  # fmt: skip
            return lease_keeper.start(list(self.argv), "", request, control.pid)

    return Gateway()


@pytest.fixture
def control():
    process = subprocess.Popen(CONTROL)
    yield process
    process.kill()
    process.wait()


def holders(leases):
    """Pids of the processes that keep the lock."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and any(
                os.readlink(f"/proc/{entry}/fd/{fd}") == str(leases.lock_path) for fd in os.listdir(f"/proc/{entry}/fd")
            ):
                found.append(int(entry))
        except OSError:
            continue
    return found


def test_the_lease_lives_as_long_as_its_control_process(gateway, control):
    told = gateway.start(control)
    assert (told["fencing"], told["taken_over"]) == (1, None)
    assert gateway.leases.alive() and gateway.leases.require(1, "run-1")["pid"] == control.pid
    refused = gateway.start(control, "run-2")
    assert refused["exit_status"] == 75 and "anna@control" in refused["refused"] and refused["holder"]["fencing"] == 1
    control.send_signal(signal.SIGKILL)
    control.wait()
    until(lambda: not gateway.leases.alive(), "the lock outlives its control process")
    assert gateway.leases.read(), "the grace is over at once"


def test_a_lease_given_back_ends_its_processes(gateway, control):
    assert gateway.start(control)["fencing"] == 1
    until(lambda: holders(gateway.leases), "nobody keeps the lock")
    with gateway.leases.lock():
        gateway.leases.release(1, "run-1")
    until(lambda: not holders(gateway.leases), "the holder did not end")


def test_a_broken_channel_is_made_again_under_the_same_number(gateway, control):
    assert gateway.start(control)["fencing"] == 1
    first = holders(gateway.leases)
    for pid in first:
        os.kill(pid, signal.SIGKILL)
    until(lambda: holders(gateway.leases) and holders(gateway.leases) != first, "nobody came back")
    until(gateway.leases.alive, "the lock is not kept again")
    assert gateway.leases.require(1, "run-1")


def test_a_gateway_that_cannot_be_reached_or_is_damaged_is_said(gateway, control, tmp_path):
    gateway.argv = ("/bin/sh", "-c", "echo no route to host >&2; exit 255")
    assert "no route to host" in gateway.start(control)["refused"]
    del gateway.argv
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "state.json").write_text("{")
    told = gateway.start(control)
    assert told["exit_status"] == 4 and "state.json" in told["refused"] and "run_adopt" in told["refused"]


def test_a_process_that_is_gone_gets_no_lease(gateway):
    control = subprocess.Popen(["true"])
    control.wait()
    assert "ended without a word" in gateway.start(control)["refused"]
    assert gateway.leases.read() is None
