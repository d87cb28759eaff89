"""The whole way on five fresh hosts, in order: bad input touches nothing, then deploy, no-op, releases that fail, upgrade under load.

Each refusal is judged by three things: the exit status, what the message names, and what is left on the hosts.
"""

import hashlib
import json
import secrets
import ssl
import subprocess
import sys
import urllib.request

import harness
import pytest
import repositories
import yaml
from harness import ansible_playbook, on_host

pytestmark = pytest.mark.timeout(900)  # a whole deploy, on two cores that also run the five hosts
PRODUCTION = "https://lark.example.com"
PLACES = "/opt/greenroom /etc/greenroom /opt/lark-service /var/lib/greenroom /etc/lark-service"


def refused(run, *fragments):
    """Status 3, every fragment in what was printed, and no secret's value."""
    assert run.status == 3, run.output[-3000:]
    for fragment in fragments:
        assert fragment in run.output, f"{fragment!r} is not in:\n{run.output[-3000:]}"
    assert not [1 for value in harness.secrets() if value in run.output], "a secret's value was printed"
    assert "Traceback" not in run.output


def sandbox_secrets() -> dict:
    """The service's secrets that were generated for the sandbox."""
    return yaml.safe_load((harness.INVENTORY / "group_vars" / "all" / "secrets.yml").read_text())["vault_sandbox_service_secrets"]


def health() -> dict:
    """What users get from the gateway, over verified TLS; raises URLError where they get nothing."""
    context = ssl.create_default_context(cafile=str(harness.ROOT / ".greenroom" / "ca" / "sandbox" / "ca.crt"))
    request = urllib.request.Request("https://10.77.0.11/health", headers={"Host": "lark.sandbox.greenroom"})
    with urllib.request.urlopen(request, timeout=10, context=context) as answer:
        return json.load(answer)


def revision() -> str:
    """The schema's revision, as the live database says."""
    return on_host("data", "su postgres -c \"psql -At lark_service_staging -c 'SELECT version_num FROM alembic_version'\"").strip()


# -- bad input, on hosts where nothing was ever done ---------------------------------------------------------------------


