"""An archive is built by playbooks/build.yml, and taken by a deploy's own steps from a contract that names it; with Ansible, locally."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.greenroom.install import host_target

ROOT = Path(__file__).resolve().parents[2]
SERVICE = {"name": "minimal-service", "package": "minimal_service", "environment": "testing", "python": ">=3.11"}


@pytest.fixture(scope="module")
def play(tmp_path_factory):
    """Runs a playbook on this machine: play(path or plays, variables) -> (status, output)."""
    folder = tmp_path_factory.mktemp("play")
    inventory = folder / "hosts.yml"
    here = {"ansible_connection": "local", "ansible_become": False}
    inventory.write_text(yaml.safe_dump({"all": {"vars": here, "children": {
        "app": {"hosts": {"app1": None, "app2": None}}, "gateway": {"hosts": {"gateway1": None}}}}}))  # fmt: skip

    def run(book, **variables):
        if not isinstance(book, Path):
            (folder / "book.yml").write_text(yaml.safe_dump(book))
            book = folder / "book.yml"
        (folder / "variables.json").write_text(json.dumps(variables))
        environment = {
            **os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "NO_COLOR": "1", "ANSIBLE_FORCE_COLOR": "0",
            "GREENROOM_REPORTS": str(folder / "reports"), "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}",
        }  # fmt: skip
        command = ["ansible-playbook", str(book), "-i", str(inventory), "-e", f"@{folder / 'variables.json'}"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.fixture(scope="module")
def built(play, tmp_path_factory):
    """{archive, sha256, version} as playbooks/build.yml says them of the smallest example."""
    folder = tmp_path_factory.mktemp("built")
    make = [ROOT / "scripts/make_example_repositories", "--out", folder / "git", "minimal-service"]
    subprocess.run(make, check=True, capture_output=True)
    source = {"git": str(folder / "git/minimal-service.git"), "ref": "v0.1.0"}
    status, output = play(ROOT / "playbooks/build.yml", service={**SERVICE, "source": source}, build_dir=str(folder / "out"))
    assert status == 0, output[-3000:]
    (archive,) = (folder / "out").iterdir()
    said = yaml.safe_load(output[output.index("artefact:") :].split("\n\n")[0])["artefact"]
    assert said["archive"] == str(archive) and archive.name == f"minimal-service-0.1.0-{said['sha256'][:12]}.tar.gz"
    status, output = play(ROOT / "playbooks/build.yml", service={**SERVICE, "source": source}, build_dir=str(folder / "out"))
    assert status == 0 and "changed=0" in output, output[-3000:]
    return said


def take(play, artefact, step="build_release", **target):
    """What the phases entry (resolve_release) and release (build_release) do with the archive that a contract names."""
    step = {"ansible.builtin.include_role": {"name": "deployment", "tasks_from": step}}
    told = {"ansible.builtin.debug": {"msg": "told {{ (deployment_built | default(deployment_release)) | to_json }}"}, "run_once": True}
    return play(
        [{"hosts": "all", "gather_facts": False, "any_errors_fatal": True, "tasks": [step, told]}],
        deployment_contract={**SERVICE, "artefact": artefact},
        deployment_target={**host_target("/usr/bin/python3"), **target},
        deployment_ledger={"known_versions": {}, "content": {"counter": 1}, "live": None},
        deployment_phases=["prepare", "release"],
        deployment_left_out=[],
    )


def test_what_one_machine_builds_another_deploys(play, built):
    status, output = take(play, built)
    assert status == 0, output[-3000:]
    assert built["sha256"] in output and '"size"' in output.replace('\\"', '"')


def test_the_entry_learns_the_release_from_the_archive(play, built):
    status, output = take(play, built, "resolve_release")
    assert status == 0, output[-3000:]
    said = " ".join(output.split()).replace('\\"', '"')
    for words in ('"version": "0.1.0"', '"repository": null', '"ref": "v0.1.0"'):
        assert words in said, said[-2000:]


@pytest.mark.parametrize("how", ["cut", "altered", "for other hosts", "another version"])
def test_what_is_not_that_archive_stops_the_run_and_says_why(play, built, tmp_path, how):
    raw, bad, artefact, target = Path(built["archive"]).read_bytes(), tmp_path / "bad.tar.gz", dict(built), {}
    if how in ("cut", "altered"):
        bad.write_bytes(raw[:-100] if how == "cut" else raw[:100000] + bytes([raw[100000] ^ 1]) + raw[100001:])
        artefact["archive"] = str(bad)
    elif how == "another version":
        artefact["version"] = "0.2.0"
    else:
        target["glibc"] = "2.5"
    status, output = take(play, artefact, **target)
    said = " ".join(output.split())
    words = {
        "cut": f"{bad}: the archive was cut or spoiled: its end is missing",
        "altered": f"{bad}: the archive was altered, or is another one",
        "another version": "is an archive of version '0.1.0', the contract says '0.2.0'",
        "for other hosts": "is built for Python",
    }[how]
    assert status != 0 and words in said, said[-2000:]
    assert "PLAY RECAP" in output and "Keep the archive" not in output, "nothing comes after it"
