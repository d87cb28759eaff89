"""Installing an archive, offline, with the real uv, on this machine's own Python; and every way in which that must be refused or undone."""

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from ansible.module_utils.greenroom import install as install_module
from ansible.module_utils.greenroom.bundle import build, build_tools
from ansible.module_utils.greenroom.durable import sha256_file
from ansible.module_utils.greenroom.install import (
    InstallError,
    _plain_version,
    check_host,
    examine,
    host_target,
    install,
    install_tools,
    locked_versions,
    prune,
    read_manifest,
    unpack,
    verify_archive,
)
from ansible.module_utils.greenroom.source import resolve

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode puts no folder of tests on the path
from service_repository import BACKEND, FAST_PYPROJECT, LOCK, git, put

ROOT = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
UV = str(Path(sys.executable).parent / "uv")
IDS = {
    "release.venv",
    "release.deps.installed",
    "release.deps.verified",
    "release.deps.no_editable",
    "release.deps.import",
    "release.code.cloned",
}


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Builds an archive of a small service from the files given."""
    folder, work = tmp_path_factory.mktemp("service"), tmp_path_factory.mktemp("work")
    git(folder, "init", "-q")

    def make(version="0.1.0", kind="service", **files):
        given = {
            "pyproject.toml": FAST_PYPROJECT.format(version=version),
            "backend.py": BACKEND,
            "src/tiny/__init__.py": f'__version__ = "{version}"\n',
            "requirements.txt": LOCK,
            "run.sh": "#!/bin/sh\n",
        }
        commit = put(folder, {**given, **files, "stamp": os.urandom(4).hex()})
        tests = "requirements.txt" if kind == "tests" else None
        found = resolve(git=str(folder), ref=commit, lock="requirements.txt", package="tiny", work_dir=work, tests_lock=tests)
        return build(kind=kind, name="tiny", resolved=found, target=host_target(PYTHON), work_dir=work)

    return make


@pytest.fixture(scope="module")
def made(make):
    return make()


@pytest.fixture
def put_in(made, tmp_path):
    """Installs the archive as release 3 into a temporary place."""

    def put_in(archive=made, number=3, **more):
        version = archive["manifest"]["version"]
        given = {
            "archive": archive["archive"], "sha256": archive["sha256"], "size": archive["size"], "number": number, "version": version,
            "dest": tmp_path / "releases" / f"{number}-{version}", "uv": UV, "python": PYTHON, "slots": tmp_path / "slots",
        }  # fmt: skip
        return install(**{**given, **more})

    return put_in


def test_an_installed_release_is_complete_proved_and_again_unchanged(made, put_in, tmp_path):
    done = put_in()
    dest = Path(done["dest"])
    assert done["changed"] is True
    assert {one["id"] for one in done["evidence"]} == IDS and {one["status"] for one in done["evidence"]} == {"pass"}
    assert sorted(os.listdir(dest)) == ["release.json", "requirements.txt", "src", "venv"]
    about = json.loads((dest / "release.json").read_text())
    assert (about["number"], about["archive_sha256"], about["commit"]) == (3, made["sha256"], made["manifest"]["commit"])
    says = subprocess.run(
        [dest / "venv/bin/python", "-c", "import tiny, idna; print(tiny.__file__)"], capture_output=True, text=True, check=True
    )
    assert says.stdout.startswith(str(dest / "venv/lib"))
    assert list((dest / "venv").rglob("tiny/__pycache__/*.pyc")), "compiled now: the service cannot write later"
    stats = [path.lstat() for path in dest.rglob("*") if not path.is_symlink()]
    assert {(one.st_uid, one.st_gid) for one in stats} == {(os.geteuid(), os.getegid())}
    assert not [one for one in stats if one.st_mode & 0o022]
    again = put_in()
    assert again["changed"] is False and {one["status"] for one in again["evidence"]} == {"pass"}
    assert put_in(archive={**made, "archive": str(tmp_path / "gone")})["changed"] is False, "what stands and is proved needs no archive"


def test_an_unfinished_folder_is_made_anew(put_in, tmp_path, made):
    dest = tmp_path / "releases" / f"3-{made['manifest']['version']}"
    (dest / "venv").mkdir(parents=True)
    (dest / "leftover").write_text("x")
    assert put_in()["changed"] is True
    assert not (dest / "leftover").exists() and (dest / "release.json").exists()


def test_check_mode_says_what_would_change_and_writes_nothing(put_in, tmp_path):
    assert put_in(dry=True)["changed"] is True
    assert not (tmp_path / "releases").exists()
    put_in()
    assert put_in(dry=True)["changed"] is False


# -- the archive ----------------------------------------------------------------------------------------------------------


def test_a_cut_or_altered_archive_is_refused_before_anything_is_unpacked(made, put_in, tmp_path):
    raw = Path(made["archive"]).read_bytes()
    bad = tmp_path / "bad.tar.gz"
    for content, text in (
        (raw[:-1000], f"the archive is cut: {len(raw) - 1000} of {len(raw)} bytes"),
        (raw + b"x", "not the one that was built"),
        (raw[:100] + bytes([raw[100] ^ 1]) + raw[101:], r"was altered: sha256 \w+, expected"),
    ):
        bad.write_bytes(content)
        with pytest.raises(InstallError, match=rf"{bad}: .*{text}"):
            put_in(archive={**made, "archive": str(bad)})
    with pytest.raises(InstallError, match="cannot be read"):
        put_in(archive={**made, "archive": str(tmp_path / "absent")})
    with pytest.raises(InstallError, match="was altered"):
        verify_archive(bad, "0" * 64)
    assert not (tmp_path / "releases").exists()


def tar_of(path, *members):
    """An archive with exactly these (name, kind, content or target) members after a manifest."""
    with tarfile.open(path, "w:gz") as out:
        for name, kind, content in (("manifest.json", tarfile.REGTYPE, b'{"schema": 1}'), *members):
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(content)
            elif isinstance(content, str):
                info.linkname = content
            info.mode = 0o6777
            out.addfile(info, io.BytesIO(content) if kind == tarfile.REGTYPE else None)


@pytest.mark.parametrize(
    "members, text",
    [
        ([("../evil", tarfile.REGTYPE, b"x")], "outside"),
        ([("/etc/evil", tarfile.REGTYPE, b"x")], "outside"),
        ([("src/../../evil", tarfile.REGTYPE, b"x")], "outside"),
        ([("src/l", tarfile.SYMTYPE, "/etc/passwd")], "points outside"),
        ([("src/l", tarfile.SYMTYPE, "../../x")], "points outside"),
        ([("venv", tarfile.SYMTYPE, "src")], "points outside"),
        ([("src/l", tarfile.SYMTYPE, "d"), ("src/l/evil", tarfile.REGTYPE, b"x")], "behind a link"),
        ([("src/h", tarfile.LNKTYPE, "manifest.json")], "neither a file nor a link"),
        ([("src/d", tarfile.CHRTYPE, None)], "neither a file nor a link"),
        ([("src/f", tarfile.FIFOTYPE, None)], "neither a file nor a link"),
    ],
    ids=["up", "absolute", "through", "link out", "link up", "link at the top", "behind", "hard link", "device", "pipe"],
)
def test_an_archive_that_would_write_elsewhere_unpacks_nothing(tmp_path, members, text):
    tar_of(tmp_path / "a.tar.gz", ("src/good", tarfile.REGTYPE, b"x"), *members)
    (tmp_path / "out").mkdir()
    with pytest.raises(InstallError, match=text):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []
    assert not (tmp_path / "evil").exists()


def test_modes_of_an_archive_are_reduced_and_good_links_kept(tmp_path):
    tar_of(tmp_path / "a.tar.gz", ("src/run", tarfile.REGTYPE, b"x"), ("src/l", tarfile.SYMTYPE, "run"))
    (tmp_path / "out").mkdir()
    unpack(tmp_path / "a.tar.gz", tmp_path / "out")
    assert (tmp_path / "out/src/run").stat().st_mode & 0o7777 == 0o755 and os.readlink(tmp_path / "out/src/l") == "run"


def test_what_is_no_archive_of_ours(tmp_path):
    (tmp_path / "a").write_bytes(b"no")
    (tmp_path / "b").write_bytes(gzip.compress(b"no"))
    with tarfile.open(tmp_path / "c", "w:gz") as out:
        out.addfile(tarfile.TarInfo("other"), io.BytesIO())
    tar_of(tmp_path / "d")
    for name, text in (("a", "cannot be read"), ("b", "cannot be read"), ("c", "does not begin with a manifest")):
        with pytest.raises(InstallError, match=text):
            read_manifest(tmp_path / name)
    assert read_manifest(tmp_path / "d") == {"schema": 1}


# -- what is refused ---------------------------------------------------------------------------------------------------------


def test_a_folder_name_or_archive_that_does_not_belong_together(make, made, put_in, tmp_path):
    with pytest.raises(InstallError, match="is called <number>-<version>"):
        put_in(dest=tmp_path / "releases" / "latest")
    with pytest.raises(InstallError, match="is called"):
        put_in(number=4, dest=tmp_path / "releases" / f"3-{made['manifest']['version']}")
    with pytest.raises(InstallError, match=r"holds service .*, wanted is service 9\.9"):
        put_in(version="9.9", dest=tmp_path / "releases" / "3-9.9")
    with pytest.raises(InstallError, match="wanted is tests"):
        put_in(kind="tests")


def test_a_number_is_never_used_for_another_build(make, made, put_in, tmp_path):
    put_in()
    with pytest.raises(InstallError, match=r"holds another build .* take a new number"):
        put_in(sha256="0" * 64)


@pytest.mark.parametrize(
    "change, text",
    [
        ({"python": "3.99"}, "is for Python 3.99"),
        ({"platform": {"machine": "s390x", "glibc": "2.17"}}, "on s390x"),
        ({"platform": {"machine": os.uname().machine, "glibc": "2.99"}}, "needs glibc 2.99"),
    ],
)
def test_a_host_that_the_wheels_do_not_fit(made, change, text):
    check_host(made["manifest"], PYTHON)
    with pytest.raises(InstallError, match=text):
        check_host({**made["manifest"], **change}, PYTHON)


def test_a_host_without_python_or_uv(put_in, tmp_path, made):
    with pytest.raises(InstallError, match="does not run"):
        put_in(python="/nonexistent/python3")
    with pytest.raises(InstallError, match="host_base installs it"):
        put_in(uv="/nonexistent/uv")
    assert not (tmp_path / "releases" / f"3-{made['manifest']['version']}").exists()


def test_no_room_is_said_before_the_first_write(put_in, tmp_path, monkeypatch):
    real = os.statvfs(tmp_path)

    class Full:
        f_bavail, f_frsize, f_files, f_favail = 100, 4096, real.f_files, real.f_favail

    monkeypatch.setattr(install_module.os, "statvfs", lambda _: Full)
    with pytest.raises(InstallError, match=r"needs \d+ MB, 0 MB are free. Make room"):
        put_in()
    Full.f_bavail, Full.f_files, Full.f_favail = 10**9, 100, 5
    with pytest.raises(InstallError, match="only 5 inodes"):
        put_in()
    assert not (tmp_path / "releases").exists()


@pytest.fixture
def small_disk(tmp_path):
    """A real file system with little room: a loop-mounted ext4, or a tmpfs where loop devices are not to be had."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], capture_output=True, check=False).returncode:
        image = tmp_path / "image"
        with open(image, "wb") as out:
            out.truncate(6 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
        subprocess.run(["mount", "-o", "loop", image, place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_fills_up_leaves_nothing_half(make, small_disk, monkeypatch):
    ballast = "import os\nX = '" + "".join(os.urandom(2).hex() for _ in range(2_000_000 // 4)) + "'\n"
    big = make(**{"src/tiny/ballast.py": ballast})
    monkeypatch.setattr(install_module, "check_room", lambda *_: None)  # as if the room had gone in between
    version = big["manifest"]["version"]
    releases = small_disk / "releases"
    with pytest.raises(InstallError, match=r"no space left while installing .* Make room"):
        install(
            archive=big["archive"], sha256=big["sha256"], number=1, version=version, dest=releases / f"1-{version}", uv=UV, python=PYTHON,
        )  # fmt: skip
    assert [name for name in os.listdir(releases) if not name.startswith(".")] == []


@pytest.mark.parametrize("step", ["unpack", "_uv", "examine", "write_atomic"])
def test_any_failure_or_kill_leaves_no_release_that_looks_finished(put_in, tmp_path, monkeypatch, step, made):
    class Stopped(BaseException):
        pass

    def stop(*_, **__):
        raise Stopped

    monkeypatch.setattr(install_module, step, stop)
    with pytest.raises(Stopped):
        put_in()
    monkeypatch.undo()
    assert not (tmp_path / "releases" / f"3-{made['manifest']['version']}").exists()
    assert put_in()["changed"] is True


def test_a_kill_in_the_middle_is_healed_by_the_next_run(made, put_in, tmp_path):
    """A real SIGKILL after the venv was filled and before release.json."""
    dest = tmp_path / "releases" / f"3-{made['manifest']['version']}"
    code = f"""
import ansible.module_utils, os, signal
ansible.module_utils.__path__.append({str(ROOT / "plugins/module_utils")!r})
from ansible.module_utils.greenroom import install as i
i.write_atomic = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
i.install(archive={made["archive"]!r}, sha256={made["sha256"]!r}, number=3, version={made["manifest"]["version"]!r}, dest={str(dest)!r},
          uv={UV!r}, python={PYTHON!r})
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert dest.exists() and not (dest / "release.json").exists()
    assert put_in()["changed"] is True


# -- what is measured --------------------------------------------------------------------------------------------------------


def red_ids(error):
    return {one["id"] for one in error.value.evidence if one["status"] != "pass"}


def test_a_package_that_does_not_import_or_lies_about_its_version_is_removed_again(make, put_in, tmp_path):
    broken = make(**{"src/tiny/__init__.py": '__version__ = "0.1.0"\nraise RuntimeError("boom")\n'})
    with pytest.raises(InstallError, match=r"import of tiny: RuntimeError: boom") as refused:
        put_in(broken)
    assert red_ids(refused) == {"release.deps.import"}
    liar = make(**{"src/tiny/__init__.py": '__version__ = str("9.9.9")\n'})
    with pytest.raises(InstallError, match=r"the package says '9\.9\.9', the release is '0\.1\.0'"):
        put_in(liar)
    silent = make(**{"src/tiny/__init__.py": ""})
    with pytest.raises(InstallError, match=r"the package says '', the release"):
        put_in(silent)
    assert [name for name in os.listdir(tmp_path / "releases") if not name.startswith(".")] == []


def test_a_lock_that_lacks_a_dependency_of_a_dependency_fails_here(make, put_in, tmp_path):
    lacking = make(
        **{"pyproject.toml": FAST_PYPROJECT.format(version="0.1.0").replace('["idna"]', '["idna", "iniconfig; python_version > \'3\'"]')}
    )
    with pytest.raises(InstallError, match=r"uv pip install failed: (?s:.*)iniconfig"):
        put_in(lacking)


@pytest.fixture(scope="module")
def installed(made, tmp_path_factory):
    version = made["manifest"]["version"]
    dest = tmp_path_factory.mktemp("host") / "releases" / f"1-{version}"
    install(archive=made["archive"], sha256=made["sha256"], number=1, version=version, dest=dest, uv=UV, python=PYTHON)
    return dest


def site(dest):
    return next((dest / "venv/lib").glob("python3*/site-packages"))


def spoil(dest, how):
    if how == "code":
        (dest / "src/src/tiny/__init__.py").write_text("#")
    elif how == "missing package":
        shutil.rmtree(next(site(dest).glob("idna-*.dist-info")))
    elif how == "extra package":
        shutil.copytree(next(site(dest).glob("idna-*.dist-info")), site(dest) / "other-1.dist-info")
        meta = site(dest) / "other-1.dist-info/METADATA"
        meta.write_text(meta.read_text().replace("Name: idna", "Name: other"))
    elif how == "other version":
        meta = next(site(dest).glob("idna-*.dist-info")) / "METADATA"
        meta.write_text(meta.read_text().replace("Version: 3.10", "Version: 3.9"))
    elif how == "altered file":
        with open(site(dest) / "idna/core.py", "a") as out:
            out.write("#")
    elif how == "missing file":
        (site(dest) / "idna/core.py").unlink()
    elif how == "editable":
        (site(dest) / "__editable__.tiny.pth").write_text("/tmp\n")
    elif how == "no venv":
        (dest / "venv/bin/python").unlink()
    else:
        raise AssertionError(how)


@pytest.mark.parametrize(
    "how, ids",
    [
        ("code", {"release.code.cloned"}),
        ("missing package", {"release.deps.installed", "release.deps.verified"}),
        ("extra package", {"release.deps.installed"}),
        ("other version", {"release.deps.installed", "release.deps.verified"}),
        ("altered file", {"release.deps.installed"}),
        ("missing file", {"release.deps.installed", "release.deps.import"}),
        ("editable", {"release.deps.no_editable"}),
        ("no venv", IDS - {"release.code.cloned"}),
    ],
)
def test_each_check_turns_red_on_its_fault(made, installed, tmp_path, how, ids):
    copy = tmp_path / "copy"
    shutil.copytree(installed, copy, symlinks=True)
    requirements = (copy / "requirements.txt").read_text()
    assert {one["status"] for one in examine(copy, made["manifest"], requirements)} == {"pass"}
    spoil(copy, how)
    red = {one["id"] for one in examine(copy, made["manifest"], requirements) if one["status"] != "pass"}
    assert ids - {"release.deps.import"} <= red <= ids


def test_a_damaged_release_is_made_anew_only_when_no_slot_leads_to_it(put_in, tmp_path):
    dest = Path(put_in()["dest"])
    spoil(dest, "altered file")
    (tmp_path / "slots").mkdir()
    (tmp_path / "slots" / "blue").symlink_to(dest)
    with pytest.raises(InstallError, match=r"is damaged .* and slot blue leads to it") as refused:
        put_in()
    assert red_ids(refused) == {"release.deps.installed"}
    with pytest.raises(InstallError, match="is damaged"):
        put_in(slots=None)
    (tmp_path / "slots" / "blue").unlink()
    assert put_in()["changed"] is True
    assert put_in()["changed"] is False


def test_the_import_runs_as_the_service_user(make, put_in):
    archive = make(**{"src/tiny/__init__.py": '__version__ = "0.1.0"\nimport os\nassert os.geteuid() == 65534, os.geteuid()\n'})
    with pytest.raises(InstallError, match="AssertionError: 0"):
        put_in(archive)
    # the folder of the test must be reachable for that user
    put_in_folder = Path("/var/tmp") / f"greenroom-test-{os.getpid()}"
    version = archive["manifest"]["version"]
    try:
        done = put_in(archive, dest=put_in_folder / f"3-{version}", run_as="nobody")
        assert {one["status"] for one in done["evidence"]} == {"pass"}
    finally:
        shutil.rmtree(put_in_folder, ignore_errors=True)


@pytest.mark.parametrize(
    "one, two", [("1.0.0-rc1", "1.0.0rc1"), ("1.0", "1.0.0"), ("v1.2", "1.2"), ("1.0.0.post1", "1.0.0-post1"), ("1.0A1", "1.0a1")]
)
def test_spellings_of_one_version(one, two):
    assert _plain_version(one) == _plain_version(two)


@pytest.mark.parametrize(
    "one, two", [("1.0.1", "1.0"), ("1.0rc1", "1.0"), ("1.10", "1.1"), ("10", "1"), ("1.0+a", "1.0"), ("1.0rc1", "1.0rc10"), ("", "1")]
)
def test_different_versions(one, two):
    assert _plain_version(one) != _plain_version(two)


def test_requirements_of_an_archive_are_strict():
    assert locked_versions(f"A_b[x]==1.0 --hash=sha256:{'0' * 64}\n") == {"a-b": "1.0"}
    with pytest.raises(InstallError, match="no pinned requirement"):
        locked_versions("a>=1\n")


# -- tests and tools ---------------------------------------------------------------------------------------------------------


def test_the_archive_of_the_tests_goes_into_a_folder_of_its_own(make, tmp_path):
    archive = make(kind="tests")
    given = {
        "archive": archive["archive"], "sha256": archive["sha256"], "kind": "tests", "dest": tmp_path / "run-1", "uv": UV, "python": PYTHON,
    }  # fmt: skip
    assert install(**given)["changed"] is True and install(**given)["changed"] is False
    assert (tmp_path / "run-1/src/requirements.txt").exists()
    spoil(tmp_path / "run-1", "missing file")
    assert install(**given)["changed"] is True


def test_the_tools_move_with_one_rename_each(tmp_path):
    (tmp_path / "hosts.txt").write_text(LOCK)
    given = {
        "path": tmp_path, "lock": "hosts.txt", "library": ROOT / "plugins/module_utils/greenroom", "target": host_target(PYTHON),
        "work_dir": tmp_path / "work", "uv": UV,
    }  # fmt: skip
    first = build_tools(**given)
    dest = tmp_path / "opt"

    def put_tools(archive, **more):
        return install_tools(archive=archive["archive"], sha256=archive["sha256"], dest=dest, python=PYTHON, **more)

    assert put_tools(first, dry=True)["changed"] is True and not dest.exists()
    done = put_tools(first)
    assert done["changed"] is True and {one["status"] for one in done["evidence"]} == {"pass"}
    assert put_tools(first)["changed"] is False
    assert subprocess.run([dest / "venv/bin/python", "-c", "import idna"], check=False).returncode == 0
    assert subprocess.run([dest / "bin/uv", "--version"], capture_output=True, check=False).returncode == 0
    code = f"import sys; sys.path.insert(0, {str(dest / 'lib')!r}); from greenroom.cli import main; sys.exit(main(['--help']))"
    assert subprocess.run([PYTHON, "-I", "-B", "-c", code], capture_output=True, check=False).returncode == 0
    assert json.loads((dest / "tools.json").read_text())["digest"] == first["sha256"]
    (dest / "lib").unlink()
    assert put_tools(first)["changed"] is True and (dest / "lib/greenroom/cli.py").exists()
    digests = [first["sha256"]]
    for note in ("# two\n", "# three\n"):
        (tmp_path / "hosts.txt").write_text(LOCK + note)
        other = build_tools(**given)
        digests.append(other["sha256"])
        assert put_tools(other)["changed"] is True
    assert set(os.listdir(dest / "versions")) - {".install.lock"} == {digest[:12] for digest in digests[-2:]}
    assert os.readlink(dest / "venv") == f"versions/{digests[-1][:12]}/venv"
    (dest / "bin").unlink()
    (dest / "bin").mkdir()
    with pytest.raises(InstallError, match="is not a link"):
        put_tools(first)


# -- pruning -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path):
    releases = tmp_path / "releases"
    for number in range(1, 13):
        (releases / f"{number}-1.{number}.0").mkdir(parents=True)
        (releases / f"{number}-1.{number}.0" / "release.json").write_text("{}")
    (tmp_path / "slots").mkdir()
    return tmp_path


def link(host, slot, number):
    (host / "slots" / slot).symlink_to(host / "releases" / f"{number}-1.{number}.0")


def test_the_newest_and_everything_needed_stay(host):
    link(host, "blue", 1)
    link(host, "green", 11)
    (host / "releases" / "notes").mkdir()
    done = prune(host / "releases", host / "slots", 3, [2, 4], dry=True)
    assert len(list((host / "releases").iterdir())) == 13
    assert prune(host / "releases", host / "slots", 3, [2, 4]) == done
    assert done["kept"] == ["1-1.1.0", "2-1.2.0", "4-1.4.0", "10-1.10.0", "11-1.11.0", "12-1.12.0"]
    assert done["unknown"] == ["notes"]
    assert sorted(os.listdir(host / "releases")) == sorted([*done["kept"], "notes"])
    assert prune(host / "releases", host / "slots", 3, [2, 4])["changed"] is False


def test_order_is_by_number_never_by_time(host):
    for number in range(1, 13):
        os.utime(host / "releases" / f"{number}-1.{number}.0", (10**9 - number, 10**9 - number))
    assert prune(host / "releases", host / "slots", 2)["kept"] == ["11-1.11.0", "12-1.12.0"]


def test_unfinished_folders_go_unless_in_progress_and_do_not_count(host):
    for number in (11, 12):
        (host / "releases" / f"{number}-1.{number}.0" / "release.json").unlink()
    done = prune(host / "releases", host / "slots", 2, [12])
    assert done["kept"] == ["9-1.9.0", "10-1.10.0", "12-1.12.0"]


@pytest.mark.parametrize("how", ["dangling", "outside", "directory"])
def test_a_slot_that_is_not_understood_keeps_everything(host, how):
    if how == "directory":
        (host / "slots" / "blue").mkdir()
    else:
        (host / "slots" / "blue").symlink_to("/nonexistent" if how == "dangling" else "/tmp")
    with pytest.raises(InstallError, match="nothing was removed"):
        prune(host / "releases", host / "slots", 1)
    assert len(list((host / "releases").iterdir())) == 12


def test_what_a_kill_left_is_removed_by_the_next_call_and_keep_is_at_least_one(host):
    (host / "releases" / ".removing-0-x").mkdir()
    prune(host / "releases", host / "slots", 12)
    assert not (host / "releases" / ".removing-0-x").exists()
    with pytest.raises(InstallError, match="at least 1"):
        prune(host / "releases", host / "slots", 0)
    assert prune(host / "absent", host / "slots", 1)["changed"] is False


def test_checksums_are_of_the_whole_file(tmp_path):
    (tmp_path / "x").write_bytes(b"a" * 3_000_000)
    assert (
        sha256_file(tmp_path / "x")
        == subprocess.run(["sha256sum", tmp_path / "x"], capture_output=True, text=True, check=True).stdout.split()[0]
    )
