"""A whole gateway on loopback: nginx with the configuration of the role's own template, a service with faults in both slots of two hosts,
the folders of switch and state with two releases, and the guard as a process of its own. Everything is ended by its process id."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import jinja2
from ansible.module_utils.greenroom.maintenance import Maintenance
from ansible.module_utils.greenroom.releases import Releases

ROOT = Path(__file__).resolve().parents[2]
HOSTS = {"app1": "127.0.0.1", "app2": "127.0.0.2"}
NAME = "svc.test.internal"
SERVICE = "svc"
LIMITS = {
    "enabled": True, "interval_s": 0.2, "probe_timeout_s": 0.5, "observation_s": 3600,
    "health": {"tolerated": 3},
    "errors": {"percent": 5, "window_s": 3, "min_samples": 20},
    "p95": {"ms": 2000, "window_s": 5, "min_samples": 20},
    "resources": {"percent": 90, "window_s": 2, "min_samples": 3, "own_percent": 50, "source": None},
    "blind": {"after_s": 600, "action": "hold"},
}  # fmt: skip
HEALTH = {"path": "/health", "status_field": "status", "healthy": "healthy", "version_field": "version", "release_field": "release",
          "dependency_field": "dependencies"}  # fmt: skip


def ports(count: int) -> list[int]:
    """Ports that are free on the addresses of both hosts."""
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    found = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return found


def await_(condition, what: str, seconds: float = 30.0):
    """Wait until `condition()` is true, and give its value."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")


class Channel:
    """Takes notifications, as a webhook does."""

    def __init__(self) -> None:
        self.got: list[dict] = []
        channel = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                channel.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook/t0ken123"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


