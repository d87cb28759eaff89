"""The plan of checks: every probe it makes is one health_check accepts, and the two places differ only where they must."""

import http.server
import json
import threading
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.greenroom import check_plan as subject
from ansible.module_utils.greenroom import health_check

SERVICE = {
    "name": "example-service",
    "processes": [
        {"name": "web", "kind": "web", "command": "x"},
        {"name": "worker", "kind": "worker", "command": "x", "count": 3},
        {"name": "refresh", "kind": "scheduled", "command": "x", "every": "60s"},
    ],
    "ports": {"blue": 8101, "green": 8102},
    "health": {"path": "/health", "status_field": "status", "healthy": "healthy", "version_field": "version", "release_field": "release",
               "dependency_field": "dependencies", "start_limit_s": 120, "latency_ms": 100},
    "dependencies": {"database": {"mode": "installed"}, "broker": {"mode": "installed"}},
    "gateway": {"server_names": ["example.staging.internal", "www.example.internal"], "https_port": 443},
    "checks": [
        {"id": "verify.api.basic", "type": "http", "path": "/v1/things", "bearer_key": "API_KEY", "json": {"items": {"min_length": 1}}},
        {"id": "verify.api.basic", "type": "http", "url": "{base_url}/v1/echo", "method": "POST", "json_body": {"back": "{base_url}/x"}},
        {"id": "verify.api.basic", "type": "tcp", "host": "127.0.0.1", "port": 9090},
    ],
    "cli_checks": [
        {"id": "verify.token.obtain", "command": "example-cli token obtain 'a b' --json", "expect": {"ok": True}, "time_limit_s": 7},
        {"id": "config.app.credentials", "command": "example-cli app verify", "stdin_secret": "APP_SECRET"},
    ],
}  # fmt: skip
RELEASE = {"version": "1.2.0", "release": "3-1.2.0"}
SECRETS = {"API_KEY": "k" * 20, "APP_SECRET": "s" * 20}


def accepted(probes):
    """health_check's own judgement of the list: arguments, types, secrets."""
    return health_check.plan(probes, SECRETS)


def by_id(probes, wanted):
    return [probe for probe in probes if probe["id"] == wanted]


def test_every_plan_is_one_that_health_check_accepts():
    for probes in (
        subject.start_probes(SERVICE, "blue"),
        subject.slot_probes(SERVICE, "green", RELEASE),
        subject.system_probes(SERVICE, "blue"),
        subject.gateway_probes(SERVICE, RELEASE, "10.0.0.11", "/etc/greenroom/ca.crt"),
        subject.cli_probes(SERVICE, "blue", True),
        subject.cli_probes(SERVICE, "blue", False),
        subject.log_probes(SERVICE, "blue", "2026-11-20T09:00:00Z", allow=["known"], secret_keys=["API_KEY"]),
    ):
        assert len(accepted(probes)) == len(probes) > 0


def test_a_slot_is_asked_on_its_own_port_for_health_release_and_the_contracts_checks():
    probes = subject.slot_probes(SERVICE, "green", RELEASE)
    (health,) = by_id(probes, "verify.health.http")
    assert health["base_url"] == "http://127.0.0.1:8102"
    assert health["json"] == {"status": "healthy", "dependencies.database.status": "healthy", "dependencies.broker.status": "healthy"}
    assert by_id(probes, "release.running_version")[0]["json"] == {"version": "1.2.0", "release": "3-1.2.0"}
    latency = by_id(probes, "verify.health.latency")[0]
    assert latency["latency_ms"] == 100 and latency["samples"] >= 20
    first, second, third = by_id(probes, "verify.api.basic")
    assert first["base_url"] == "http://127.0.0.1:8102" and first["bearer_key"] == "API_KEY"
    assert second["url"] == "http://127.0.0.1:8102/v1/echo" and second["json_body"] == {"back": "http://127.0.0.1:8102/x"}
    assert third["host"] == "127.0.0.1"
    assert all("slot green" in probe["name"] for probe in probes)


def test_the_gateway_is_asked_as_a_user_asks_and_gets_the_same_checks():
    probes = subject.gateway_probes(SERVICE, RELEASE, "10.0.0.11", "/etc/greenroom/ca.crt")
    assert [probe["host"] for probe in by_id(probes, "sec.tls")] == SERVICE["gateway"]["server_names"]
    places = [probe for probe in probes if probe["type"] == "http"]
    assert {(probe["connect_to"], probe["ca_file"]) for probe in places} == {("10.0.0.11:443", "/etc/greenroom/ca.crt")}
    assert by_id(probes, "verify.health.http")[0]["base_url"] == "https://example.staging.internal"
    wanted = {"verify.health.http", "verify.health.latency", "release.running_version", "verify.api.basic"}
    assert wanted <= {probe["id"] for probe in probes}
    assert len(by_id(probes, "verify.api.basic")) == 2  # the port of the app host's loopback is not behind the gateway
    assert all(probe["name"].startswith("gateway") for probe in probes)


