"""The modules release, release_build and release_install, run as Ansible runs them: a new process, arguments in, one JSON out."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.module_utils.greenroom.lease import LeaseFile
from service_repository import BACKEND, FAST_PYPROJECT, LOCK, PYTHON, UV, git, put

ROOT = Path(__file__).resolve().parents[3]


def run(module, check=False, **arguments):
    """(return status, result) of one module call."""
    code = (
        "import ansible.module_utils, json, runpy, sys\n"
        f"ansible.module_utils.__path__.append({str(ROOT / 'plugins/module_utils')!r})\n"
        "from ansible.module_utils.testing import patch_module_args\n"
        "with patch_module_args(json.load(sys.stdin)):\n"
        f"    runpy.run_path({str(ROOT / 'plugins/modules' / module) + '.py'!r}, run_name='__main__')\n"
    )
    arguments = {**arguments, "_ansible_check_mode": check, "_ansible_diff": True}
    done = subprocess.run([sys.executable, "-c", code], input=json.dumps(arguments), capture_output=True, text=True, check=False)
    assert done.stdout.strip(), done.stderr
    return done.returncode, json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture
def gateway(tmp_path):
    def gateway(check=False, **arguments):
        return run("release", check, service="svc", directory=str(tmp_path / "state"), switch=str(tmp_path / "switch"), **arguments)

    return gateway


@pytest.fixture
def take(tmp_path, gateway):
    """Hold the lease as the gateway's end of a channel does, and call the module under it; its result."""
    kept = []

    def take(run_id, **arguments):
        (tmp_path / "state").mkdir(exist_ok=True)
        take.end()
        kept.append(LeaseFile(tmp_path / "state").acquire(owner="anna@control", run_id=run_id, grace_s=0))
        return gateway(state="leased", run_id=run_id, fencing=kept[-1].lease["fencing"], **arguments)[1]

    take.end = lambda: [held.drop() for held in kept]  # as the holder does that sees its lease given back
    yield take
    take.end()


CONTENT = {"version": "1.0.0", "commit": "a" * 40, "lock_sha256": "l" * 64, "config_digest": "c"}


def deploy(gateway, take, run_id, slot, **content):
    """One whole deploy through the module; the last result."""
    lease = take(run_id)
    assert lease["lease_held"] is True
    common = {"run_id": run_id, "fencing": lease["fencing"]}
    planned = gateway(state="planned", **common, **content)[1]
    assert planned["in_progress"]["slot"] == slot
    gateway(state="staged", **common, artefact_sha256="f" * 64, durations={"build": 4.2})
    gateway(state="switched", **common, slot=slot, reason="verified")
    last = gateway(state="confirmed", **common)
    assert gateway(state="unleased", **common)[1]["changed"] is True
    assert gateway(state="unleased", **common)[1]["changed"] is False
    take.end()
    return last[1]


def test_two_deploys_and_what_is_returned(gateway, take):
    first = gateway(state="read", **CONTENT)[1]
    assert (first["changed"], first["first_deploy"], first["live"], first["idle_slot"], first["is_live"]) == (
        False,
        True,
        None,
        "blue",
        False,
    )
    one = deploy(gateway, take, "run-1", "blue", **CONTENT)
    two = deploy(gateway, take, "run-2", "green", **{**CONTENT, "version": "1.1.0", "commit": "b" * 40})
    assert (one["live"]["number"], two["live"]["number"], two["previous"]["number"], two["users_on"]) == (1, 2, 1, "green")
    assert two["protected"] == [1, 2] and two["problems"] == [] and set(two["known_versions"]) == {"1.0.0", "1.1.0"}
    assert two["diff"]["before"]["in_progress"] and two["diff"]["after"]["in_progress"] is None
    read = gateway(state="read", **{**CONTENT, "version": "1.1.0", "commit": "b" * 40})[1]
    assert read["is_live"] is True and read["lease"] is None and read["next_number"] == 3 and read["content"]["counter"] == 10
    assert gateway(state="read", **CONTENT)[1]["is_live"] is False


