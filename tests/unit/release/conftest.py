"""A small service on its way to a host: its repository, the archive of a commit, the installed release."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from ansible.module_utils.greenroom.bundle import build
from ansible.module_utils.greenroom.install import host_target, install
from ansible.module_utils.greenroom.source import resolve

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode puts no folder of tests on the path
from service_repository import BACKEND, FAST_PYPROJECT, LOCK, PYPROJECT, PYTHON, UV, git, put


@pytest.fixture
def repository(tmp_path):
    """A small service with tags v0.1.0 and v0.2.0 and one commit more on main."""
    folder = tmp_path / "service"
    folder.mkdir()
    git(folder, "init", "-q")
    for version in ("0.1.0", "0.2.0"):
        put(
            folder,
            {
                "pyproject.toml": PYPROJECT.format(version=version),
                "src/tiny/__init__.py": f'__version__ = "{version}"\n',
                "requirements.txt": LOCK,
            },
        )
        git(folder, "tag", "-a", f"v{version}", "-m", "release")
    put(folder, {"README.md": "more\n"})
    return folder


@pytest.fixture
def ask(repository, tmp_path):
    def ask(ref="v0.2.0", **more):
        return resolve(
            **{"git": str(repository), "ref": ref, "lock": "requirements.txt", "package": "tiny", "work_dir": tmp_path / "build", **more}
        )

    return ask


@pytest.fixture(scope="session")
def make_archive(tmp_path_factory):
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


@pytest.fixture(scope="session")
def made(make_archive):
    return make_archive()


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


@pytest.fixture(scope="session")
def spoil():
    """Damages what is installed in a folder, in one of the ways that `examine` must see."""

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

    return spoil