@pytest.mark.usefixtures("hosts")
class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "fragments"),
        [
            (["--tags", "verfy"], ["'verfy' is no tag", "verify"]),
            (["--limit", "app1"], ["--limit", "the fleet would be split"]),
            (["-e", "run_reff=v0.1.0"], ["run_reff", "is not known"]),
            (["-e", "run_ref=v9.9.9"], ["v9.9.9", "v0.1.0"]),
            (["-e", "run_ref=v0..1"], ["run_ref", "is malformed"]),
            (["-e", "run_ref=$(id)"], ["run_ref", "is malformed"]),
            (["-e", '{"preflight_supported_os": ["ubuntu 22.04"]}'], ["debian 12", "ubuntu 22.04"]),
        ],
    )
    def test_command_line(self, arguments, fragments):
        refused(ansible_playbook(*arguments), *fragments)

    @pytest.mark.parametrize(
        ("change", "fragments"),
        [
            (lambda service: service.pop("health"), ["service.health"]),
            (lambda service: service.update(helth={}), ["helth", "health"]),
            (lambda service: service["ports"].update(blue="high"), ["service.ports.blue"]),
            (lambda service: service["ports"].update(green=8101), ["service.ports"]),
            (lambda service: service["requirements"].update(cpu=64), ["64", "cores"]),
            (lambda service: service["env"].append({"key": "LOG_LEVEL", "type": "string", "value": "INFO"}), ["LOG_LEVEL"]),
            (lambda service: service["env"].append({"key": "UPSTREAM", "type": "url", "value": PRODUCTION}), ["UPSTREAM", "production"]),
        ],
        ids=["missing", "unknown", "malformed", "same-port", "too-small", "twice", "production"],
    )
    def test_contract(self, contract, extra, change, fragments):
        change(contract)
        refused(ansible_playbook(*extra(service=contract)), *fragments)

    @pytest.mark.parametrize(
        ("values", "fragments"),
        [
            ({"API_KEY": None}, ["API_KEY"]),
            ({"API_KEY": "Short1!"}, ["API_KEY"]),
            ({"API_KEY": "changeme-changeme-changeme-changeme-1A"}, ["API_KEY"]),
            ({"UNDECLARED": "q9Xh2LmN7vRt4KpZ8sWd"}, ["UNDECLARED"]),
        ],
        ids=["missing", "short", "placeholder", "undeclared"],
    )
    def test_secret(self, extra, values, fragments):
        made = yaml.safe_load((harness.INVENTORY / "group_vars" / "all" / "secrets.yml").read_text())
        env = {
            **made["vault_sandbox_service_secrets"],
            "DATABASE_URL": f"postgresql://lark_staging:{made['vault_postgresql_app_password']}@10.77.0.14:5432/lark_service_staging?sslmode=verify-full",
            "BROKER_URL": f"amqps://lark:{made['vault_rabbitmq_password']}@10.77.0.14:5671/%2Flark-staging",
            **values,
        }
        run = ansible_playbook(*extra(vault_service_env={key: value for key, value in env.items() if value is not None}))
        refused(run, *fragments)
        assert not [1 for value in values.values() if value and value in run.output]

    @pytest.mark.parametrize(
        ("make", "ref", "fragments"),
        [(repositories.dirty, "v0.1.0", ["README.md"]), (repositories.without_hashes, "v0.1.1", ["requirements.txt:1", "--hash"])],
        ids=["dirty-tree", "no-hashes"],
    )
    def test_source(self, contract, extra, tmp_path, make, ref, fragments):
        contract["source"].update(git=str(make(tmp_path / "repository")), ref=ref)
        refused(ansible_playbook(*extra(service=contract)), *fragments)

    def test_inventory_without_a_needed_host(self, tmp_path):
        folder = tmp_path / "inventory"
        subprocess.run(["cp", "-r", str(harness.INVENTORY), str(folder)], check=True)
        hosts = folder / "hosts.yml"
        hosts.write_text(hosts.read_text().replace("broker:\n      hosts:\n        data:", "broker:\n      hosts: {}"))
        refused(ansible_playbook(inventory=folder), "broker")

    @pytest.mark.parametrize(
        ("host", "fault", "repair", "fragments"),
        [
            ("app1", "mount -t tmpfs -o size=8m none /opt", "umount /opt", ["app1", "/opt"]),
            ("app2", "mount -t tmpfs -o size=9g none /opt && mount -o remount,ro /opt", "umount /opt", ["app2", "/opt"]),
            (
                "app1",
                "nohup python3 -m http.server 8101 >/dev/null 2>&1 & echo $! > /run/port.pid; sleep 1",
                "kill $(cat /run/port.pid)",
                ["app1", "8101", "python3"],
            ),
        ],
        ids=["full", "read-only", "port-taken"],
    )
    def test_host_that_is_not_as_promised(self, host, fault, repair, fragments):
        on_host(host, fault)
        try:
            refused(ansible_playbook(), *fragments)
        finally:
            on_host(host, repair)

    def test_host_that_is_down(self):
        subprocess.run(["docker", "pause", "greenroom-app2"], check=True, capture_output=True)
        try:
            refused(ansible_playbook(), "app2")
        finally:
            subprocess.run(["docker", "unpause", "greenroom-app2"], check=True, capture_output=True)

    def test_check_mode_on_empty_hosts_changes_nothing(self):
        run = ansible_playbook("--check", "--diff")
        assert run.status == 0, run.output[-3000:]
        assert "checked without changing anything" in run.output

    def test_nothing_was_touched_by_any_of_these(self):
        for host in harness.HOSTS[:-1]:  # on the monitor the stand-in was installed when the hosts were made
            assert on_host(host, f"ls -d {PLACES} 2>/dev/null || true").strip() == "", host


