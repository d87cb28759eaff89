"""The archive: same inputs, same bytes; right wheels for the target; a cached one only with the right checksum. Real pip, real git."""

import json
import sys
import tarfile
from pathlib import Path

import pytest
from ansible.module_utils.greenroom import bundle
from ansible.module_utils.greenroom.archive import archive_tree, read_manifest
from ansible.module_utils.greenroom.bundle import build, build_tools
from ansible.module_utils.greenroom.git import SourceError
from ansible.module_utils.greenroom.lock_file import parse_lock
from ansible.module_utils.greenroom.source import evidence_resolved, resolve
from ansible.module_utils.greenroom.wheels import BundleError, check_target, gather_wheels, platforms, wanted_on, wheel_fits
from service_repository import HASH, LOCK, PYPROJECT, git, put

ROOT = Path(__file__).resolve().parents[3]
TARGET = {"python": "3.11", "machine": "x86_64", "glibc": "2.36"}
TESTS_LOCK = LOCK + "iniconfig==2.0.0 --hash=sha256:b6a85871a79d2e3b22d2d1b94ac2824226a63c6b741c88f7ae975f18b6778374\n"


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    git(folder, "init", "-q")
    put(
        folder,
        {
            "pyproject.toml": PYPROJECT.format(version="0.1.0"),
            "src/tiny/__init__.py": '__version__ = "0.1.0"\n',
            "tests/test_x.py": "def test(): pass\n",
            "requirements.txt": LOCK,
            "requirements-test.txt": TESTS_LOCK,
        },
    )
    git(folder, "tag", "v0.1.0")
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


def resolved(repository, work, ref="v0.1.0", **more):
    return resolve(
        git=str(repository), ref=ref, lock="requirements.txt", package="tiny", work_dir=work, tests_lock="requirements-test.txt", **more
    )


@pytest.fixture
def make(repository, work):
    def make(work_dir=work, **more):
        given = {
            "kind": "service",
            "name": "tiny-service",
            "resolved": resolved(repository, work_dir),
            "target": TARGET,
            "work_dir": work_dir,
        }
        return build(**{**given, **more})

    return make


def names(archive):
    with tarfile.open(archive) as opened:
        return [member.name for member in opened]


def test_the_archive_holds_tree_wheels_and_manifest_and_nothing_of_git(make, repository):
    made = make()
    inside = names(made["archive"])
    assert inside[0] == "manifest.json" and inside[1:] == sorted(inside[1:])
    assert (
        "src/pyproject.toml" in inside
        and "wheels/idna-3.10-py3-none-any.whl" in inside
        and "wheels/tiny_service-0.1.0-py3-none-any.whl" in inside
    )
    assert not [name for name in inside if ".git" in name or "egg-info" in name or "__pycache__" in name or name.startswith("src/build")]
    manifest = read_manifest(made["archive"])
    assert manifest == made["manifest"]
    assert (manifest["version"], manifest["package_version"], manifest["commit"]) == (
        "0.1.0",
        "0.1.0",
        git(repository, "rev-parse", "HEAD"),
    )
    assert manifest["wheels"][0]["sha256"] == HASH and manifest["built_at"].endswith("Z")
    assert manifest["needed_bytes"] > manifest["installed_bytes"] > 10000
    assert archive_tree(made["archive"]) == git(repository, "rev-parse", "HEAD^{tree}") == manifest["tree"]
    with tarfile.open(made["archive"]) as opened:
        assert {(m.uid, m.gid, m.uname, m.mtime) for m in opened} == {
            (0, 0, "root", resolved(repository, Path(made["archive"]).parents[1])["commit_time"])
        }
        lines = opened.extractfile("requirements.txt").read().decode().splitlines()
    assert lines[0] == f"idna==3.10 --hash=sha256:{HASH}" and lines[1].startswith("tiny-service==0.1.0 --hash=sha256:")


def test_the_same_inputs_elsewhere_give_the_same_bytes(make, tmp_path):
    first, second = make(), make(work_dir=tmp_path)
    assert second["changed"] is True
    assert first["sha256"] == second["sha256"] and Path(first["archive"]).read_bytes() == Path(second["archive"]).read_bytes()


def test_again_is_a_cache_hit_and_damage_is_noticed_and_repaired(make):
    made = make()
    path = Path(made["archive"])
    assert make()["changed"] is False
    raw = path.read_bytes()
    for damaged, why in (
        (raw[:-100], f"has {len(raw) - 100} of {len(raw)} bytes"),
        (raw[:500] + bytes([raw[500] ^ 1]) + raw[501:], "was altered"),
        (b"", "has 0 of"),
    ):
        path.write_bytes(damaged)
        assert make(dry=True)["changed"] is True and path.read_bytes() == damaged
        again = make()
        assert again["changed"] is True and why in again["rebuilt_because"]
        assert path.read_bytes() == raw
    path.with_suffix(".json").write_text("{")
    assert make()["changed"] is True
    path.unlink()
    assert make()["changed"] is True and path.read_bytes() == raw