def test_the_report_learns_which_release_a_run_is_about_and_that_rotated_credentials_are_no_no_op(gateway, take):
    deploy(gateway, take, "run-1", "blue", **CONTENT)
    first = take("run-2", **CONTENT)
    assert first["greenroom"] == {"release": "1-1.0.0", "no_op_of": "run-1"}
    again = {"state": "leased", "run_id": "run-2", "fencing": first["fencing"], **CONTENT}
    rotated = gateway(**again, rotated=["/etc/svc/credentials.env"])[1]
    assert rotated["is_live"] is False and rotated["greenroom"] == {}
    planned = gateway(state="planned", run_id="run-2", fencing=rotated["fencing"], **CONTENT)[1]
    assert planned["in_progress"]["number"] == 2 and planned["greenroom"] == {"release": "2-1.0.0"}
    read = gateway(state="read", phases=["verify"], **{**CONTENT, "version": "1.1.0"})[1]
    assert read["greenroom"] == {"version": "1.1.0", "commit": "a" * 40}
    gateway(state="proven", run_id="run-2", fencing=rotated["fencing"], phases=["prepare"], **{**CONTENT, "version": "1.1.0"})
    read = gateway(state="read", phases=["verify"], **{**CONTENT, "version": "1.1.0"})[1]
    assert read["greenroom"]["earlier"] == {"prepare": "run-2"}


def test_a_lease_that_is_not_this_runs_is_refused_with_75(gateway, take):
    take("run-1")
    for run_id, fencing in (("run-2", 1), ("run-1", 2)):
        status, refused = gateway(state="leased", run_id=run_id, fencing=fencing)
        assert status == 1 and refused["greenroom_exit"] == 75 and "anna@control" in refused["msg"]
        assert refused["holder"]["run_id"] == "run-1"
    assert gateway(state="read")[1]["lease"]["alive"] is True
    assert gateway(True, state="leased", run_id="run-2")[1]["greenroom_exit"] == 75, "check mode says it, too"


def test_a_rollback_and_what_a_dead_run_left(gateway, take):
    deploy(gateway, take, "run-1", "blue", **CONTENT)
    deploy(gateway, take, "run-2", "green", **{**CONTENT, "version": "1.1.0", "commit": "b" * 40})
    common = {"run_id": "run-3", "fencing": take("run-3", rolling_back=True)["fencing"]}
    planned = gateway(state="rollback_planned", reason="errors", **common)[1]
    assert (planned["in_progress"]["kind"], planned["greenroom"]) == ("rollback", {"release": "1-1.0.0"})
    gateway(state="staged", **common)
    gateway(state="switched", slot="blue", reason="errors", **common)
    gateway(state="unleased", **common)
    resumed = take("run-4")
    assert resumed["reconciled"][0]["rule"] == "finish" and "run-3, release 1-1.0.0" in resumed["greenroom"]["resumed"][0]
    assert resumed["live"]["number"] == 1 and resumed["content"]["bad"][0]["number"] == 2


def test_a_damaged_gateway_adopts_the_newest_copy(gateway, take, tmp_path):
    old = deploy(gateway, take, "run-1", "blue", **CONTENT)["content"]
    new = deploy(gateway, take, "run-2", "green", **{**CONTENT, "version": "1.1.0", "commit": "b" * 40})["content"]
    copies = []
    for number, content in enumerate((new, old, {**new, "counter": 99})):
        folder = tmp_path / f"app{number}"
        folder.mkdir()
        (folder / "state.json").write_text(json.dumps(content))
        copies.append(run("release", state="copied", service="svc", directory=str(folder))[1]["content"])
    assert [one and one["counter"] for one in copies] == [10, 5, None], "an edited copy is none"
    copies = [one for one in copies if one]
    (tmp_path / "state" / "state.json").write_text("{")
    assert gateway(state="read")[1]["greenroom_exit"] == 4
    none = gateway(state="adopted", reason="disk", copies=[])[1]
    assert none["greenroom_exit"] == 4 and "neither here nor on any app host" in none["msg"]
    assert gateway(True, state="adopted", reason="disk", copies=copies)[1]["changed"] is True
    assert gateway(state="read")[1]["failed"], "check mode wrote"
    adopted = gateway(state="adopted", reason="disk", copies=copies)[1]
    assert (adopted["live"]["number"], adopted["content"]["counter"], adopted["problems"]) == (2, 11, [])
    assert "damaged or gone -> 10" in adopted["content"]["last_entry"]["result"]
    assert gateway(state="adopted", reason="disk", copies=copies)[1]["changed"] is False
    (tmp_path / "switch" / "blue").touch()
    assert gateway(state="adopted", reason="both", copies=[])[1]["users_on"] == "green"
    (tmp_path / "switch" / "green").unlink()
    assert gateway(state="adopted", reason="none", copies=[])[1]["users_on"] == "green"
    ledger = tmp_path / "state" / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b"verified", b"verifiex", 1))
    assert gateway(state="adopted", reason="ledger", copies=[])[1]["problems"] == [] and list((tmp_path / "state").glob("*.aside"))


