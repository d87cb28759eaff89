"""A small service in a real git repository, for the tests that release one."""

import os
import subprocess
import sys
from pathlib import Path

PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
UV = str(Path(sys.executable).parent / "uv")
# What the installation of a release measures.
IDS = {
    "release.venv",
    "release.deps.installed",
    "release.deps.verified",
    "release.deps.no_editable",
    "release.deps.import",
    "release.code.cloned",
}

HASH = "946d195a0d259cbba61165e88e65941f16e9b36ea6ddb97f00452bae8b1287d3"
LOCK = f"idna==3.10 \\\n    --hash=sha256:{HASH}\n    # via tiny-service\n"
PYPROJECT = """\
[build-system]
requires = ["setuptools>=68"]
build-backend = "setuptools.build_meta"
[project]
name = "tiny-service"
version = "{version}"
requires-python = ">=3.11"
dependencies = ["idna"]
[tool.setuptools]
package-dir = {{"" = "src"}}
"""


def git(folder, *arguments):
    return subprocess.run(
        ["git", "-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main", *arguments],
        cwd=folder, check=True, capture_output=True, text=True, env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"},
    ).stdout.strip()  # fmt: skip


def put(repository, files, message="change"):
    """Write files (text, bytes, or None to remove) and commit; the commit."""
    for name, content in files.items():
        path = repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", message)
    return git(repository, "rev-parse", "HEAD")


# The same service with a build backend of its own: no build requirements, so a wheel takes no download. For tests of what comes after.
BACKEND = """\
import base64, hashlib, pathlib, tomllib, zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
    name = project["name"].replace("-", "_") + "-" + project["version"]
    head = ["Metadata-Version: 2.1", "Name: " + project["name"], "Version: " + project["version"]]
    files = {str(path.relative_to("src")): path.read_bytes() for path in sorted(pathlib.Path("src").rglob("*.py"))}
    files[name + ".dist-info/METADATA"] = "\\n".join([*head, *("Requires-Dist: " + one for one in project["dependencies"]), ""]).encode()
    files[name + ".dist-info/WHEEL"] = b"Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    lines = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b'=').decode()},{len(content)}"
        for path, content in files.items()
    ]
    files[name + ".dist-info/RECORD"] = "\\n".join([*lines, name + ".dist-info/RECORD,,", ""]).encode()
    with zipfile.ZipFile(pathlib.Path(folder, name + "-py3-none-any.whl"), "w") as out:
        for path, content in files.items():
            out.writestr(zipfile.ZipInfo(path), content)
    return name + "-py3-none-any.whl"
"""
FAST_PYPROJECT = PYPROJECT.replace('requires = ["setuptools>=68"]', 'requires = []\nbackend-path = ["."]').replace(
    "setuptools.build_meta", "backend"
)
