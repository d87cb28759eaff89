"""The guard against real parts: nginx with the role's own configuration and log, a service with faults on two hosts, bounded load."""

import json
import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from ansible.module_utils.greenroom.durable import write_sealed
from ansible.module_utils.greenroom.rollback import flip_back

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode puts no folder of tests on the path
from conftest import program, server_folder
from guard_site import HOSTS, Site, await_


@pytest.fixture
def site(authority, tmp_path_factory):
    made = Site(server_folder(tmp_path_factory, "guard"), authority, program("nginx", "/usr/sbin/nginx"))
    try:
        yield made.start()
    finally:
        made.close()


def rolled_back(site, seconds=30.0):
    await_(lambda: site.users_on() == "blue", f"users are on blue: {site.log()[-3000:]}", seconds)
    return await_(lambda: site.told("rolled_back"), f"the verified result is told: {site.log()[-3000:]}", seconds)[0]


def stays(site, looks=8):
    site.more_looks(looks)
    assert site.users_on() == "green" and site.rollbacks() == 0, site.log()[-3000:]


def test_a_healthy_release_stays(site):
    site.start_guard()
    assert set(site.load(200)) == {200}
    stays(site)
    day = next(iter(site.memory()["now"]["days"].values()))
    assert day["requests"] >= 200 and day["failed"] == 0 and day["judged"]["errors"] > 0 and 0 < day["p95_ms"] < 2000
    assert "greenroom_guard_last_look_timestamp_seconds" in (site.folder / "metrics" / "greenroom_guard_svc.prom").read_text()
    assert site.told("rolled_back") == []


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_up_to_three_failures_in_a_row_are_no_rollback(site, failures):
    site.start_guard()
    for host in HOSTS:  # so many looks, counted by what the guard itself remembers
        assert site.memory()["now"]["streaks"].get(host, 0) == 0
    site.limits["interval_s"] = 1.0
    site.kill("guard", signal.SIGTERM)
    site.start_guard()
    site.fault_everywhere("green", health="ill")
    await_(lambda: min(site.memory()["now"]["streaks"].values(), default=0) == failures, f"{failures} failures seen", 20)
    site.fault_everywhere("green")
    await_(lambda: max(site.memory()["now"]["streaks"].values()) == 0, "healthy again")
    assert site.users_on() == "green" and site.rollbacks() == 0


def test_the_fourth_failure_goes_back_is_verified_and_the_release_is_bad(site):
    site.start_guard()
    site.fault_everywhere("green", health="ill")
    told = rolled_back(site)
    assert told["facts"]["from"] == "2-1.1.0" and told["facts"]["to"] == "1-1.0.0" and "health checks in a row" in told["text"]
    state = site.releases.read()
    assert [one["number"] for one in state["bad"]] == [2] and state["live"]["confirmed"] and state["in_progress"] is None
    assert json.loads(site.ask("/")[2])["release"] == "1-1.0.0"
    entry = next(entry for entry in site.releases.history() if entry["action"] == "rolled_back")
    assert entry["who"].startswith("guard@") and "health checks in a row" in entry["why"]
    report = json.loads(next((site.state / "guard").glob("2-1.1.0.*.json")).read_text())
    assert report["verdict"] == "fail" and report["rollbacks"] == 1


def test_a_dead_service_goes_back_while_users_ask(site):
    site.start_guard()
    for host in HOSTS:
        site.kill((host, "green"))
    threading.Thread(target=site.load, args=(400,)).start()
    assert rolled_back(site)["facts"]["seconds"] < 60
    assert site.ask("/")[0] == 200


@pytest.mark.parametrize(("fault", "why"), [({"error_percent": 6}, "% of"), ({"delay_s": 2.5}, "P95")])
def test_errors_and_latency_of_users_go_back(site, fault, why):
    site.start_guard()
    site.fault_everywhere("green", **fault)
    users = threading.Thread(target=site.load, args=(400 if "error_percent" in fault else 80, 8 if "error_percent" in fault else 40))
    users.start()
    told = rolled_back(site)
    users.join()
    assert why in told["text"]