def test_the_control_process_of_a_playbook_is_found():
    """`control` run under a process called ansible-playbook names that process, not the module's own parent."""
    code = (
        "import os, subprocess, sys\n"
        f"sys.path.insert(0, {str(ROOT / 'plugins/module_utils')!r})\n"
        "inner = 'import sys; sys.path.insert(0, sys.argv[1]); from greenroom import lease_keeper as one; print(one.control_process())'\n"
        f"print(os.getpid(), subprocess.run(['sh', '-c', 'exec {sys.executable} -c \"$0\" $1', inner, sys.path[0]], "
        "capture_output=True, text=True).stdout)\n"
    )
    done = subprocess.run(["ansible-playbook", "-c", code], executable=sys.executable, capture_output=True, text=True, check=True)
    pid, found = done.stdout.split()
    assert pid == found


def test_check_mode_takes_no_lease_and_writes_nothing(gateway, tmp_path):
    held = gateway(True, state="leased", run_id="run-1")[1]
    assert (held["lease_held"], held["fencing"], held["changed"]) == (False, None, True)
    planned = gateway(True, state="planned", run_id="run-1", **CONTENT)[1]
    assert planned["changed"] and planned["in_progress"]["number"] == 1 and planned["diff"]["after"]["next_number"] == 2
    for arguments in (
        {"state": "staged", "artefact_sha256": "f"}, {"state": "switched", "slot": "blue", "reason": "x"}, {"state": "confirmed"},
        {"state": "failed", "reason": "x"}, {"state": "unleased"},
    ):  # fmt: skip
        status, result = gateway(True, run_id="run-1", **arguments)
        assert status == 0, result
    assert os.listdir(tmp_path) == []


def test_refusals_carry_the_exit_status_of_the_run(gateway, take, tmp_path):
    assert gateway(state="planned", run_id="run-1", fencing=1, **CONTENT)[1]["greenroom_exit"] == 75
    deploy(gateway, take, "run-1", "blue", **CONTENT)
    lease = take("run-2")
    common = {"run_id": "run-2", "fencing": lease["fencing"]}
    refused = gateway(state="planned", **common, **{**CONTENT, "commit": "b" * 40})[1]
    assert refused["greenroom_exit"] == 3 and "Give the new content a new version" in refused["msg"]
    assert "missing" in gateway(state="switched", **common)[1]["msg"]
    (tmp_path / "switch" / "green").touch()
    refused = gateway(state="planned", **common, **{**CONTENT, "version": "2.0", "commit": "b" * 40})[1]
    assert refused["greenroom_exit"] == 4 and "both blue and green" in refused["msg"]
    (tmp_path / "state" / "state.json").write_text("{")
    for state in ("read", "leased"):
        refused = gateway(state=state, **common)[1]
        assert refused["greenroom_exit"] == 4 and "state.json" in refused["msg"] and "copies" in refused["msg"]