# -- deploy --------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("hosts")
class TestDeploy:
    def test_fresh(self):
        run = ansible_playbook()
        assert run.status == 0, run.output[-4000:]
        assert run.report["verdict"] == "pass" and run.report["version"] == "0.1.0"
        assert [phase["verdict"] for phase in run.report["phases"] if phase["name"] not in ("entry", "close")] == ["pass"] * 6
        assert health()["version"] == "0.1.0"
        assert not [1 for value in harness.secrets() if value in run.output or value in json.dumps(run.report)]

    def test_again_there_is_nothing_to_do(self):
        run = ansible_playbook()
        assert run.status == 0, run.output[-4000:]
        changed = run.changed()
        assert changed.pop("gateway1") == 2, "the lease, taken and given back"
        assert set(changed.values()) == {0}, changed
        reasons = {item["reason"] for item in run.report["checklist"] if item["phase"] == "release" and item["status"] == "not_run"}
        assert any(reason.startswith("unchanged since") for reason in reasons), reasons

    def test_check_mode_finds_nothing_to_do(self):
        run = ansible_playbook("--check", "--diff")
        assert run.status == 0, run.output[-4000:]
        assert {host: count for host, count in run.changed().items() if host != "gateway1"} == dict.fromkeys(harness.HOSTS[1:], 0)

    def test_a_part_of_the_fleet_is_prepared_and_proves_no_phase(self):
        run = ansible_playbook("--limit", "app1", "--tags", "prepare")
        assert run.status == 0, run.output[-4000:]
        assert run.report["verdict"] == "partial" and "left out by --limit: app2, data, gateway1, monitor" in run.output

    def test_a_gateway_configuration_that_nginx_refuses_changes_nothing_for_users(self, contract, extra):
        before = on_host("gateway1", "cat /etc/nginx/nginx.conf /etc/nginx/conf.d/* /etc/nginx/sites-enabled/* 2>/dev/null | sha256sum")
        contract["gateway"]["server_names"].append(".".join(["a" * 60] * 4))  # a name that DNS allows, and nginx's hash table does not
        run = ansible_playbook("--tags", "prepare", *extra(service=contract))
        assert run.status == 2 and "could not build" in run.output, run.output[-3000:]
        assert health()["version"] == "0.1.0"
        after = on_host("gateway1", "cat /etc/nginx/nginx.conf /etc/nginx/conf.d/* /etc/nginx/sites-enabled/* 2>/dev/null | sha256sum")
        assert before == after
        on_host("gateway1", "nginx -t")  # raises unless what lies there is sound

    def test_an_archive_that_was_cut_or_altered_is_refused(self, contract, extra, tmp_path):
        archives = harness.ROOT.glob(".greenroom/build/archives/lark-service-service-0.1.0-*.tar.gz")
        built = max(archives, key=lambda path: path.stat().st_mtime)
        whole = built.read_bytes()
        digest = hashlib.sha256(whole).hexdigest()
        del contract["source"]
        for name, content in (("cut", whole[:-1000]), ("altered", whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])):
            archive = tmp_path / f"{name}.tar.gz"
            archive.write_bytes(content)
            contract["artefact"] = {"archive": str(archive), "sha256": digest, "version": "0.1.0"}
            refused(ansible_playbook(*extra(service=contract)), str(archive))

    def test_rotated_credentials_reach_the_hosts_under_a_new_number(self, extra):
        before = health()["release"]
        rotated = {**sandbox_secrets(), "API_KEY": secrets.token_hex(24)}
        run = ansible_playbook("--skip-tags", "protect", *extra(vault_sandbox_service_secrets=rotated))
        assert run.status == 0, run.output[-4000:]
        assert health()["release"] == f"{int(before.partition('-')[0]) + 1}-0.1.0"
        for host in ("app1", "app2"):
            assert rotated["API_KEY"] in on_host(host, "cat /etc/lark-service/credentials.env")
        assert rotated["API_KEY"] not in run.output + json.dumps(run.report)

    def test_phases_one_after_the_other(self, contract, extra):
        next(one for one in contract["env"] if one["key"] == "LOG_LEVEL")["value"] = "DEBUG"
        changed = extra(service=contract)
        refused(ansible_playbook("--tags", "verify", *changed), "prepare, release, database, configure", "nobody has proven")
        assert ansible_playbook("--tags", "prepare,release", *changed).status == 0
        assert ansible_playbook("--tags", "database,configure", *changed).status == 0
        before = health()["release"]
        run = ansible_playbook("--tags", "verify", *changed)
        assert run.status == 0, run.output[-4000:]
        assert health()["release"] != before

    def test_the_same_version_with_other_content_is_refused(self, contract, extra, tmp_path):
        contract["source"]["git"] = str(repositories.other_content(tmp_path / "repository", "v0.1.0"))
        refused(ansible_playbook(*extra(service=contract)), "version 0.1.0 was released from commit")

    def test_a_release_that_does_not_become_healthy_never_gets_users(self, contract, extra):
        next(one for one in contract["processes"] if one["kind"] == "web")["command"] = "lark-service-cli version"
        contract["health"]["start_limit_s"] = 10
        run = ansible_playbook(*extra(service=contract))
        assert run.status == 2, run.output[-3000:]
        assert "release.start.app" in run.output
        assert health()["version"] == "0.1.0"

    def test_a_migration_that_fails_leaves_schema_and_users_alone(self, contract, extra, tmp_path):
        contract["source"].update(git=str(repositories.failing_migration(tmp_path / "repository", "v0.1.0", "0004")), ref="v0.3.0")
        run = ansible_playbook(*extra(service=contract))
        assert run.status == 2, run.output[-3000:]
        assert "the live database must not be migrated" in run.output and "9999" in run.output
        assert {one["status"] for one in run.evidence("rehearsal.verdict")} == {"fail"} and not run.evidence("db.migration.applied")
        assert health()["version"] == "0.1.0" and revision() == "0004"
        # Somebody answers for it, and it fails on the live database as it did on the copy.
        waiver = {"revision": "9999", "code": "BROKEN", "reason": "to see what happens then", "owner": "Test", "expiry": "2099-01-01"}
        contract["migration"]["rehearsal"] = {"waivers": [waiver]}
        run = ansible_playbook("--tags", "prepare,release,database", *extra(service=contract))
        assert run.status == 2, run.output[-3000:]
        assert {one["status"] for one in run.evidence("db.migration.applied")} == {"fail"}
        assert health()["version"] == "0.1.0" and revision() == "0004"

    def test_upgrade_under_load_loses_no_request(self):
        done = subprocess.run(
            [
                sys.executable, "scripts/bench_upgrade", "--url", "https://lark.sandbox.greenroom/health", "--connect", "10.77.0.11",
                "--ca", ".greenroom/ca/sandbox/ca.crt", "--mark", "release", "--expect-switch", "--rate", "100", "--connections", "20",
                "--", "ansible-playbook", "deploy.yml", "-i", str(harness.INVENTORY), "-e", "run_ref=v0.2.0", "--skip-tags", "protect",
            ],
            cwd=harness.ROOT, capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        assert health()["version"] == "0.2.0"

    def test_workers_follow_the_switch(self):
        live = health()["slot"]
        idle = "green" if live == "blue" else "blue"
        for host in ("app1", "app2"):
            assert on_host(host, f"systemctl is-active lark-service-worker@{live}").strip() == "active"
            assert on_host(host, f"systemctl is-active lark-service-worker@{idle} || true").strip() == "inactive"

    def test_a_red_protect_leaves_the_release_live_until_it_is_proved(self):
        on_host("monitor", "systemctl stop greenroom-store")
        try:
            run = ansible_playbook("-e", "run_ref=v0.2.0", "--tags", "protect")
        finally:
            on_host("monitor", "systemctl start greenroom-store")
        assert run.status == 4 and "is live and stays so" in run.output, run.output[-3000:]
        assert "fail" in {one["status"] for one in run.evidence("protect.backup.run")}
        assert health()["version"] == "0.2.0"
        run = ansible_playbook("-e", "run_ref=v0.2.0", "--tags", "protect")
        assert run.status == 0 and run.report["verdict"] == "pass", run.output[-3000:]
        assert {one["status"] for one in run.evidence("backup.logical.negative_control")} == {"pass"}

    def test_staging_refuses_its_sample_secrets(self):
        run = ansible_playbook(inventory=harness.ROOT / "inventories" / "staging")
        assert run.status == 3 and "vault_service_env" in run.output, run.output[-2000:]
