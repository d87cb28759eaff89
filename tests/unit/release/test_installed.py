"""What stands in a release's folder is measured; each check turns red on its fault."""

import os
import shutil
from pathlib import Path

import pytest
from ansible.module_utils.greenroom.install import InstallError, install
from ansible.module_utils.greenroom.installed import examine
from service_repository import FAST_PYPROJECT, IDS, PYTHON, UV


def red_ids(error):
    return {one["id"] for one in error.value.evidence if one["status"] != "pass"}


def test_a_package_that_does_not_import_or_lies_about_its_version_is_removed_again(make_archive, put_in, tmp_path):
    broken = make_archive(**{"src/tiny/__init__.py": '__version__ = "0.1.0"\nraise RuntimeError("boom")\n'})
    with pytest.raises(InstallError, match=r"import of tiny: RuntimeError: boom") as refused:
        put_in(broken)
    assert red_ids(refused) == {"release.deps.import"}
    liar = make_archive(**{"src/tiny/__init__.py": '__version__ = str("9.9.9")\n'})
    with pytest.raises(InstallError, match=r"the package says '9\.9\.9', the release is '0\.1\.0'"):
        put_in(liar)
    silent = make_archive(**{"src/tiny/__init__.py": ""})
    with pytest.raises(InstallError, match=r"the package says '', the release"):
        put_in(silent)
    assert [name for name in os.listdir(tmp_path / "releases") if not name.startswith(".")] == []


def test_a_lock_that_lacks_a_dependency_of_a_dependency_fails_here(make_archive, put_in, tmp_path):
    lacking = make_archive(
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
def test_each_check_turns_red_on_its_fault(made, installed, spoil, tmp_path, how, ids):
    copy = tmp_path / "copy"
    shutil.copytree(installed, copy, symlinks=True)
    requirements = (copy / "requirements.txt").read_text()
    assert {one["status"] for one in examine(copy, made["manifest"], requirements)} == {"pass"}
    spoil(copy, how)
    red = {one["id"] for one in examine(copy, made["manifest"], requirements) if one["status"] != "pass"}
    assert ids - {"release.deps.import"} <= red <= ids


def test_the_import_runs_as_the_service_user(make_archive, put_in):
    archive = make_archive(**{"src/tiny/__init__.py": '__version__ = "0.1.0"\nimport os\nassert os.geteuid() == 65534, os.geteuid()\n'})
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