def test_copies_and_links_on_an_application_host(gateway, take, tmp_path):
    content = deploy(gateway, take, "run-1", "blue", **CONTENT)["content"]
    app = {"service": "svc", "directory": str(tmp_path / "app1"), "switch": str(tmp_path / "none")}
    assert run("release", True, state="stored", content=content, **app)[1]["changed"] is True and not (tmp_path / "app1").exists()
    assert run("release", state="stored", content=content, **app)[1]["changed"] is True
    assert run("release", state="stored", content=json.dumps(content), **app)[1]["changed"] is False
    assert run("release", state="stored", content={**content, "counter": 9}, **app)[0] == 1
    releases, slots = tmp_path / "releases", tmp_path / "slots"
    (releases / "1-1.0.0").mkdir(parents=True)
    place = {
        "state": "slot_linked",
        "slot": "blue",
        "release": str(releases / "1-1.0.0"),
        "releases": str(releases),
        "slots": str(slots),
        **app,
    }
    status, refused = run("release", **place)
    assert status == 1 and refused["greenroom_exit"] == 3 and "never finished" in refused["msg"]
    (releases / "1-1.0.0" / "release.json").write_text("{}")
    assert run("release", True, **place)[1]["changed"] is True and not slots.exists()
    linked = run("release", **place)[1]
    assert linked["changed"] and linked["links"] == {"blue": "1-1.0.0", "green": None}
    assert run("release", **place)[1]["changed"] is False
    read = run("release", state="read", slots=str(slots), releases=str(releases), **app)[1]
    assert read["links"]["blue"] == "1-1.0.0" and read["live"]["number"] == 1 and read["problems"] == []


# -- release_build and release_install ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    git(folder, "init", "-q")
    put(
        folder,
        {
            "backend.py": BACKEND,
            "pyproject.toml": FAST_PYPROJECT.format(version="0.1.0"),
            "src/tiny/__init__.py": '__version__ = "0.1.0"\n',
            "requirements.txt": LOCK,
        },
    )
    git(folder, "tag", "v0.1.0")
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work") / "build"


def test_from_a_tag_to_an_installed_release(repository, work, tmp_path):
    common = {"git": str(repository), "ref": "v0.1.0", "package": "tiny", "work_dir": str(work)}
    resolved = run("release_build", **common)[1]
    assert resolved["changed"] is False and resolved["release"]["version"] == "0.1.0"
    assert [(one["id"], one["status"]) for one in resolved["evidence"]] == [("release.version", "pass"), ("release.code.ref", "pass")]
    assert work.stat().st_mode & 0o077 == 0
    target = run("release_install", state="target", python=PYTHON)[1]["target"]
    build = {**common, "state": "built", "name": "tiny", "commit": resolved["release"]["commit"], "target": target}
    would = run("release_build", True, **build)[1]
    assert would["changed"] is True and would["archive"] is None
    built = run("release_build", **build)[1]
    assert built["changed"] is True and [one["id"] for one in built["evidence"]][-1] == "release.code.integrity"
    assert run("release_build", **build)[1]["changed"] is False
    install = {
        "archive": built["archive"],
        "sha256": built["sha256"],
        "size": built["size"],
        "number": 1,
        "version": "0.1.0",
        "uv": UV,
        "python": PYTHON,
        "dest": str(tmp_path / "releases/1-0.1.0"),
        "slots": str(tmp_path / "slots"),
    }
    assert run("release_install", True, **install)[1]["changed"] is True and not (tmp_path / "releases").exists()
    installed = run("release_install", **install)[1]
    assert installed["changed"] is True and len(installed["evidence"]) == 6
    again = run("release_install", **install)[1]
    assert again["changed"] is False and {one["status"] for one in again["evidence"]} == {"pass"}
    pruned = run("release_install", state="pruned", releases=str(tmp_path / "releases"), slots=str(tmp_path / "slots"), keep=1)[1]
    assert (pruned["changed"], pruned["kept"]) == (False, ["1-0.1.0"])
    (tmp_path / "releases/1-0.1.0/src/extra").touch()
    (tmp_path / "slots").mkdir()
    (tmp_path / "slots/blue").symlink_to(tmp_path / "releases/1-0.1.0")
    status, red = run("release_install", **install)
    assert status == 1 and [one["id"] for one in red["evidence"] if one["status"] == "fail"] == ["release.code.cloned"]


