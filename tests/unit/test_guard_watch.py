"""The timer beside the guard: ends maintenance mode, sends what waits, says when the guard does not look; each whatever the others meet."""

import http.server
import json
import os
import threading
import time

import pytest
from ansible.module_utils.greenroom import guard_watch
from ansible.module_utils.greenroom.durable import write_sealed
from ansible.module_utils.greenroom.maintenance import Maintenance
from ansible.module_utils.greenroom.releases import Releases


class Place:
    def __init__(self, root):
        self.etc, self.state = root / "etc", root / "state"
        self.etc.mkdir()
        self.state.mkdir()
        self.got = []
        place = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                place.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["event"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.maintenance = Maintenance(self.etc / "maintenance")
        self.write()

    def write(self, enabled=True):
        channel = {
            "service": "svc", "environment": "test", "spool": str(self.state / "spool"), "template": "generic", "timeout_s": 1,
            "give_up_s": 60, "url": f"http://127.0.0.1:{self.server.server_port}/hook",
        }  # fmt: skip
        (self.etc / "notify.json").write_text(json.dumps(channel))
        config = {
            "service": "svc", "hosts": {"a": "127.0.0.1"}, "ports": {"blue": 1, "green": 2}, "health": {}, "metrics": None,
            "guard": {"enabled": enabled, "interval_s": 5}, "log": "/nowhere", "live_url": "http://127.0.0.1:9/live",
            "state_dir": str(self.state), "switch_dir": str(self.etc / "switch"), "notify": str(self.etc / "notify.json"),
            "metrics_dir": "/nowhere",
        }  # fmt: skip
        (self.etc / "guard.json").write_text(json.dumps(config))

    def looked(self, ago_s=0.0):
        write_sealed(self.state / "guard.json", {"at_epoch": time.time() - ago_s})

    def run(self):
        return guard_watch.main(["--config", str(self.etc / "guard.json")])


@pytest.fixture
def place(tmp_path):
    made = Place(tmp_path)
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_when_all_is_well_nothing_is_said(place):
    place.looked()
    assert place.run() == 0 and place.got == []


def test_maintenance_that_is_over_ends_and_people_and_the_ledger_know(place):
    place.looked()
    place.maintenance.on("swap", "anna", 60)
    assert place.run() == 0 and place.maintenance.read() is not None
    place.maintenance.on("swap", "anna", 0)
    assert place.run() == 0
    assert place.maintenance.read() is None and place.got == ["maintenance.ended"]
    entries = Releases(place.state, "svc", place.etc / "switch").history()
    assert [entry["action"] for entry in entries] == ["maintenance_off"]


def test_a_ledger_that_cannot_be_written_does_not_keep_the_door_closed(place):
    place.looked()
    place.maintenance.on("swap", "anna", 0)
    (place.state / "ledger.jsonl").write_text("cut\n")
    assert place.run() == 0 and place.maintenance.read() is None


def test_a_guard_that_stopped_is_told_once_in_a_while(place):
    place.looked(ago_s=90)
    assert place.run() == 0 and place.got == []
    place.looked(ago_s=300)
    assert place.run() == 0 and place.got == ["guard.silent"]
    assert place.run() == 0 and place.got == ["guard.silent"]
    os.utime(place.state / "guard_silent", (time.time() - 7 * 3600,) * 2)
    assert place.run() == 0 and place.got == ["guard.silent"] * 2
    place.looked()
    place.run()
    place.looked(ago_s=300)
    assert place.run() == 0 and place.got == ["guard.silent"] * 3


@pytest.mark.parametrize("content", [None, "cut"])
def test_a_guard_that_never_looked_is_told_too(place, content):
    if content:
        (place.state / "guard.json").write_text(content)
    assert place.run() == 0 and place.got == ["guard.silent"]


def test_a_guard_that_is_not_wanted_is_not_missed(place):
    place.write(enabled=False)
    assert place.run() == 0 and place.got == []


def test_a_clock_in_the_future_is_not_a_guard_that_looks(place):
    place.looked(ago_s=-3600)
    assert place.run() == 0 and place.got == ["guard.silent"]


def test_one_job_that_fails_does_not_stop_the_others(place):
    place.maintenance.directory.write_text("in the way")
    os.chmod(place.state, 0o755)
    (place.etc / "maintenance").unlink()
    (place.etc / "maintenance" / "on").mkdir(parents=True)  # no file, and it cannot be unlinked
    os.utime(place.etc / "maintenance" / "on", (time.time() - 9000,) * 2)
    assert place.run() == 1 and place.got == ["guard.silent"]


def test_a_configuration_that_is_wrong_is_named(place, capsys):
    (place.etc / "guard.json").write_text("{}")
    assert place.run() == 2 and str(place.etc / "guard.json") in capsys.readouterr().err