def test_three_percent_of_errors_stay(site):
    site.start_guard(errors={**site.limits["errors"], "min_samples": 100})
    site.fault_everywhere("green", error_percent=3)
    assert site.load(400)[500] >= 8
    stays(site)
    day = next(iter(site.memory()["now"]["days"].values()))
    assert day["judged"]["errors"] > 0 and 0 < day["error_percent"] <= 5.5


def test_a_service_that_hangs_goes_back(site):
    site.start_guard()
    for host in HOSTS:
        site.kill((host, "green"), signal.SIGSTOP)
    assert "no answer within 0.5 s" in rolled_back(site)["text"]


def test_one_ill_host_of_two_is_told_and_no_rollback(site):
    site.start_guard()
    site.kill(("app2", "green"))
    await_(lambda: site.told("host_ill"), "the ill host is told")
    stays(site)
    site.start_service("app2", "green")
    await_(lambda: site.told("over"), "and that it is well again")


def test_a_dependency_that_is_down_is_no_bad_release(site):
    site.start_guard()
    for slot in ("blue", "green"):
        site.fault_everywhere(slot, health="dependency", error_percent=100)
    threading.Thread(target=site.load, args=(200,)).start()
    told = await_(lambda: site.told("dependency_down"), f"told: {site.log()[-2000:]}")[0]
    assert "database down" in told["text"]
    stays(site)
    for slot in ("blue", "green"):
        site.fault_everywhere(slot)
    site.load(80)
    await_(lambda: site.told("over"), f"recovered: {site.log()[-2000:]}")
    site.more_looks(5)
    assert site.rollbacks() == 0, "errors of the time in which the dependency was down are not the release's"


def test_a_dependency_that_only_the_new_release_cannot_reach_is_its_own_fault(site):
    site.start_guard()
    site.fault_everywhere("green", health="dependency")
    rolled_back(site)


def test_both_slots_ill_is_no_rollback(site):
    site.start_guard()
    for slot in ("blue", "green"):
        site.fault_everywhere(slot, health="ill")
    assert "other slot is ill as well" in await_(lambda: site.told("dependency_down"), "told")[0]["text"]
    stays(site)


def test_a_cold_slot_is_no_place_to_go_back_to(site):
    site.start_guard()
    for host in HOSTS:
        site.kill((host, "blue"))
    site.fault_everywhere("green", health="ill")
    assert "not ready to serve" in await_(lambda: site.told("cannot_roll_back"), f"told {site.log()[-2000:]}")[0]["text"]
    stays(site)


def test_a_slot_with_another_release_is_no_place_to_go_back_to(site):
    site.kill(("app1", "blue"))
    site.labels["blue"] = "7-9.9.9"
    site.start_service("app1", "blue")
    site.start_guard()
    site.fault_everywhere("green", health="ill")
    assert "app1 runs 7-9.9.9" in await_(lambda: site.told("cannot_roll_back"), "told")[0]["text"]
    stays(site)


def test_a_release_that_breaks_on_the_schema_is_no_place_to_go_back_to(site):
    for host in HOSTS:
        site.kill((host, "blue"))
    site.labels["blue"] = "3-1.2.0"
    for host in HOSTS:
        site.start_service(host, "blue")
    site.deploy("1.2.0", "c", revision=["r3"], revisions=["r3"], old_app_works=False)
    site.start_guard()
    site.fault_everywhere("blue", health="ill")
    assert "the database comes first" in await_(lambda: site.told("cannot_roll_back"), f"told {site.log()[-2000:]}")[0]["text"]
    site.more_looks(5)
    assert site.users_on() == "blue" and site.rollbacks() == 0


def test_a_host_that_serves_another_release_is_told(site):
    site.kill(("app2", "green"))
    site.labels["green"] = "1-1.0.0"
    site.start_service("app2", "green")
    site.start_guard()
    assert "app2 runs 1-1.0.0" in await_(lambda: site.told("diverged"), "told")[0]["text"]
    stays(site)


def test_zero_traffic_is_blind_held_and_told_once(site):
    site.start_guard(blind={"after_s": 1, "action": "hold"})
    assert "0 requests" in await_(lambda: site.told("blind"), f"told {site.log()}")[0]["text"]
    stays(site)
    assert len(site.told("blind")) == 1
    site.load(80)
    await_(lambda: site.told("over"), "seen again")


