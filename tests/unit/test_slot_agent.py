"""The slot agent as its own process, against a real HTTP server and a recorded stand-in for systemctl.

The stand-in keeps one file a unit and writes down every call. The same agent under a real systemd and a real gateway is proved in
the molecule scenario of the role that installs it.
"""

import contextlib
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from ansible.module_utils.greenroom.slot_agent import Agent, ConfigError, ask_gateway, load_config

LIBRARY = Path(__file__).resolve().parents[2] / "plugins" / "module_utils"
SYSTEMCTL = """\
    #!{python}
    import os, sys, time
    home = {home!r}
    verb, names = sys.argv[1], [name for name in sys.argv[2:] if not name.startswith("-")]
    state = lambda name: open(os.path.join(home, name)).read() if os.path.exists(os.path.join(home, name)) else "inactive"
    def put(name, value):
        with open(os.path.join(home, name), "w") as out:
            out.write(value)
    if os.path.exists(os.path.join(home, "BROKEN")):
        sys.exit("Failed to connect to bus")
    if verb == "show":
        print("\\n\\n".join(f"Id={{name}}\\nActiveState={{state(name)}}" for name in names))
        sys.exit(0)
    with open(os.path.join(home, "CALLS"), "a") as out:
        out.write(" ".join([verb, *names]) + "\\n")
    if verb == "stop" and os.path.exists(os.path.join(home, "SLOW")):
        time.sleep(float(open(os.path.join(home, "SLOW")).read()))
    for name in names:
        if os.path.exists(os.path.join(home, name + ".stuck")):
            print("Job failed", file=sys.stderr)
            continue
        if verb == "start":
            slot = lambda n: n.split("@")[1].split(".")[0]
            others = [n for n in os.listdir(home) if "@" in n and slot(n) != slot(name) and state(n) == "active"]
            if others:
                put("OVERLAP", f"{{name}} beside {{others}}")
        put(name, "active" if verb == "start" else "inactive")
"""


class Gateway:
    """Answers /live with whatever `answer` is: (status, body), or None to stay silent."""

    def __init__(self):
        self.answer = (200, '{"slot": null}')
        gateway = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                status, body = gateway.answer
                if status == "hang":
                    time.sleep(body)
                    return
                self.send_response(status)
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(body.encode())

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}/live"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def live(self, slot):
        self.answer = (200, json.dumps({"slot": slot}))

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def gateway():
    made = Gateway()
    yield made
    made.close()


class Host:
    def __init__(self, root, url):
        self.home = root / "units"
        self.home.mkdir()
        self.program = root / "systemctl"
        self.program.write_text(textwrap.dedent(SYSTEMCTL).format(python=sys.executable, home=str(self.home)))
        self.program.chmod(0o755)
        self.config = {
            "service": "svc",
            "gateway_url": url,
            "view": str(root / "run" / "slot-agent.json"),
            "units": {slot: [f"svc-worker@{slot}.service", f"svc-refresh@{slot}.timer"] for slot in ("blue", "green")},
            "poll_interval_s": 0.05,
            "answer_timeout_s": 0.5,
            "stop_timeout_s": 5,
            "settle_every_s": 0.2,
            "systemctl": str(self.program),
        }
        self.path = root / "slot-agent.json"
        self.write()

    def write(self):
        self.path.write_text(json.dumps(self.config))

    def calls(self):
        path = self.home / "CALLS"
        return path.read_text().splitlines() if path.exists() else []

    def active(self):
        return sorted(
            path.name
            for path in self.home.iterdir()
            if "@" in path.name and not path.name.endswith("stuck") and path.read_text() == "active"
        )

    def view(self):
        return json.loads(Path(self.config["view"]).read_text())


@pytest.fixture
def host(tmp_path, gateway):
    return Host(tmp_path, gateway.url)