def test_failures_of_the_build_are_evidence_too(repository, work, tmp_path):
    common = {"package": "tiny", "work_dir": str(work), "git": str(repository)}
    status, red = run("release_build", ref="v9", **common)
    assert status == 1 and red["greenroom_exit"] == 3 and "Nearest tags: v0.1.0" in red["msg"]
    assert {(one["id"], one["status"]) for one in red["evidence"]} == {("release.version", "fail"), ("release.code.ref", "fail")}
    status, red = run("release_build", ref="v0.1.0", commit="0" * 40, **common)
    assert status == 1 and "it moved during the run" in red["msg"]
    status, red = run("release_build", state="built", name="tiny", ref="v0.1.0", target={"python": "2.7"}, **common)
    assert status == 1 and "target.python" in red["msg"]
    assert "missing" in run("release_build", work_dir=str(work))[1]["msg"]


def test_a_credential_in_the_address_is_nowhere_in_the_output(work):
    secret = "s3cr3t-t0ken-value"
    address = f"https://anna:{secret}@127.0.0.1:1/x.git"
    status, result = run("release_build", git=address, ref="v1", package="tiny", work_dir=str(work), timeout_s=20)
    assert status == 1 and secret not in json.dumps(result) and "127.0.0.1" in result["msg"]
    assert result["invocation"]["module_args"]["git"] != address


def test_a_cut_archive_is_refused_on_the_host(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(b"x" * 10)
    status, red = run(
        "release_install",
        archive=str(tmp_path / "a.tar.gz"),
        sha256="0" * 64,
        size=20,
        number=1,
        version="1",
        dest=str(tmp_path / "r/1-1"),
        python=PYTHON,
    )
    assert status == 1 and "is cut: 10 of 20 bytes" in red["msg"]
    status, red = run("release_install", archive=str(tmp_path / "a.tar.gz"), sha256="0" * 64, dest=str(tmp_path / "r/1-1"))
    assert status == 1 and red["msg"] == "kind service needs number and version"
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("module", ["release", "release_build", "release_install"])
def test_the_documentation_names_every_argument_with_its_type_and_default(module):
    import yaml

    text = (ROOT / "plugins" / "modules" / f"{module}.py").read_text()
    documented = yaml.safe_load(re.search(r'DOCUMENTATION = r"""(.*?)"""', text, re.S)[1])["options"]
    code = f"""
import ansible.module_utils, json, runpy, sys
ansible.module_utils.__path__.append({str(ROOT / "plugins/module_utils")!r})
import ansible.module_utils.basic as basic
class Module:
    def __init__(self, argument_spec, **_):
        print(json.dumps(argument_spec)); raise SystemExit
basic.AnsibleModule = Module
runpy.run_path({str(ROOT / "plugins/modules" / module) + ".py"!r}, run_name='__main__')
"""
    spec = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert set(spec) == set(documented)
    for name, about in spec.items():
        for key in ("type", "default", "required", "choices", "elements"):
            assert about.get(key) == documented[name].get(key), f"{name}.{key}"


def test_a_prebuilt_archive_through_the_module(made, tmp_path):
    """What the entry of a run does before the first change, and what it says of an archive that is not the one that was built."""
    target = {"python": made["manifest"]["python"], **made["manifest"]["platform"]}
    given = {key: made[key] for key in ("archive", "sha256")} | {"version": made["manifest"]["version"], "name": "tiny", "package": "tiny"}
    given |= {"target": target, "work_dir": str(tmp_path / "work")}
    for check in (True, False):
        status, found = run("release_artefact", check, **given)
        assert status == 0 and not found["changed"], found
        assert found["release"]["commit"] == made["manifest"]["commit"] and found["size"] == made["size"]
        assert [record["status"] for record in found["evidence"]] == ["pass", "not_applicable", "pass"]
    altered = tmp_path / "altered.tar.gz"
    altered.write_bytes(Path(made["archive"]).read_bytes()[:-9])
    for change, words in (({"archive": str(altered)}, "cut or spoiled: its end is missing"), ({"version": "9"}, "the contract says '9'")):
        status, found = run("release_artefact", **{**given, **change})
        assert status == 1 and words in found["msg"] and found["greenroom_exit"] == 3
        assert [record["status"] for record in found["evidence"]] == ["fail", "fail"]
        assert all(words in record["reason"] for record in found["evidence"])
