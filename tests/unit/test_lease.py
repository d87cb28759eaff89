"""The lease: one holder, fencing numbers that only grow, takeover only when expired or seen dead."""

import json
import multiprocessing
import os
import subprocess
import sys
import time

import pytest
from ansible.module_utils.greenroom import lease as lease_module
from ansible.module_utils.greenroom.durable import DurableError
from ansible.module_utils.greenroom.lease import LeaseError, LeaseFile, LeaseHeld, age_s, expired, identity, is_dead, pid_start


@pytest.fixture
def leases(tmp_path):
    return LeaseFile(tmp_path)


def take(leases, run_id="run-1", **about):
    return leases.acquire(owner="anna@control", control=about.pop("control", identity(os.getpid())), run_id=run_id, **about)


def test_taking_giving_back_and_taking_again_raises_the_fencing_number(leases):
    first, before, changed = take(leases)
    assert (first["fencing"], before, changed) == (1, None, True)
    assert leases.release(1, "run-1") is True
    assert leases.read() is None
    second, _, _ = take(leases, "run-2")
    assert second["fencing"] == 2


def test_the_same_run_keeps_its_lease_and_may_say_its_step(leases):
    first, _, _ = take(leases)
    again, _, changed = take(leases)
    assert (again["fencing"], changed) == (first["fencing"], False)
    stepped, _, changed = take(leases, step="verify", version="1.2.0")
    assert changed and stepped["fencing"] == first["fencing"] and stepped["step"] == "verify"


def test_a_second_run_is_refused_with_owner_host_age_version_step_and_the_way_out(leases):
    first, _, _ = take(leases, version="1.2.0", step="staging")
    with pytest.raises(LeaseHeld) as refused:
        take(leases, "run-2")
    text = str(refused.value)
    for part in (
        "anna@control",
        identity(os.getpid())["host"],
        "run-1",
        "0 min",
        "1.2.0",
        "step staging",
        f"--token {first['token']}",
        "greenroom unlock",
    ):
        assert part in text
    assert refused.value.exit_status == 75
    assert refused.value.holder["run_id"] == "run-1"


def test_an_expired_lease_is_taken_over_and_its_holder_fenced_off(leases):
    first, _, _ = take(leases, ttl_s=0)
    time.sleep(0.01)
    second, before, _ = take(leases, "run-2")
    assert before["run_id"] == "run-1" and second["fencing"] == first["fencing"] + 1
    with pytest.raises(LeaseHeld, match="stale"):
        leases.require(first["fencing"], "run-1")
    with pytest.raises(LeaseHeld, match="lost the lease"):
        leases.release(first["fencing"], "run-1")
    assert leases.require(second["fencing"], "run-2")["fencing"] == second["fencing"]


def test_the_expired_holder_itself_is_refused(leases):
    first, _, _ = take(leases, ttl_s=0)
    time.sleep(0.01)
    with pytest.raises(LeaseHeld, match="expired"):
        leases.require(first["fencing"], "run-1")


def test_a_dead_control_process_is_seen_on_its_own_machine_only_and_then_replaced(leases):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    control = identity(process.pid)
    first, _, _ = take(leases, control=control)
    assert is_dead(control) is False
    process.kill()
    process.wait()
    assert is_dead(control) is True
    assert is_dead({**control, "boot_id": "another-boot"}) is None
    assert is_dead({**control, "host": "another-host"}) is None
    with pytest.raises(LeaseHeld):
        take(leases, "run-2", dead=[first["fencing"] + 5])
    second, before, _ = take(leases, "run-2", dead=[first["fencing"]])
    assert before["run_id"] == "run-1" and second["fencing"] == 2


def test_a_reused_pid_is_not_the_holder():
    control = identity(os.getpid())
    assert is_dead({**control, "pid_start": control["pid_start"] - 1}) is True
    assert pid_start(os.getpid()) == control["pid_start"]
    assert pid_start(2**22 + 1) is None


def test_a_step_of_the_wall_clock_neither_frees_nor_prolongs_a_lease(leases, monkeypatch):
    lease, _, _ = take(leases, ttl_s=3600)
    for day in (86400, -86400):
        shifted = time.time() + day
        monkeypatch.setattr(lease_module.time, "time", lambda shifted=shifted: shifted)
        assert not expired(lease)
        assert age_s(lease) < 60


def test_after_a_reboot_of_the_gateway_the_wall_clock_counts(leases):
    lease, _, _ = take(leases, ttl_s=1)
    assert expired({**lease, "gateway_boot_id": "before", "taken_epoch_s": time.time() - 5})


def test_unlock_needs_this_leases_token(leases):
    first, _, _ = take(leases)
    with pytest.raises(LeaseHeld, match="another lease"):
        leases.unlock("00000000")
    assert leases.read()["run_id"] == "run-1"
    assert leases.unlock(first["token"])["run_id"] == "run-1"
    assert leases.unlock("anything") is None
    with pytest.raises(LeaseHeld, match="there is none"):
        leases.require(first["fencing"])


def test_an_edited_or_cut_lease_stops_with_the_files_name(leases):
    take(leases)
    held = json.loads(leases.path.read_text())
    leases.path.write_text(json.dumps({**held, "owner": "mallory@elsewhere"}))
    with pytest.raises(LeaseError, match=rf"{leases.path}: its checksum does not fit"):
        take(leases, "run-2")
    leases.path.write_text(json.dumps(held)[:50])
    with pytest.raises(LeaseError, match="cut or edited"):
        leases.read()


def test_a_lost_fencing_file_does_not_lower_the_number(leases):
    for number in range(3):
        take(leases, f"run-{number}")
        if number < 2:
            leases.release(number + 1)
    leases.fencing_path.unlink()
    lease, _, _ = take(leases, "run-9", dead=[3])
    assert lease["fencing"] == 4


def test_control_must_be_complete(leases):
    with pytest.raises(LeaseError, match="control must hold"):
        take(leases, control={"host": "x"})


def contend(directory, number, ready, go, results):
    leases = LeaseFile(directory)
    ready.put(number)
    go.wait()
    try:
        with leases.lock():
            lease, _, _ = leases.acquire(owner=f"contender{number}@control", control=identity(os.getpid()), run_id=f"run-{number}")
        results.put((number, lease["fencing"]))
    except LeaseHeld as error:
        results.put((number, str(error)))
    time.sleep(1)


def test_eight_contenders_have_exactly_one_holder(leases):
    context = multiprocessing.get_context("fork")
    for turn in range(5):
        ready, results, go = context.Queue(), context.Queue(), context.Event()
        processes = [context.Process(target=contend, args=(leases.directory, n, ready, go, results)) for n in range(8)]
        for process in processes:
            process.start()
        for _ in processes:
            ready.get(timeout=20)
        go.set()
        outcomes = [results.get(timeout=20) for _ in processes]
        winners = [one for one in outcomes if isinstance(one[1], int)]
        assert len(winners) == 1, outcomes
        assert winners[0][1] == turn + 1
        assert leases.read()["run_id"] == f"run-{winners[0][0]}"
        assert all(f"contender{winners[0][0]}@control" in one[1] for one in outcomes if one not in winners)
        for process in processes:
            process.terminate()
            process.join()
        leases.release(turn + 1)


def test_a_lock_that_somebody_keeps_is_reported_with_its_file(leases):
    with leases.lock(), pytest.raises(DurableError, match=r"\.lock: locked by another process for 0.1 s"), leases.lock(timeout_s=0.1):
        pass