def test_other_ports_and_ipv6_addresses_are_written_out():
    service = {**SERVICE, "gateway": {"server_names": ["x.internal"], "https_port": 8443}}
    probes = subject.gateway_probes(service, RELEASE, "fd00::1", "/ca")
    assert by_id(probes, "verify.health.http")[0]["base_url"] == "https://x.internal:8443"
    assert by_id(probes, "sec.tls")[0]["connect_to"] == "[fd00::1]:8443"


def test_a_service_that_does_not_say_its_version_is_asked_by_its_environment():
    silent = {**SERVICE, "health": {**SERVICE["health"], "version_field": None, "release_field": None}, "checks": []}
    (probe,) = by_id(subject.slot_probes(silent, "blue", RELEASE), "release.running_version")
    assert probe["type"] == "environ" and probe["env_files"] == ["/opt/example-service/slots/blue/config/service.env"]
    assert not by_id(subject.gateway_probes(silent, RELEASE, "10.0.0.11", "/ca"), "release.running_version")


def test_a_service_without_dependencies_or_field_for_them_has_no_such_check():
    bare = {**SERVICE, "dependencies": {}}
    assert by_id(subject.slot_probes(bare, "blue", RELEASE), "verify.health.http")[0]["json"] == {"status": "healthy"}
    unsaid = {**SERVICE, "health": {**SERVICE["health"], "dependency_field": None}}
    assert by_id(subject.slot_probes(unsaid, "blue", RELEASE), "verify.health.http")[0]["json"] == {"status": "healthy"}


def test_commands_run_in_the_slots_environment_without_a_shell():
    (token,) = subject.cli_probes(SERVICE, "green", False)
    (credentials,) = subject.cli_probes(SERVICE, "green", True)
    assert token["argv"] == ["/usr/local/bin/example-service-run", "green", "example-cli", "token", "obtain", "a b", "--json"]
    assert token["json"] == {"ok": True} and token["timeout_s"] == 7.0 and "stdin_key" not in token
    assert credentials["stdin_key"] == "APP_SECRET"
    with pytest.raises(subject.PlanError, match=r"config\.x\.y"):
        subject.split("it's", "config.x.y")


def test_steps_of_the_configuration_name_their_secret_by_key():
    steps = [{"id": "config.app.added", "name": "n", "command": "c", "stdin_secret": "APP_SECRET", "unless": None}]
    assert subject.configure_steps({**SERVICE, "configure": steps}) == [
        {"id": "config.app.added", "name": "n", "command": "c", "stdin_key": "APP_SECRET"}
    ]


def test_logs_are_read_of_the_processes_that_run_there():
    (web,) = subject.log_probes(SERVICE, "blue", "0")
    assert web["unit"] == "example-service-web@blue.service" and web["allow_empty"] is False and web["format"] == "json"
    probes = subject.log_probes(SERVICE, "blue", "0", kinds=["web", "worker", "scheduled"])
    assert [probe["unit"] for probe in probes] == [
        f"example-service-{name}@blue.service" for name in ("web", "worker", "worker-2", "worker-3", "refresh")
    ]
    assert [probe["allow_empty"] for probe in probes] == [False, True, True, True, True]


def test_logs_of_servers_are_read_and_a_folder_without_any_is_red(tmp_path):
    log = tmp_path / "server.log"
    log.write_text("2026-11-20 08:00:00.000 UTC [1] ERROR:  before the run\n2026-11-20 10:00:00.000 UTC [1] LOG:  fine\n")
    probes = subject.server_log_probes([str(log)], [str(tmp_path)], "2026-11-20T09:00:00Z", allow=["@x_scratch_"])
    assert [record["status"] for record in health_check.run(accepted(probes))] == ["pass"]
    with log.open("a") as file:
        file.write("2026-11-20 10:00:01.000 UTC [1] u@x_scratch_1 ERROR:  of a test\n")
    assert [record["status"] for record in health_check.run(accepted(probes))] == ["pass"]
    with log.open("a") as file:
        file.write("2026-11-20 10:00:02.000 UTC [1] u@live ERROR:  real\n")
    (record,) = health_check.run(accepted(probes))
    assert record["status"] == "fail" and "real" in record["reason"]
    empty = subject.server_log_probes([], [str(tmp_path / "none")], "2026-11-20T09:00:00Z")
    assert [record["status"] for record in health_check.run(accepted(empty))] == ["no_evidence"]