class Site:
    """The gateway, the services and the guard. Live is 2-1.1.0 in green; blue is warm with 1-1.0.0."""

    def __init__(self, folder: Path, authority, nginx_program: str):
        self.folder, self.nginx_program = folder, nginx_program
        self.processes: dict[object, subprocess.Popen] = {}
        blue, green, self.https, self.internal = ports(4)
        self.ports = {"blue": blue, "green": green}
        self.labels = {"blue": "1-1.0.0", "green": "2-1.1.0"}
        self.etc, self.state = folder / "etc", folder / "state"
        for one in (self.etc, self.state, folder / "faults", folder / "metrics"):
            one.mkdir()
        self.releases = Releases(self.state, SERVICE, self.etc / "switch")
        self.maintenance = Maintenance(self.etc / "maintenance")
        self.certificate, self.key = authority.issue("gateway", NAME, "localhost")
        self.tls = ssl.create_default_context(cafile=str(authority.ca_file))
        self.access_log = folder / "access.log"
        self.channel = Channel()
        self.limits = json.loads(json.dumps(LIMITS))
        self.config: dict = {}

    # -- parts ---------------------------------------------------------------------------------------------------------

    def deploy(self, version: str, commit: str, **migrated: object) -> None:
        """A deploy as the state knows it. migrated: what it did to the schema, nothing by default."""
        held = self.releases.lease.acquire(owner="anna@control", run_id=f"run-{version}")
        run = {"run_id": f"run-{version}", "fencing": held.lease["fencing"]}
        content = {"version": version, "commit": commit * 40, "lock_sha256": commit * 64, "config_digest": commit}
        job = self.releases.plan(**run, **content)[0]["in_progress"]
        self.releases.stage(**run, artefact_sha256="f" * 64, migrated={"revision": [], "revisions": [], **migrated})
        self.releases.switch_to(job["slot"], **run, reason="verified")
        self.releases.confirm(**run)
        held.give_back()

    def nginx_config(self) -> str:
        """The role's template, with the paths and listeners of this place."""
        environment = jinja2.Environment(loader=jinja2.FileSystemLoader(ROOT / "roles/gateway/templates"), trim_blocks=True)
        environment.filters["combine"] = lambda one, other: one | other  # Ansible's
        service = {
            "name": SERVICE, "ports": self.ports, "health": HEALTH, "drain_deadline_s": 3,
            "gateway": {"server_names": [NAME], "https_port": self.https, "body_limit": "1m", "connect_timeout_s": 1, "read_timeout_s": 5,
                        "headers": {"X-Frame-Options": "DENY"}, "rate_limit": {"requests_per_s": 5000, "burst": 2000}},
        }  # fmt: skip
        text = environment.get_template("nginx.conf.j2").render(
            gateway_service=service, gateway_headers={}, gateway_redirect_http=False, gateway_extra_names=["localhost"],
            gateway_app_hosts=HOSTS, gateway_internal_address="127.0.0.1", gateway_internal_port=self.internal, gateway_internal_allow=[],
            gateway_upstream_idle_s=4, gateway_retry_after_s=30, gateway_tls_certificate=self.certificate, gateway_tls_key=self.key,
            __gateway_switch=self.etc / "switch", __gateway_maintenance=self.etc / "maintenance",
        )  # fmt: skip
        temporary = "".join(
            f"    {kind}_temp_path {self.folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        for old, new in {
            "user www-data;": f"user {'www-data' if os.geteuid() == 0 else 'nobody'};",
            "worker_processes auto;": "worker_processes 1;\ndaemon off;",
            "pid /run/nginx.pid;": f"pid {self.folder}/nginx.pid;",
            "/var/log/nginx/": f"{self.folder}/",
            f"listen {self.https} ssl": f"listen 127.0.0.1:{self.https} ssl",
            "    include /etc/nginx/mime.types;\n": temporary,
        }.items():
            assert old in text, f"the template no longer says {old!r}"
            text = text.replace(old, new)
        return text

    def start(self) -> Site:
        """Services and nginx; the guard is started by each test."""
        for host, address in HOSTS.items():
            for slot in self.ports:
                self.fault(host, slot)
                self.start_service(host, slot, address)
        (self.folder / "nginx.conf").write_text(self.nginx_config())
        self._run(
            "nginx",
            [self.nginx_program, "-p", str(self.folder), "-c", str(self.folder / "nginx.conf"), "-e", str(self.folder / "error.log")],
        )
        self.deploy("1.0.0", "a")
        self.deploy("1.1.0", "b")
        await_(lambda: self.ask("/")[0] == 200, "the gateway answers")
        return self

    def _run(self, name: object, argv: list[str]) -> subprocess.Popen:
        with open(self.folder / f"{'-'.join(name) if isinstance(name, tuple) else name}.out", "ab") as out:
            self.processes[name] = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
        return self.processes[name]

    def start_service(self, host: str, slot: str, address: str | None = None) -> None:
        address = address or HOSTS[host]
        label = self.labels[slot]
        self._run((host, slot), [sys.executable, str(ROOT / "tests/integration/guard_service.py"), address, str(self.ports[slot]), label,
                                 str(self.folder / "faults" / f"{host}-{slot}.json")])  # fmt: skip
        await_(lambda: self._listens(address, self.ports[slot]), f"{host} {slot} listens")

    @staticmethod
    def _listens(address: str, port: int) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection((address, port), 1).close()
            return True
        return False

    def kill(self, name: object, sig: int = signal.SIGKILL) -> None:
        """End one process by its id."""
        process = self.processes.pop(name)
        process.send_signal(sig)
        if sig == signal.SIGSTOP:
            self.processes[name] = process
        else:
            process.wait(20)

    def close(self) -> None:
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)
        self.channel.server.shutdown()
        self.channel.server.server_close()
        if not os.environ.get("KEEP_IT"):
            shutil.rmtree(self.folder, ignore_errors=True)

    # -- faults and load -----------------------------------------------------------------------------------------------

    def fault(self, host: str, slot: str, **faults: object) -> None:
        file = self.folder / "faults" / f"{host}-{slot}.json"
        part = file.with_suffix(".part")
        part.write_text(json.dumps(faults))
        part.rename(file)

    def fault_everywhere(self, slot: str, **faults: object) -> None:
        for host in HOSTS:
            self.fault(host, slot, **faults)

    def ask(self, path: str, timeout: float = 10) -> tuple[int, dict, bytes]:
        """One request as users make it."""
        one = http.client.HTTPSConnection("localhost", self.https, context=self.tls, timeout=timeout)
        try:
            one.request("GET", path, headers={"Host": NAME})
            answer = one.getresponse()
            return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
        except OSError as error:
            return 0, {}, str(error).encode()
        finally:
            one.close()

    def load(self, count: int, at_once: int = 8, path: str = "/") -> dict[int, int]:
        """`count` requests from `at_once` clients that keep their connections: {status: how many}."""
        seen: dict[int, int] = {}
        lock = threading.Lock()

        def work(mine: int) -> None:
            one = http.client.HTTPSConnection("localhost", self.https, context=self.tls, timeout=10)
            for _ in range(mine):
                try:
                    one.request("GET", path, headers={"Host": NAME})
                    answer = one.getresponse()
                    answer.read()
                    status = answer.status
                except (OSError, http.client.HTTPException):
                    one.close()
                    status = 0
                with lock:
                    seen[status] = seen.get(status, 0) + 1
            one.close()

        clients = [threading.Thread(target=work, args=(count // at_once,)) for _ in range(at_once)]
        for one in clients:
            one.start()
        for one in clients:
            one.join()
        return seen

    # -- the guard -----------------------------------------------------------------------------------------------------

    def start_guard(self, **limits: object) -> None:
        """The guard as systemd starts it, with this site's limits."""
        self.limits.update(limits)
        notify = {"service": SERVICE, "environment": "test", "spool": str(self.state / "spool"), "template": "generic", "timeout_s": 2,
                  "give_up_s": 600, "url": self.channel.url, "secret": None, "ca_file": None}  # fmt: skip
        (self.etc / "notify.json").write_text(json.dumps(notify))
        config = {
            "service": SERVICE, "hosts": HOSTS, "ports": self.ports, "health": HEALTH, "metrics": {"path": "/metrics", "ports": self.ports},
            "guard": self.limits, "log": str(self.access_log), "live_url": f"http://127.0.0.1:{self.internal}/live",
            "state_dir": str(self.state), "switch_dir": str(self.etc / "switch"), "notify": str(self.etc / "notify.json"),
            "metrics_dir": str(self.folder / "metrics"), **self.config,
        }  # fmt: skip
        (self.etc / "guard.json").write_text(json.dumps(config))
        looks = self.looks()
        library = str(ROOT / "plugins/module_utils")
        code = f"import sys; sys.path.insert(0, {library!r}); from greenroom.guard import main; sys.exit(main())"
        self._run("guard", [sys.executable, "-I", "-B", "-c", code, "--config", str(self.etc / "guard.json")])
        await_(lambda: self.looks() > looks or self.events("aside"), "the guard looks")

    def memory(self) -> dict:
        try:
            return json.loads((self.state / "guard.json").read_text())
        except FileNotFoundError:
            return {"now": {"days": {}, "events": []}, "kept": {"rollback": None, "locked": None}}

    def looks(self) -> int:
        return sum(day["looks"] for day in self.memory()["now"]["days"].values())

    def more_looks(self, count: int) -> None:
        """Wait until the guard has looked `count` times more."""
        wanted = self.looks() + count
        await_(lambda: self.looks() >= wanted, f"{count} more looks; {self.log()[-2000:]}", 60)

    def log(self) -> str:
        return (self.folder / "guard.out").read_text() if (self.folder / "guard.out").exists() else ""

    def events(self, name: str) -> list[dict]:
        """Lines of the guard's journal with this event."""
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def users_on(self) -> str | None:
        return self.releases.switch.read()

    def told(self, event: str) -> list[dict]:
        """Messages that arrived at the channel."""
        return [one for one in self.channel.got if one["event"] == f"guard.{event}"]

    def rollbacks(self) -> int:
        return sum(entry["action"] == "rolled_back" for entry in self.releases.history())
