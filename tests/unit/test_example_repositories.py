"""scripts/make_example_repositories: the same trees give the same commits, a changed tree a new one, a damaged repository is replaced."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "make_example_repositories"


def run(examples, out, *names, status=0, **environ):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--examples", str(examples), "--out", str(out), *names],
        capture_output=True,
        text=True,
        env={**os.environ, **environ},
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def git(repository, *arguments):
    return subprocess.run(["git", f"--git-dir={repository}", *arguments], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def examples(tmp_path):
    """One example with an overlay, and things that must stay out."""
    base = tmp_path / "examples" / "thing"
    (base / "src/thing/__pycache__").mkdir(parents=True)
    (base / "pyproject.toml").write_text("[project]\nname = 'thing'\n")
    (base / "src/thing/__init__.py").write_text('"""Thing."""\n\n__version__ = "0.1.0"\n')
    (base / "src/thing/__pycache__/x.pyc").write_bytes(b"x")
    (base / "catalogue.yml").write_text("[]\n")
    (base / ".ruff_cache").mkdir()
    (base / ".ruff_cache/y").write_text("y")
    overlay = tmp_path / "examples" / "thing-v0.2.0" / "src/thing"
    overlay.mkdir(parents=True)
    (overlay / "__init__.py").write_text('"""Thing."""\n\n__version__ = "0.2.0"\n')
    (overlay / "more.py").write_text("MORE = 1\n")
    return tmp_path / "examples"


def test_two_tags_and_nothing_else_in_the_trees(examples, tmp_path):
    run(examples, tmp_path / "git")
    repository = tmp_path / "git/thing.git"
    assert git(repository, "tag").split() == ["v0.1.0", "v0.2.0"]
    assert git(repository, "ls-tree", "-r", "--name-only", "v0.1.0").split() == ["pyproject.toml", "src/thing/__init__.py"]
    assert git(repository, "ls-tree", "-r", "--name-only", "v0.2.0").split() == [
        "pyproject.toml",
        "src/thing/__init__.py",
        "src/thing/more.py",
    ]
    assert '__version__ = "0.2.0"' in git(repository, "show", "v0.2.0:src/thing/__init__.py")
    assert git(repository, "rev-parse", "v0.2.0^") == git(repository, "rev-parse", "v0.1.0^{commit}")
    assert git(repository, "rev-parse", "HEAD") == git(repository, "rev-parse", "v0.2.0^{commit}")


def test_same_trees_same_commits_whoever_makes_them(examples, tmp_path):
    run(examples, tmp_path / "one")
    (examples / "thing/pyproject.toml").chmod(0o600)
    run(examples, tmp_path / "two", GIT_AUTHOR_NAME="Somebody", GIT_AUTHOR_DATE="2001-01-01T00:00:00Z", TZ="Asia/Tokyo")
    refs = [git(tmp_path / out / "thing.git", "for-each-ref") for out in ("one", "two")]
    assert refs[0] == refs[1]


def test_second_run_changes_nothing(examples, tmp_path):
    out = tmp_path / "git"
    assert "made" in run(examples, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert "unchanged" in run(examples, out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_changed_tree_is_taken_over_and_old_tags_go(examples, tmp_path):
    out = tmp_path / "git"
    run(examples, out)
    first = git(out / "thing.git", "rev-parse", "v0.1.0^{commit}")
    (examples / "thing/new.txt").write_text("new\n")
    (examples / "thing-v0.2.0").rename(tmp_path / "gone")
    assert "changed" in run(examples, out).split()
    assert git(out / "thing.git", "tag") == "v0.1.0"
    assert git(out / "thing.git", "rev-parse", "v0.1.0^{commit}") != first
    assert git(out / "thing.git", "show", "main:new.txt") == "new"


def test_a_damaged_repository_is_made_anew(examples, tmp_path):
    out = tmp_path / "git"
    run(examples, out)
    for thing in (out / "thing.git/objects").rglob("*"):
        if thing.is_file():
            thing.unlink()
    assert "made" in run(examples, out)
    assert git(out / "thing.git", "fsck") == ""
    assert [path.name for path in out.iterdir()] == ["thing.git"]


def test_problems_are_named(examples, tmp_path):
    assert "there are: thing" in run(examples, tmp_path / "git", "nothing", status=2)
    overlay = examples / "thing-v0.2.0/src/thing/__init__.py"
    overlay.write_text('__version__ = "0.3.0"\n')
    assert "says 0.2.0, its __version__ says 0.3.0" in run(examples, tmp_path / "git", status=1)
    overlay.write_text("")
    assert "exactly one line" in run(examples, tmp_path / "git", status=1)


def test_the_real_examples(tmp_path):
    run(ROOT / "examples", tmp_path)
    assert git(tmp_path / "lark-service.git", "tag").split() == ["v0.1.0", "v0.2.0"]
    assert git(tmp_path / "feishu-standin.git", "tag") == "v0.1.0"
    for name in ("lark-service", "feishu-standin", "minimal-service"):
        lock = git(tmp_path / f"{name}.git", "show", "v0.1.0:requirements.txt")
        assert "--hash=sha256:" in lock
        assert "://" not in lock
        assert "catalogue.yml" not in git(tmp_path / f"{name}.git", "ls-tree", "-r", "--name-only", "main").split()