ROLE = Path(__file__).resolve().parents[2] / "roles" / "service_checks" / "defaults" / "main.yml"
QUIET = """\
2026-11-20 10:00:00.000 UTC [1] LOG:  duration: 1200 ms  statement: UPDATE jobs SET error = NULL
2026-11-20 10:00:00.000 UTC [2] x_scratch_20261120t091500z_a1@x_scratch_20261120t091500z_a1 ERROR:  relation "t" already exists
2026-11-20 10:00:00.000 UTC [2] x_scratch_20261120t091500z_a1@x_scratch_20261120t091500z_a1 STATEMENT:  CREATE TABLE t (
\t\terror text,
2026-11-20 10:00:01.000 UTC [3] app@live greenroom health_check ERROR:  permission denied for schema public
2026-11-20 10:00:01.000 UTC [3] app@live greenroom health_check STATEMENT:  CREATE TABLE error (id int)
2026-11-20 10:00:02.120 [notice] <0.1.0> TLS server: In state hello generated SERVER ALERT: Fatal - Protocol Version
2026-11-20 10:00:02.120000+00:00 [warning] <0.1.0> closing AMQP connection: client unexpectedly closed, error
2026-11-20 10:00:02.120000+00:00 [error] <0.2.0> PLAIN login refused: user 'guest' - invalid credentials
"""


@pytest.mark.parametrize(
    "line",
    [
        "",
        "2026-11-20 10:00:03.000 UTC [9] app@live  ERROR:  deadlock detected",
        "2026-11-20 10:00:03.000 UTC [9] app@live  FATAL:  password authentication failed for user",
        "2026-11-20 10:00:03.000 UTC [9] PANIC:  could not write to file",
        "2026-11-20 10:00:03.000000+00:00 [error] <0.9.0> channel exception not_found",
        "2026-11-20 10:00:03.000000+00:00 [error] <0.9.0> PLAIN login refused: user 'example' - invalid credentials",
    ],
)
def test_the_lines_known_of_servers_are_no_more_than_those(tmp_path, line):
    allow = yaml.safe_load(ROLE.read_text())["service_checks_server_log_allow"]
    log = tmp_path / "server.log"
    log.write_text(QUIET + (f"{line}\n" if line else ""))
    (record,) = health_check.run(accepted(subject.server_log_probes([str(log)], [str(tmp_path)], "2026-11-20T09:00:00Z", allow=allow)))
    assert (record["status"], record["detail"]["errors"]) == (("fail", 1) if line else ("pass", 0))


def test_the_beginning_of_a_run_is_read_from_its_id():
    assert subject.run_started("20261120T091244Z-a1b2c3") == "2026-11-20T09:12:44Z"
    for wrong in ("", "2026-11-20", "20261120x091244Z-a"):
        with pytest.raises(subject.PlanError, match="run_id"):
            subject.run_started(wrong)


UP = {"status": "healthy"}


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        data = json.dumps(self.server.body).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def page():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    server.body, server.status = {**UP, **RELEASE, "dependencies": {"database": UP, "broker": UP}}, 200
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def measure(page):
    service = {**SERVICE, "ports": {"blue": page.server_port, "green": 1}, "checks": []}
    service["health"] = {**service["health"], "latency_ms": 2000, "start_limit_s": 1}
    probes = [*subject.start_probes(service, "blue"), *subject.slot_probes(service, "blue", RELEASE)]
    return {record["id"]: record for record in health_check.run(health_check.plan(probes, {}))}


def test_a_healthy_page_passes(page):
    assert {record["status"] for record in measure(page).values()} == {"pass"}


@pytest.mark.parametrize(
    ("change", "red"),
    [
        ({"status": "unhealthy"}, {"release.start.app", "verify.health.http"}),
        ({"version": "1.1.0"}, {"release.running_version"}),
        ({"release": "2-1.2.0"}, {"release.running_version"}),
        ({"dependencies": {"database": {"status": "unhealthy"}, "broker": UP}}, {"release.start.app", "verify.health.http"}),
        ({"dependencies": {"database": UP}}, {"release.start.app", "verify.health.http"}),
        ({"dependencies": {}, "version": None}, {"release.start.app", "verify.health.http", "release.running_version"}),
    ],
)
def test_each_part_is_red_on_its_own_fault(page, change, red):
    page.body |= change
    assert {id for id, record in measure(page).items() if record["status"] != "pass"} == red


def test_a_page_that_answers_an_error_is_red_throughout(page):
    page.status = 503
    assert {record["status"] for record in measure(page).values()} == {"fail"}
