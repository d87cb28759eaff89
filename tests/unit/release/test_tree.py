"""The exported tree is the commit's, byte for byte, and any change of it is seen."""

import os
from pathlib import Path

import pytest
from ansible.module_utils.greenroom.git import SourceError
from ansible.module_utils.greenroom.tree import export_tree, tree_hash
from service_repository import git, put


def test_the_exported_tree_is_the_commits_whatever_attributes_say(ask, repository, tmp_path):
    put(
        repository,
        {
            ".gitattributes": "secret.txt export-ignore\nversion.txt export-subst\n*.txt text eol=crlf\n",
            "secret.txt": "x\n",
            "version.txt": "$Format:%H$\n",
            "a/b.txt": "1\n",
            "a.b": "2",
            "a-b": "3",
            "bin/run": "#!/bin/sh\n",
            "naïve ünïcode.txt": "é",
        },
    )
    (repository / "bin/run").chmod(0o755)
    (repository / "bin/link").symlink_to("run")
    (repository / "folder-link").symlink_to("a")
    put(repository, {}, "links")
    found = ask("main")
    out = tmp_path / "out"
    out.mkdir()
    assert export_tree(found["repository"], found["commit"], out) == git(repository, "rev-parse", "main^{tree}") == found["tree"]
    assert (out / "version.txt").read_bytes() == b"$Format:%H$\n" and (out / "secret.txt").exists()
    assert os.access(out / "bin/run", os.X_OK) and os.readlink(out / "bin/link") == "run"
    assert not (out / ".git").exists()


@pytest.mark.parametrize("change", ["content", "mode", "added", "removed", "renamed", "link"])
def test_a_changed_tree_has_another_hash_and_compiled_files_do_not_count(ask, tmp_path, change):
    found = ask()
    out = tmp_path / "out"
    out.mkdir()
    export_tree(found["repository"], found["commit"], out)
    (out / "src/tiny/__pycache__").mkdir()
    (out / "src/tiny/__pycache__/x.pyc").write_bytes(b"x")
    (out / "empty").mkdir()
    assert tree_hash(out) == found["tree"]
    path = out / "src/tiny/__init__.py"
    if change == "content":
        path.write_text(path.read_text() + " ")
    elif change == "mode":
        path.chmod(0o755)
    elif change == "added":
        (out / "extra.py").touch()
    elif change == "removed":
        path.unlink()
    elif change == "renamed":
        path.rename(path.with_name("other.py"))
    else:
        path.unlink()
        path.symlink_to("other.py")
    assert tree_hash(out) != found["tree"]


def test_what_cannot_be_released_as_it_is(ask, repository, tmp_path):
    (repository / "out").symlink_to("/etc/passwd")
    put(repository, {"x": "1"})
    with pytest.raises(SourceError, match="out: is a link to '/etc/passwd'"):
        ask("main")
    (repository / "out").unlink()
    (repository / "src" / "up").symlink_to("../../x")
    put(repository, {"x": "2"})
    with pytest.raises(SourceError, match=r"src/up: is a link"):
        ask("main")
    (repository / "src" / "up").unlink()
    put(repository, {"src/tiny/__pycache__/a.pyc": "x"})
    with pytest.raises(SourceError, match="compiled files are tracked"):
        ask("main")
    put(repository, {"src/tiny/__pycache__/a.pyc": None})
    git(repository, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(repository), "vendored")
    put(repository, {})
    with pytest.raises(SourceError, match="vendored: is a submodule"):
        ask("main")


def test_a_damaged_cache_is_noticed(ask, tmp_path):
    found = ask()
    out = tmp_path / "out"
    out.mkdir()
    blob = git(Path(found["repository"]), "rev-parse", f"{found['commit']}:src/tiny/__init__.py")
    for pack in Path(found["repository"]).glob("objects/pack/*.pack"):
        pack.chmod(0o600)
        raw = bytearray(pack.read_bytes())
        raw[len(raw) // 2] ^= 0xFF
        pack.write_bytes(raw)
    loose = Path(found["repository"]) / "objects" / blob[:2] / blob[2:]
    if loose.exists():
        loose.chmod(0o600)
        loose.write_bytes(b"damaged")
    with pytest.raises(SourceError):
        export_tree(found["repository"], found["commit"], out)