@pytest.fixture
def agent(host):
    """Start the real process; it is ended by its id."""
    started = []

    def start(**environment):
        code = f"import sys; sys.path.insert(0, {str(LIBRARY)!r}); from greenroom.slot_agent import main; sys.exit(main())"
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", "-c", code, "--config", str(host.path)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def until(condition, limit_s=10.0):
    """Wait for a condition; its last value."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            if value := condition():
                return value
        time.sleep(0.02)
    return condition()


def units(slot):
    return [f"svc-refresh@{slot}.timer", f"svc-worker@{slot}.service"]


def test_it_starts_the_live_colour_and_follows_a_switch_stopping_first(agent, host, gateway):
    gateway.live("blue")
    agent()
    assert until(lambda: host.active() == units("blue"))
    gateway.live("green")
    assert until(lambda: host.active() == units("green"))
    calls = host.calls()
    assert calls[0].startswith("start ") and calls[1].startswith("stop ") and calls[2].startswith("start ")
    assert all("blue" in name for name in calls[1].split()[1:]) and all("green" in name for name in calls[2].split()[1:])
    assert not (host.home / "OVERLAP").exists()
    assert until(lambda: host.view()["settled"] and host.view()["slot"] == "green")
    running = host.view()["running"]
    assert (running["blue"], sorted(running["green"])) == ([], units("green"))


def test_it_gets_restarted_and_changes_nothing_that_is_right(agent, host, gateway):
    gateway.live("blue")
    first = agent()
    assert until(lambda: host.active() == units("blue"))
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=5) == 0
    assert host.active() == units("blue")
    calls = host.calls()
    agent()
    assert until(lambda: host.view()["pid"] != first.pid and host.view()["settled"])
    time.sleep(0.5)
    assert host.calls() == calls


def test_after_a_reboot_what_runs_is_settled_by_the_gateway(agent, host, gateway):
    for unit in units("blue"):
        (host.home / unit).write_text("active")
    gateway.live("green")
    agent()
    assert until(lambda: host.active() == units("green"))


@pytest.mark.parametrize(
    "answer",
    [
        (503, "maintenance"),
        (200, "blue"),
        (200, '{"slot": "red"}'),
        (200, "{}"),
        (200, '"blue"'),
        (200, "[]"),
        (200, " " * 5000),
        ("hang", 1),
        None,
    ],
    ids=["503", "no json", "red", "empty", "text", "list", "long", "hang", "down"],
)
def test_an_answer_that_decides_nothing_keeps_what_runs_and_is_said_once(agent, host, gateway, answer):
    gateway.live("blue")
    process = agent()
    assert until(lambda: host.active() == units("blue"))
    calls = host.calls()
    if answer is None:
        gateway.close()
    else:
        gateway.answer = answer
    assert until(lambda: host.view()["doubt"])
    time.sleep(0.5)
    assert host.active() == units("blue") and host.calls() == calls
    view = host.view()
    assert view["slot"] == "blue" and view["decided"] and view["doubt"]
    if answer is None:  # the same port answers again: the agent follows
        process.terminate()
    else:
        gateway.live("green")
        assert until(lambda: host.active() == units("green"))
        process.terminate()
    events = [json.loads(line)["event"] for line in process.stdout]
    assert events.count("undecided") == 1
    assert events.count("answered") == (0 if answer is None else 1)


def test_without_any_answer_since_its_start_it_touches_nothing(agent, host, gateway):
    for unit in units("blue"):
        (host.home / unit).write_text("active")
    gateway.answer = (502, "")
    agent()
    assert until(lambda: host.view()["doubt"])
    time.sleep(0.5)
    assert host.active() == units("blue") and host.calls() == []
    assert host.view()["settled"] is False and host.view()["decided"] is False


def test_nothing_live_means_nothing_runs(agent, host, gateway):
    gateway.live("blue")
    agent()
    assert until(lambda: host.active() == units("blue"))
    gateway.live(None)
    assert until(lambda: host.active() == [])
    assert until(lambda: host.view()["settled"] and host.view()["slot"] is None)


def test_a_unit_that_does_not_stop_keeps_the_new_colour_from_starting(agent, host, gateway):
    gateway.live("blue")
    agent()
    assert until(lambda: host.active() == units("blue"))
    (host.home / "svc-worker@blue.service.stuck").touch()
    gateway.live("green")
    assert until(lambda: host.view()["trouble"])
    time.sleep(0.5)
    assert host.active() == ["svc-worker@blue.service"]
    assert "still running in blue: svc-worker@blue.service" in host.view()["trouble"] and host.view()["settled"] is False
    (host.home / "svc-worker@blue.service.stuck").unlink()
    assert until(lambda: host.active() == units("green"))
    assert until(lambda: host.view()["settled"])
    assert not (host.home / "OVERLAP").exists()


def test_a_stopped_worker_of_the_live_colour_is_started_again(agent, host, gateway):
    gateway.live("blue")
    agent()
    assert until(lambda: host.active() == units("blue"))
    (host.home / "svc-worker@blue.service").write_text("failed")
    assert until(lambda: host.active() == units("blue"))


def test_a_timers_own_service_is_stopped_with_it(agent, host, gateway):
    (host.home / "svc-refresh@green.service").write_text("activating")
    gateway.live("blue")
    agent()
    assert until(lambda: host.active() == units("blue"))
    assert "svc-refresh@green.service" in host.calls()[0]


def test_a_systemd_that_does_not_answer_is_trouble_not_a_guess(agent, host, gateway):
    gateway.live("blue")
    (host.home / "BROKEN").touch()
    agent()
    assert until(lambda: host.view()["trouble"])
    assert "systemctl show gave no state" in host.view()["trouble"] and host.calls() == []
    (host.home / "BROKEN").unlink()
    assert until(lambda: host.active() == units("blue"))


def test_systemd_is_told_ready_and_the_watchdog_is_fed_also_during_a_slow_stop(agent, host, gateway, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(str(tmp_path / "notify"))
        line.settimeout(10)
        gateway.live("blue")
        agent(NOTIFY_SOCKET=str(tmp_path / "notify"))
        assert line.recv(1000) == b"READY=1\nWATCHDOG=1"
        assert line.recv(1000).startswith(b"STATUS=live: blue")
        (host.home / "SLOW").write_text("2.5")
        gateway.live("green")
        assert until(lambda: len(host.calls()) == 2)
        begun, fed = time.monotonic(), 0
        line.settimeout(0.2)
        while host.active() != units("green") and time.monotonic() - begun < 8:
            with contextlib.suppress(TimeoutError):
                fed += line.recv(1000) == b"WATCHDOG=1"
        assert fed >= 2
        assert host.active() == units("green")


def test_a_stop_over_its_time_limit_starts_nothing(host, gateway):
    for unit in units("blue"):
        (host.home / unit).write_text("active")
    (host.home / "SLOW").write_text("30")
    host.config["stop_timeout_s"] = 1
    host.write()
    gateway.live("green")
    agent = Agent(load_config(host.path))
    agent.poll()
    assert "still running in blue" in agent.trouble and "status 124" in agent.trouble
    assert host.active() == units("blue")


def test_once_tells_whether_everything_is_settled(host, gateway):
    def once():
        code = f"import sys; sys.path.insert(0, {str(LIBRARY)!r}); from greenroom.slot_agent import main; sys.exit(main())"
        return subprocess.run(
            [sys.executable, "-I", "-B", "-c", code, "--config", str(host.path), "--once"], capture_output=True, check=False
        ).returncode

    gateway.live("blue")
    assert once() == 0 and host.active() == units("blue")
    gateway.answer = (500, "")
    assert once() == 1
    host.path.write_text("{}")
    assert once() == 2


def test_proxies_of_the_environment_are_not_used(gateway, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    gateway.live("green")
    assert ask_gateway(gateway.url, 1) == "green"


@pytest.mark.parametrize(
    "change, text",
    [
        ({"gateway": "x"}, "unknown key 'gateway'"),
        ({"gateway_url": None}, "'gateway_url' must be"),
        ({"units": {"blue": []}}, "exactly blue and green"),
        ({"units": {"blue": ["-x.service"], "green": []}}, "'units.blue': '-x.service'"),
        ({"units": {"blue": ["a b.service"], "green": []}}, "'units.blue': 'a b.service'"),
        ({"units": {"blue": ["a.socket"], "green": []}}, "no name of a .service or .timer"),
        ({"units": {"blue": ["a.service"], "green": ["a.service"]}}, "in both slots"),
        ({"poll_interval_s": 0}, "'poll_interval_s' must be a number"),
        ({"poll_interval_s": "2"}, "'poll_interval_s' must be a number"),
    ],
)
def test_a_wrong_configuration_names_file_and_key(host, change, text):
    host.path.write_text(json.dumps({**host.config, **change}))
    with pytest.raises(ConfigError, match=str(host.path)) as refused:
        load_config(host.path)
    assert text in str(refused.value)


def test_a_missing_key_and_a_broken_file(host):
    del host.config["units"]
    host.write()
    with pytest.raises(ConfigError, match="key 'units' is missing"):
        load_config(host.path)
    host.path.write_text("[]")
    with pytest.raises(ConfigError, match="no JSON object"):
        load_config(host.path)
