"""A day of the observation period, measured from a real Prometheus that holds eight days, and from real log files."""

import json
import math
import shutil
import socket
import subprocess
import time
import urllib.request

import pytest
from ansible.module_utils.greenroom import contract, observation, observation_plan

STEP_S = 300
SERVICE = contract.normalized({
    "name": "example-service", "package": "example_service", "processes": [], "ports": {}, "health": {},
    "gateway": {"server_names": ["a.internal"]}, "dependencies": {"database": {"name": "d", "owner": "o", "user": "u"}},
    "backup": {"store": {"endpoint": "https://b.internal", "bucket": "b"}}, "observation": {},
})  # fmt: skip


def openmetrics(now):
    """Eight quiet days of what the recording rules and exporters give."""
    times = [now - STEP_S * number for number in range(8 * 86_400 // STEP_S, -1, -1)]
    series = {
        'host:cpu_busy:percent{host="app1"}': lambda at: 20 + 5 * math.sin(at / 9000),
        'host:memory_used:percent{host="app1"}': lambda at: 40,
        'host:disk_used:percent{host="app1",mountpoint="/"}': lambda at: 30, 'database:connections:percent{host="data"}': lambda at: 12,
        "gateway:latency:p95_seconds": lambda at: 0.06, 'gateway_requests_total{status="200"}': lambda at: int(at - times[0]) * 50,
        'gateway_requests_total{status="500"}': lambda at: int((at - times[0]) / 1000),
        'alertmanager_notifications_failed_total{integration="webhook"}': lambda at: 0,
        'greenroom_backup_last_success_timestamp_seconds{host="data",place="store"}': lambda at: at - at % 86_400,
    }  # fmt: skip
    lines = []
    for name, value in series.items():
        lines.append(f"# TYPE {name.split('{')[0]} unknown") if f"# TYPE {name.split('{')[0]} unknown" not in lines else None
        lines += [f"{name} {value(at)} {at}" for at in times]
    return "\n".join([*lines, "# EOF", ""])


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A Prometheus with these days."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "days.txt").write_text(openmetrics(int(time.time())))
    for program in ("promtool", "prometheus"):
        assert shutil.which(program), f"{program} is not installed; run scripts/install_test_servers"
    load = ["promtool", "tsdb", "create-blocks-from", "openmetrics", folder / "days.txt", folder / "data"]
    subprocess.run(load, check=True, capture_output=True)
    (folder / "prometheus.yml").write_text("{}\n")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    argv = ["prometheus", f"--web.listen-address=127.0.0.1:{port}", "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(argv, cwd=folder, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 60
        while True:
            assert process.poll() is None and time.monotonic() < until, (folder / "server.log").read_text()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=2):
                    break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def config(address, tmp_path):
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "host": "app1", "data": {"level": "info"}}
    (tmp_path / "app1.log").write_text(2 * (json.dumps(line) + "\n"))
    logs = {"globs": [f"{tmp_path}/*.log"], "level_field": "data.level", "time_field": "time"}
    return observation_plan.config(SERVICE, "3-1.0.0", address, logs, str(tmp_path))


def test_a_quiet_day_is_good_and_its_values_are_kept(config):
    day = observation.measure(config, time.time())
    assert observation.state_of(day, config) == ("good", ""), json.dumps(day["evidence"], indent=1)
    assert day["values"]["p95"] == {"p95": 60.0} and day["values"]["incidents"] == {"incidents": 0.0}
    assert day["values"]["rate"]["rate"] == pytest.approx(50, rel=0.02) and day["values"]["cpu"].keys() == {"app1"}
    assert {one["id"] for one in day["evidence"]} == set(config["ids"])


@pytest.mark.parametrize(
    ("id", "change", "state"),
    [
        ("observe.daily.resources", {"expect": {"le": 5}}, "red"),
        ("observe.daily.errors", {"expect": {"le": 0}}, "red"),
        ("observe.daily.resources", {"query": "host:cpu_load:percent"}, "empty"),  # a metric that was renamed
        ("observe.daily.errors", {"query": "100 * 0 / 0"}, "empty"),
        ("observe.daily.connections", {"query": "no query("}, "empty"),
        ("observe.daily.alerts", {"query": "vector(1)"}, "red"),
        ("observe.weekly.backups", {"expect": {"le": -1}}, "red"),
    ],
)
def test_each_check_is_seen_red_or_empty(config, id, change, state):
    check = next(one for one in config["checks"] if one["id"] == id)
    check.update(change)
    day = observation.measure(config, time.time())
    found, why = observation.state_of(day, config)
    assert found == state and id in why, json.dumps([one for one in day["evidence"] if one["id"] == id])


@pytest.mark.parametrize(
    ("text", "state"),
    [('{"time": "%s", "data": {"level": "error", "message": "x"}}\n', "red"), ("no JSON\n", "red"), ("", "empty"), (None, "empty")],
)
def test_the_logs_of_the_day_count(config, tmp_path, text, state):
    log = tmp_path / "app1.log"
    if text is None:
        log.unlink()
    else:
        log.write_text(text.replace("%s", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())))
    found, why = observation.state_of(observation.measure(config, time.time()), config)
    assert found == state and "observe.daily.logs" in why
