"""The tool on the gateway, run as its own program with the system's Python and nothing but the library folder on its path."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from ansible.module_utils.greenroom.releases import Releases

LIBRARY = Path(__file__).resolve().parents[2] / "plugins" / "module_utils"


@pytest.fixture
def gateway(tmp_path):
    """Release 1 confirmed in blue, release 2 confirmed in green and live."""
    state = tmp_path / "var/lib/greenroom/svc"
    state.mkdir(parents=True)
    releases = Releases(state, "svc", tmp_path / "etc/greenroom/svc/switch")
    for number, version in ((1, "1.0.0"), (2, "1.1.0")):
        run = {"run_id": f"run-{number}"}
        held = releases.lease.acquire(owner="anna@control", **run)
        run["fencing"] = held.lease["fencing"]
        job = releases.plan(**run, version=version, commit=str(number) * 40, lock_sha256="l" * 64)[0]["in_progress"]
        releases.stage(**run, artefact_sha256="f" * 64, migrated={"revision": [], "revisions": []})
        releases.switch_to(job["slot"], **run, reason="verified")
        releases.confirm(**run)
        held.give_back()
    return releases


def greenroom(root, *arguments, **environment):
    """Run the tool as the wrapper on the gateway does: isolated, with only the library's folder added."""
    code = f"import sys; sys.path.insert(0, {str(root / 'lib')!r}); from greenroom.cli import main; sys.exit(main())"
    if not (root / "lib").exists():
        shutil.copytree(LIBRARY / "greenroom", root / "lib" / "greenroom", ignore=shutil.ignore_patterns("__pycache__"))
    python = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
    return subprocess.run(
        [python, "-I", "-B", "-c", code, "--root", str(root), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_status_for_people_and_for_programs(gateway, tmp_path):
    done = greenroom(tmp_path, "status")
    assert done.returncode == 0, done.stderr
    for part in (
        "users are on     green",
        "live             2-1.1.0 in green",
        "previous         1-1.0.0",
        "slot blue        1-1.0.0  (idle)",
        "lease            none",
    ):
        assert part in done.stdout
    view = json.loads(greenroom(tmp_path, "status", "--json").stdout)
    assert (view["users_on"], view["live"]["number"], view["previous"]["number"], view["slots"], view["problems"]) == (
        "green", 2, 1, {"blue": "1-1.0.0", "green": "2-1.1.0"}, [],
    )  # fmt: skip


def test_switch_moves_users_records_who_and_why_and_gives_its_lease_back(gateway, tmp_path):
    done = greenroom(tmp_path, "switch", "blue", "--reason", "error rate", "--approved-by", "otto", SUDO_USER="berta")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "users are on blue: 1-1.0.0\n"
    assert gateway.switch.read() == "blue"
    state = gateway.read()
    assert (state["live"]["number"], state["previous"], state["in_progress"]) == (1, None, None)
    entry = gateway.history(1)[0]
    assert (entry["action"], entry["from"], entry["to"], entry["why"], entry["approved_by"]) == (
        "switched",
        "green",
        "blue",
        "error rate",
        "otto",
    )
    assert entry["who"].startswith("berta@") and entry["fencing"] == 3
    assert gateway.lease.read() is None
    again = greenroom(tmp_path, "switch", "blue", "--reason", "again")
    assert again.returncode == 0 and "already" in again.stdout
    assert gateway.read()["counter"] == state["counter"]


def test_switch_without_a_reason_or_to_nowhere_is_refused(gateway, tmp_path):
    for arguments, text in (
        (("switch", "blue"), "--reason"),
        (("switch", "blue", "--reason", "  "), "a reason is needed"),
        (("switch", "red", "--reason", "x"), "invalid choice"),
        (("rollback",), "--reason"),
    ):
        done = greenroom(tmp_path, *arguments)
        assert done.returncode == 3 and text in done.stderr
    assert gateway.switch.read() == "green"


def test_switch_is_refused_while_a_run_holds_the_lease_and_works_under_its_number(gateway, tmp_path):
    lease = gateway.lease.acquire(owner="anna@control", run_id="run-3", version="1.2.0", step="verify").lease
    done = greenroom(tmp_path, "switch", "blue", "--reason", "x")
    assert done.returncode == 75 and "anna@control" in done.stderr and lease["token"] in done.stderr
    assert gateway.switch.read() == "green"
    assert greenroom(tmp_path, "switch", "blue", "--reason", "x", "--fencing", "2").returncode == 75
    assert greenroom(tmp_path, "switch", "blue", "--reason", "x", "--fencing", str(lease["fencing"])).returncode == 0
    assert gateway.switch.read() == "blue"
    assert gateway.lease.read()["run_id"] == "run-3"


def test_a_bad_release_is_served_only_on_an_explicit_word(gateway, tmp_path):
    run = {"run_id": "run-3"}
    held = gateway.lease.acquire(owner="a@b", **run)
    run["fencing"] = held.lease["fencing"]
    gateway.plan(**run, version="1.2.0", commit="3" * 40, lock_sha256="l" * 64)
    gateway.stage(**run, artefact_sha256="f" * 64)
    gateway.fail(**run, reason="red", bad=True)
    held.give_back()
    done = greenroom(tmp_path, "switch", "blue", "--reason", "x")
    assert done.returncode == 3 and "3-1.2.0 in slot blue was found bad" in done.stderr
    assert greenroom(tmp_path, "switch", "blue", "--reason", "x", "--accept-bad").returncode == 0


def test_closing_shows_the_maintenance_page_and_back(gateway, tmp_path):
    assert greenroom(tmp_path, "switch", "none", "--reason", "x").stdout == "users are on the maintenance page\n"
    assert gateway.switch.read() is None and gateway.read()["previous"]["number"] == 2
    assert greenroom(tmp_path, "switch", "green", "--reason", "x").returncode == 0
    assert gateway.read()["live"]["number"] == 2


def test_history_checks_the_chain(gateway, tmp_path):
    done = greenroom(tmp_path, "history", "-n", "3")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 3 and "confirmed" in done.stdout.splitlines()[-1]
    assert len(json.loads(greenroom(tmp_path, "history", "--json").stdout)) == 10
    gateway.ledger.path.write_bytes(gateway.ledger.path.read_bytes().replace(b"verified", b"verifiex", 1))
    done = greenroom(tmp_path, "history")
    assert done.returncode == 4 and "ledger.jsonl:3: was edited" in done.stderr


def test_unlock_needs_the_token_and_is_recorded(gateway, tmp_path):
    held = gateway.lease.acquire(owner="anna@control", run_id="run-3")
    lease = held.lease
    assert f"token {lease['token']}" in greenroom(tmp_path, "status").stdout
    done = greenroom(tmp_path, "unlock", "--token", "00000000", "--reason", "dead")
    assert done.returncode == 3 and "another lease" in done.stderr
    assert gateway.lease.read()
    done = greenroom(tmp_path, "unlock", "--token", lease["token"], "--reason", "control node burnt", SUDO_USER="berta")
    assert done.returncode == 0 and gateway.lease.read() is None
    entry = gateway.history(1)[0]
    assert (entry["action"], entry["why"], entry["run_id"]) == ("unlocked", "control node burnt", "run-3")
    assert entry["who"].startswith("berta@")
    assert greenroom(tmp_path, "unlock", "--token", "x", "--reason", "y").stdout == "nobody holds the lease\n"
    held.drop()
    gateway.lease.acquire(owner="anna@control", run_id="run-4").drop()
    assert "it is dead" in greenroom(tmp_path, "status").stdout
    assert greenroom(tmp_path, "unlock", "--reason", "y").returncode == 3, "neither token nor force"
    assert greenroom(tmp_path, "unlock", "--force", "--reason", "node lost").returncode == 0
    assert "by force" in gateway.history(1)[0]["result"]


def test_problems_make_status_end_with_four(gateway, tmp_path):
    gateway.switch.flip("blue")
    done = greenroom(tmp_path, "status")
    assert done.returncode == 4 and "PROBLEM" in done.stdout and "users are on blue" in done.stdout
    (gateway.switch.directory / "green").touch()
    done = greenroom(tmp_path, "status", "--json")
    assert done.returncode == 4 and "both blue and green" in json.loads(done.stdout)["problems"][0]
    gateway.path.write_text("{")
    done = greenroom(tmp_path, "status")
    assert done.returncode == 4 and str(gateway.path) in done.stderr and "run_adopt" in done.stderr


def test_which_service(gateway, tmp_path):
    (tmp_path / "var/lib/greenroom/other").mkdir()
    done = greenroom(tmp_path, "status")
    assert done.returncode == 3 and "several services on this gateway (other, svc)" in done.stderr
    assert greenroom(tmp_path, "--service", "svc", "status").returncode == 0
    assert greenroom(tmp_path, "--service", "third", "status").returncode == 3
    done = greenroom(tmp_path / "empty", "status") if (tmp_path / "empty").mkdir() is None else None
    assert done.returncode == 3 and "no service in" in done.stderr


@pytest.fixture
def page():
    """A slot's health page; what it says can be changed."""

    class Handler(http.server.BaseHTTPRequestHandler):
        says = {"status": "healthy", "release": "1-1.0.0"}  # noqa: RUF012

        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(self.says).encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def test_rollback_goes_back_only_onto_a_slot_that_is_ready(gateway, page, tmp_path):
    arguments = ("rollback", "--reason", "errors", "--approved-by", "otto")
    done = greenroom(tmp_path, *arguments)
    assert done.returncode == 3 and "guard.json" in done.stderr and "greenroom switch SLOT" in done.stderr
    health = {"path": "/health", "status_field": "status", "healthy": "healthy", "release_field": "release", "dependency_field": None}
    ports = dict.fromkeys(("blue", "green"), page.server_address[1])
    config = {"hosts": {"app1": "127.0.0.1"}, "ports": ports, "health": health}
    (tmp_path / "etc/greenroom/svc/guard.json").write_text(json.dumps(config))
    page.RequestHandlerClass.says = {"status": "healthy", "release": "9-9"}
    done = greenroom(tmp_path, *arguments)
    assert done.returncode == 4 and "is not ready to serve" in done.stderr and gateway.switch.read() == "green"
    page.RequestHandlerClass.says = {"status": "healthy", "release": "1-1.0.0"}
    done = greenroom(tmp_path, *arguments, SUDO_USER="berta")
    assert (done.returncode, done.stdout) == (0, "users are on blue: 1-1.0.0; 2-1.1.0 is marked bad\n"), done.stderr
    entry = gateway.history(1)[0]
    assert (entry["action"], entry["approved_by"]) == ("rolled_back", "otto") and entry["who"].startswith("berta@")
    done = greenroom(tmp_path, *arguments)
    assert done.returncode == 3 and "no release to go back to" in done.stderr