def test_blind_goes_back_where_the_policy_says_so(site):
    site.start_guard(blind={"after_s": 1, "action": "rollback"})
    assert rolled_back(site)["text"].startswith("blind: ")


def test_a_log_that_cannot_be_read_is_no_evidence(site):
    site.config["log"] = str(site.folder / "nowhere.log")
    site.start_guard(blind={"after_s": 1, "action": "hold"})
    assert "nowhere.log" in await_(lambda: site.told("blind"), "told")[0]["text"]


@pytest.mark.parametrize("how", ["rotated", "truncated"])
def test_the_log_is_followed_over_its_rotation(site, how):
    site.start_guard()
    site.load(80)
    if how == "rotated":
        site.access_log.rename(site.access_log.with_name("access.log.1"))
        site.load(80)  # nginx still writes into the old file
        site.processes["nginx"].send_signal(signal.SIGUSR1)
        await_(site.access_log.exists, "nginx has reopened its log")
    else:
        await_(lambda: next(iter(site.memory()["now"]["days"].values()))["requests"] >= 80, "the first ones are read")
        os.truncate(site.access_log, 0)
        site.load(80)
    site.load(160)
    total = await_(
        lambda: (seen := next(iter(site.memory()["now"]["days"].values()))["requests"]) >= 320 and seen, "every request is counted"
    )
    assert total <= 321  # the site's own first question may be among them
    site.fault_everywhere("green", error_percent=50)
    threading.Thread(target=site.load, args=(200,)).start()
    rolled_back(site)


def test_a_killed_guard_remembers_and_judges_nothing_that_is_past(site):
    site.start_guard()
    site.load(80)
    site.more_looks(2)
    site.kill("guard")
    site.fault_everywhere("green", error_percent=100)
    site.load(160)
    site.fault_everywhere("green")
    site.start_guard()
    stays(site)
    day = next(iter(site.memory()["now"]["days"].values()))
    assert day["requests"] >= 240 and day["failed"] >= 150, "what was logged meanwhile counts in the report"


def test_a_guard_that_died_before_it_moved_users_judges_anew(site):
    site.start_guard()
    site.kill("guard")
    path = site.state / "guard.json"
    memory = json.loads(path.read_text())
    memory["kept"]["rollback"] = {"state": "begun", "release": "2-1.1.0", "number": 2, "why": "was ill", "at": "then", "well_at": 1.0}
    write_sealed(path, memory)
    site.start_guard()
    stays(site)
    site.fault_everywhere("green", health="ill")
    assert "health checks in a row" in rolled_back(site)["text"]


def test_a_guard_that_died_after_it_moved_users_tells_the_verified_result(site):
    site.start_guard()
    site.kill("guard")
    path = site.state / "guard.json"
    memory = json.loads(path.read_text())
    memory["kept"]["rollback"] = {"state": "begun", "release": "2-1.1.0", "number": 2, "why": "was ill", "at": "then", "well_at": 1.0}
    write_sealed(path, memory)
    flip_back(site.releases, why="guard: was ill", who="guard@gate", warm=lambda slot, release: None)
    site.start_guard()
    assert rolled_back(site)["text"] == "was ill"
    assert site.memory()["kept"]["locked"]["numbers"] == [2, 1] and site.rollbacks() == 1


def test_a_second_automatic_rollback_is_refused_also_after_a_restart(site):
    site.start_guard()
    site.fault_everywhere("green", health="ill")
    rolled_back(site)
    site.kill("guard")
    site.fault_everywhere("green")
    site.fault_everywhere("blue", health="ill")
    site.start_guard()
    told = await_(lambda: site.told("locked"), f"told: {site.log()[-2000:]}")[0]
    assert "a person decides" in told["text"]
    site.more_looks(5)
    assert site.users_on() == "blue" and site.rollbacks() == 1


def test_ill_after_the_rollback_shows_the_maintenance_page(site):
    site.start_guard()
    flip = threading.Event()

    def follow():
        while not flip.is_set():
            if site.users_on() == "blue":
                site.fault_everywhere("blue", health="ill")
                return

    watcher = threading.Thread(target=follow)
    watcher.start()
    site.fault_everywhere("green", health="ill")
    try:
        told = await_(lambda: site.told("ill_after_rollback"), f"told: {site.log()[-3000:]}")[0]
    finally:
        flip.set()
        watcher.join()
    assert "maintenance page" in told["title"] and site.maintenance.read()["who"].startswith("guard@")
    status, headers, body = site.ask("/")
    assert (status, headers["retry-after"], json.loads(body)["status"]) == (503, "30", "maintenance")
    assert site.rollbacks() == 1


