"""Installing an archive, offline, with the real uv, on this machine's own Python; and every way in which that must be refused or undone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.module_utils.greenroom import install as install_module
from ansible.module_utils.greenroom.bundle import build_tools
from ansible.module_utils.greenroom.install import InstallError, check_host, host_target, install, install_tools
from service_repository import IDS, LOCK, PYTHON, UV

ROOT = Path(__file__).resolve().parents[3]


def red_ids(error):
    return {one["id"] for one in error.value.evidence if one["status"] != "pass"}


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


def test_a_folder_name_or_archive_that_does_not_belong_together(make_archive, made, put_in, tmp_path):
    with pytest.raises(InstallError, match="is called <number>-<version>"):
        put_in(dest=tmp_path / "releases" / "latest")
    with pytest.raises(InstallError, match="is called"):
        put_in(number=4, dest=tmp_path / "releases" / f"3-{made['manifest']['version']}")
    with pytest.raises(InstallError, match=r"holds service .*, wanted is service 9\.9"):
        put_in(version="9.9", dest=tmp_path / "releases" / "3-9.9")
    with pytest.raises(InstallError, match="wanted is tests"):
        put_in(kind="tests")


def test_a_number_is_never_used_for_another_build(make_archive, made, put_in, tmp_path):
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


def test_a_disk_that_fills_up_leaves_nothing_half(make_archive, small_disk, monkeypatch):
    ballast = "import os\nX = '" + "".join(os.urandom(2).hex() for _ in range(2_000_000 // 4)) + "'\n"
    big = make_archive(**{"src/tiny/ballast.py": ballast})
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


def test_a_damaged_release_is_made_anew_only_when_no_slot_leads_to_it(put_in, spoil, tmp_path):
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


def test_the_archive_of_the_tests_goes_into_a_folder_of_its_own(make_archive, spoil, tmp_path):
    archive = make_archive(kind="tests")
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
