"""A small service in a real git repository, for the tests that release one."""

import os
import subprocess

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