def test_a_damaged_wheel_in_the_store_is_fetched_again(make, work):
    make()
    wheel = next((work / "wheels").glob("*/idna-*.whl"))
    good = wheel.read_bytes()
    wheel.write_bytes(good[:-1])
    for archive in (work / "archives").glob("*.tar.gz"):
        archive.unlink()
    made = make()
    assert wheel.read_bytes() == good and made["manifest"]["wheels"][0]["sha256"] == HASH


def test_the_archive_of_the_tests_holds_both_locks(make):
    made = make(kind="tests")
    assert [one["name"] for one in made["manifest"]["wheels"]] == ["idna", "iniconfig", "tiny-service"]
    assert "src/tests/test_x.py" in names(made["archive"])
    assert made["archive"] != make()["archive"]


def test_another_target_is_another_archive(make):
    other = make(target={**TARGET, "glibc": "2.31"})
    assert other["archive"] != make()["archive"] and other["manifest"]["platform"]["glibc"] == "2.31"


def test_without_a_registry_what_is_stored_suffices_and_what_is_not_fails_in_time(make, tmp_path, monkeypatch):
    make()
    for key, value in {"PIP_INDEX_URL": "http://127.0.0.1:1/simple", "PIP_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    assert make()["changed"] is False
    requirements = parse_lock(LOCK.encode(), "x")
    with pytest.raises(BundleError, match=r"idna==3\.10 cannot be downloaded: the package registry does not answer"):
        gather_wheels(requirements, check_target(TARGET), tmp_path, sys.executable, timeout_s=4)


def test_a_hash_that_does_not_fit_names_the_package(tmp_path):
    requirements = parse_lock(LOCK.replace(HASH, "0" * 64).encode(), "x")
    with pytest.raises(BundleError, match=rf"idna==3\.10 has another hash than the lock: Expected sha256 0000\S+ Got {HASH}\."):
        gather_wheels(requirements, check_target(TARGET), tmp_path, sys.executable)
    assert not list(tmp_path.rglob("*.whl"))


def test_a_version_without_a_wheel_for_the_target_names_both(tmp_path):
    requirements = parse_lock(f"idna==0.0.404 --hash=sha256:{HASH}".encode(), "x")
    with pytest.raises(BundleError, match=r"no wheel of idna==0\.0\.404 for Python 3\.11 on x86_64 with glibc 2\.36"):
        gather_wheels(requirements, check_target(TARGET), tmp_path, sys.executable)


def test_locks_that_disagree_are_refused(repository, work):
    target = check_target(TARGET)
    two = parse_lock(LOCK.encode(), "x") + parse_lock(LOCK.replace("3.10", "3.9").encode(), "x")
    with pytest.raises(BundleError, match=r"idna is wanted as 3\.10 and as 3\.9"):
        wanted_on(two, target)


def test_markers_are_judged_for_the_target_not_for_the_control_node():
    lock = "".join(f"p{i}==1 ; {marker} --hash=sha256:{HASH}\n" for i, marker in enumerate([
        "python_version < '3.12'", "python_version >= '3.12'", "platform_machine == 'aarch64'", "sys_platform == 'win32'", "extra == 'x'",
        "python_full_version == '3.11.2'",
    ]))  # fmt: skip
    requirements = parse_lock(lock.encode(), "x")
    assert [one["name"] for one in wanted_on(requirements, check_target({**TARGET, "python": "3.11.2"}))] == ["p0", "p5"]
    assert [one["name"] for one in wanted_on(requirements, check_target({**TARGET, "python": "3.13", "machine": "aarch64"}))] == [
        "p1",
        "p2",
    ]
    with pytest.raises(BundleError, match="malformed"):
        wanted_on([{**requirements[0], "marker": "nonsense"}], check_target(TARGET))


def test_which_wheels_fit():
    target = check_target(TARGET)
    good = [
        "a-1-py3-none-any.whl",
        "a-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "a-1-cp38-abi3-manylinux_2_34_x86_64.whl",
    ]
    good += ["a-1-cp311-cp311-linux_x86_64.whl", "a-1-py2.py3-none-manylinux1_x86_64.whl"]
    bad = [
        "a-1-cp312-cp312-manylinux_2_17_x86_64.whl",
        "a-1-cp311-cp311-manylinux_2_17_aarch64.whl",
        "a-1-cp311-cp311-manylinux_2_39_x86_64.whl",
    ]
    bad += [
        "a-1-cp311-cp311-musllinux_1_2_x86_64.whl",
        "a-1-cp311-cp311-macosx_11_0_arm64.whl",
        "a-1-cp311-cp311t-manylinux_2_17_x86_64.whl",
    ]
    assert [name for name in good if not wheel_fits(name, target)] == []
    assert [name for name in bad if wheel_fits(name, target)] == []
    assert platforms(check_target({**TARGET, "machine": "aarch64"}))[-3:] == [
        "manylinux_2_17_aarch64",
        "manylinux2014_aarch64",
        "linux_aarch64",
    ]


@pytest.mark.parametrize(
    "target, text",
    [
        ({}, "target.python"),
        ({**TARGET, "python": "2.7"}, "target.python"),
        ({**TARGET, "machine": "x86 64"}, "target.machine"),
        ({**TARGET, "glibc": None}, "target.glibc"),
        ({**TARGET, "python": "3.9"}, "needs Python >=3.11, the hosts have 3.9"),
    ],
)
def test_a_target_that_cannot_be(target, text):
    with pytest.raises(BundleError, match=text):
        check_target(target, ">=3.11")


def test_a_service_that_does_not_build_or_says_another_version(repository, work, tmp_path):
    folder = tmp_path / "broken"
    git(tmp_path, "clone", "-q", str(repository), "broken")
    given = {"kind": "service", "name": "tiny-service", "target": TARGET, "work_dir": tmp_path / "work"}
    put(folder, {"setup.py": "raise SystemExit('no way')\n"})
    with pytest.raises(BundleError, match=r"wheel of commit \w+ cannot be built: (?s:.*)no way"):
        build(resolved=resolved(folder, tmp_path / "work", git(folder, "rev-parse", "HEAD")), **given)
    put(folder, {"setup.py": "import setuptools; setuptools.setup(version='7.7.7')\n",
                 "pyproject.toml": PYPROJECT.format(version="x").replace('version = "x"', 'dynamic = ["version"]')})  # fmt: skip
    with pytest.raises(BundleError, match=r"says version 7\.7\.7, the release 0\.1\.0"):
        build(resolved=resolved(folder, tmp_path / "work", git(folder, "rev-parse", "HEAD")), **given)


def test_the_evidence_is_measured_on_the_archive(make, repository, work):
    release = resolved(repository, work)
    made = make()
    assert bundle.evidence_built(release, made["archive"])["status"] == "pass"
    assert [(one["id"], one["status"]) for one in evidence_resolved(release, str(repository))] == [
        ("release.version", "pass"), ("release.code.ref", "pass"),
    ]  # fmt: skip
    red = bundle.evidence_built({**release, "tree": "0" * 40}, made["archive"])
    assert red["status"] == "fail" and "the archive holds tree" in red["reason"]
    moved = evidence_resolved({**release, "commit": "1" * 40}, str(repository))[1]
    assert (moved["id"], moved["status"]) == ("release.code.ref", "fail")


def test_the_tools_archive_holds_uv_the_library_and_the_wheels(tmp_path):
    (tmp_path / "hosts.txt").write_text(LOCK)
    given = {
        "path": tmp_path,
        "lock": "hosts.txt",
        "library": ROOT / "plugins/module_utils/greenroom",
        "target": TARGET,
        "work_dir": tmp_path / "work",
    }
    made = build_tools(**given)
    inside = names(made["archive"])
    for name in ("bin/uv", "lib/greenroom/__init__.py", "lib/greenroom/cli.py", "lib/greenroom/slot_agent.py", "requirements.txt"):
        assert name in inside
    assert made["manifest"]["kind"] == "tools" and build_tools(**given)["changed"] is False
    (tmp_path / "hosts.txt").write_text(LOCK + "# changed\n")
    assert build_tools(**given)["sha256"] != made["sha256"]
    (tmp_path / "uv").write_bytes(b"\x7fELF" + b"\0" * 14 + b"\xb7\0" + b"\0" * 100)
    with pytest.raises(BundleError, match="is for aarch64, the hosts are x86_64"):
        build_tools(**given, uv=tmp_path / "uv")
    with pytest.raises(SourceError, match=r"absent\.txt: cannot be read"):
        build_tools(**{**given, "lock": "absent.txt"})
    (tmp_path / "hosts.txt").write_text("idna\n")
    with pytest.raises(SourceError, match=r"hosts\.txt:1: 'idna' is not pinned"):
        build_tools(**given)


def test_the_record_beside_an_archive_is_complete(make):
    made = make()
    record = json.loads(Path(made["archive"]).with_suffix(".json").read_text())
    assert record["sha256"] == made["sha256"] and record["size"] == made["size"] == Path(made["archive"]).stat().st_size