def test_a_live_lease_is_stood_back_for(site):
    held = site.releases.lease.acquire(owner="run@control", run_id="run-9")
    site.start_guard()
    site.fault_everywhere("green", health="ill")
    await_(lambda: site.events("aside"), "it says so")
    looks = site.memory()["at_epoch"]
    await_(lambda: site.memory()["at_epoch"] > looks + 2, "it goes on")
    assert site.users_on() == "green" and site.looks() == 0
    held.give_back()
    rolled_back(site)


def test_maintenance_closes_the_door_for_users_and_not_for_health(site):
    assert site.ask("/")[0] == 200
    site.maintenance.on("database swap", "anna", 600)
    status, headers, body = site.ask("/anything")
    assert (status, headers["retry-after"], headers["x-frame-options"]) == (503, "30", "DENY") and b"maintenance" in body
    assert site.ask("/-/gateway/health")[0] == 200
    status, _headers, body = site.ask("/health")
    assert status == 200 and json.loads(body)["release"] == "2-1.1.0"
    site.fault_everywhere("green", health="ill")
    assert site.ask("/health")[0] == 503, "the truth, not the page"
    site.start_guard()
    await_(lambda: "maintenance" in str(site.events("aside")), "the guard stands aside")
    site.maintenance.off()
    assert site.ask("/")[0] == 200


NODE = """node_memory_MemTotal_bytes 1000
node_memory_MemAvailable_bytes {free}
node_cpu_seconds_total{{cpu="0",mode="idle"}} 50
node_cpu_seconds_total{{cpu="0",mode="user"}} 50
node_filesystem_size_bytes{{mountpoint="/",fstype="ext4"}} 100
node_filesystem_avail_bytes{{mountpoint="/",fstype="ext4"}} 60
"""


@pytest.mark.parametrize(("resident", "back"), [(900, True), (100, False)])
def test_memory_used_up_by_the_service_goes_back_by_another_process_is_told(site, resident, back):
    for slot in ("blue", "green"):
        site.fault_everywhere(slot, node=NODE.format(free=50), metrics=f"process_resident_memory_bytes {resident}\n")
    resources = {**site.limits["resources"], "source": f"http://{{host}}:{site.ports['blue']}/node"}
    site.start_guard(resources=resources)
    if back:
        assert "memory of app1 at 95 %" in rolled_back(site)["text"]
    else:
        assert "11 % of it by the service" in await_(lambda: site.told("resources"), f"told {site.log()}")[0]["text"]
        stays(site)


def test_a_page_of_metrics_that_is_gone_is_blind(site):
    business = {
        "name": "orders",
        "series": "orders_total",
        "per_second": False,
        "minimum": 1,
        "maximum": None,
        "window_s": 2,
        "min_samples": 3,
    }
    site.fault_everywhere("green", metrics="orders_total NaN\n")
    site.start_guard(business=business, blind={"after_s": 1, "action": "hold"})
    assert "orders: 0 samples" in await_(lambda: site.told("blind"), f"told {site.log()}")[0]["text"]
    site.fault_everywhere("green", metrics="orders_total 0\n")
    assert "orders is 0, must be at least 1" in rolled_back(site)["text"]


def test_the_observation_ends_with_a_report(site):
    site.start_guard(observation_s=4)
    site.load(160)
    await_(lambda: site.told("observed"), f"told {site.log()[-2000:]}")
    report = json.loads(next((site.state / "guard").glob("2-1.1.0.*.json")).read_text())
    records = {record["id"]: record["status"] for record in report["evidence"]}
    assert report["verdict"] == "pass" and set(records.values()) == {"pass"}, report
    site.fault_everywhere("green", health="ill")
    at = site.memory()["at_epoch"]
    await_(lambda: site.memory()["at_epoch"] > at + 2, "it goes on, and only watches")
    assert site.users_on() == "green"
