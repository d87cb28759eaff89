"""From a ref to a commit that may be released, on real git repositories."""

import os
import sys
from pathlib import Path

import pytest
from ansible.module_utils.greenroom import source
from ansible.module_utils.greenroom.source import (
    SourceError,
    check_version,
    decide_version,
    export_tree,
    parse_lock,
    redact,
    resolve,
    resolve_ref,
    tree_hash,
)

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode puts no folder of tests on the path
from service_repository import HASH, LOCK, PYPROJECT, git, put


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


# -- refs ----------------------------------------------------------------------------------------------------------------


def test_a_tag_gives_its_version_and_the_peeled_commit(ask, repository):
    found = ask()
    assert (found["version"], found["package_version"], found["ref_kind"], found["work_tree"]) == ("0.2.0", "0.2.0", "tag", "clean")
    assert found["commit"] == git(repository, "rev-parse", "v0.2.0^{commit}")
    assert found["tree"] == git(repository, "rev-parse", "v0.2.0^{tree}")
    assert found["requirements"] == 1 and len(found["lock_sha256"]) == 64
    assert found["commit_time"] == int(git(repository, "show", "-s", "--format=%ct", "v0.2.0^{commit}"))


def test_a_branch_or_commit_carries_the_commit_in_its_version(ask, repository):
    head = git(repository, "rev-parse", "HEAD")
    assert ask("main")["version"] == f"0.2.0+g{head[:12]}"
    assert ask("main")["ref_kind"] == "branch"
    for ref in (head, head[:10]):
        found = ask(ref)
        assert (found["commit"], found["ref_kind"], found["version"]) == (head, "commit", f"0.2.0+g{head[:12]}")


def test_an_unknown_ref_names_the_nearest_tags(ask):
    with pytest.raises(SourceError, match=r"ref 'v0\.2\.1' does not exist\. Nearest tags: v0\.2\.0, v0\.1\.0"):
        ask("v0.2.1")
    with pytest.raises(SourceError, match="does not exist"):
        ask("deadbeefdeadbeef")


@pytest.mark.parametrize("ref", ["v1;id", "$(id)", "--upload-pack=x", "a..b", "a b", "", "v1\n", "x" * 300, "a^{tree}", "v0.2.0~1"])
def test_a_malformed_ref_is_refused_before_git_sees_it(ask, ref):
    with pytest.raises(SourceError, match="is refused"):
        ask(ref)


def test_a_tag_and_a_branch_of_different_commits_are_ambiguous(ask, repository):
    git(repository, "branch", "v0.1.0", "main")
    with pytest.raises(SourceError, match=r"is a tag .* and a branch .* Name the commit"):
        ask("v0.1.0")


def test_a_tag_that_moved_is_followed_and_then_refused_by_the_ledger(ask, repository):
    before = ask()
    known = {"0.2.0": {"commit": before["commit"], "lock_sha256": before["lock_sha256"]}}
    assert ask(known_versions=known)["commit"] == before["commit"]
    git(repository, "tag", "-f", "-a", "v0.2.0", "-m", "moved", "main")
    after = git(repository, "rev-parse", "main")
    with pytest.raises(SourceError, match=rf"version 0.2.0 was released from commit {before['commit']}; this is commit {after}"):
        ask(known_versions=known)


def test_the_same_commit_with_another_lock_is_refused(ask):
    found = ask()
    with pytest.raises(SourceError, match="was released with lock 1111"):
        ask(known_versions={"0.2.0": {"commit": found["commit"], "lock_sha256": "1" * 64}})


def test_only_a_full_commit_may_come_from_the_cache_of_an_unreachable_repository(ask, repository, tmp_path):
    commit = ask()["commit"]
    repository.rename(tmp_path / "gone")
    cache = source.fetch(str(repository), tmp_path / "build", ref=commit)
    assert resolve_ref(cache, commit) == (commit, "commit")
    for ref in ("v0.2.0", "main", commit[:10], "f" * 40):
        with pytest.raises(SourceError, match=r"cannot be fetched"):
            source.fetch(str(repository), tmp_path / "build", ref=ref)
    with pytest.raises(SourceError, match="no such folder"):
        ask(commit)


# -- the work tree -------------------------------------------------------------------------------------------------------


def test_a_dirty_work_tree_is_refused_with_its_files(ask, repository):
    (repository / "README.md").write_text("changed\n")
    (repository / "src/tiny/new file.py").write_text("")
    with pytest.raises(SourceError, match=r"not clean: .*README\.md.*new file\.py") as refused:
        ask()
    assert str(repository) in str(refused.value)
    (repository / "src/tiny/new file.py").unlink()
    git(repository, "add", "README.md")
    with pytest.raises(SourceError, match="not clean"):
        ask()
    git(repository, "commit", "-q", "-m", "x")
    assert ask()["version"] == "0.2.0"


def test_many_dirty_files_are_counted(ask, repository):
    for number in range(13):
        (repository / f"f{number:02}").touch()
    with pytest.raises(SourceError, match="and 3 more"):
        ask()


def test_ignored_files_do_not_matter_and_a_look_writes_nothing(ask, repository):
    put(repository, {".gitignore": "*.log\n"})
    (repository / "x.log").touch()
    before = {path: path.stat().st_mtime_ns for path in repository.rglob("*")}
    assert ask()["work_tree"] == "clean"
    assert {path: path.stat().st_mtime_ns for path in repository.rglob("*")} == before


def test_a_bare_repository_has_no_work_tree(ask, repository, tmp_path):
    git(tmp_path, "clone", "-q", "--bare", str(repository), "bare.git")
    assert ask(git=str(tmp_path / "bare.git"))["version"] == "0.2.0"


def test_a_folder_that_is_no_repository(ask, tmp_path):
    (tmp_path / "plain").mkdir()
    with pytest.raises(SourceError, match=r"plain: is no usable git repository"):
        ask(git=str(tmp_path / "plain"))
    with pytest.raises(SourceError, match="no such folder"):
        ask(git=str(tmp_path / "absent"))


def test_addresses_that_run_commands_are_refused(ask, tmp_path):
    for address in ("ext::sh -c touch% /tmp/pwned", "--upload-pack=touch"):
        with pytest.raises(SourceError):
            ask(git=address)


# -- secrets -------------------------------------------------------------------------------------------------------------


def test_credentials_of_an_address_are_never_shown(tmp_path):
    secret = "s3cr3t-t0ken"
    for address in (
        f"https://user:{secret}@127.0.0.1:1/x.git",
        f"https://{secret}@127.0.0.1:1/x.git",
        f"ssh://git:{secret}@127.0.0.1:1/x.git",
    ):
        with pytest.raises(SourceError) as refused:
            source.fetch(address, tmp_path / "build", timeout_s=20, retries=0)
        assert secret not in str(refused.value)
        assert "127.0.0.1" in str(refused.value)
    stored = b"".join(path.read_bytes() for path in (tmp_path / "build").rglob("*") if path.is_file())
    assert secret.encode() not in stored
    assert redact("see https://a:b@h/x and ssh://git:pw@h/y, git@h:z") == "see https://***@h/x and ssh://git:***@h/y, git@h:z"


def test_git_that_hangs_is_ended(tmp_path):
    with pytest.raises(SourceError, match=r"no end within 0.5 s"):
        source.run_git(["-c", "alias.wait=!sleep 20", "wait"], timeout_s=0.5)


# -- versions ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.0.0", "1.0.0+gabc", "2026.11.20", "v1", "0", "a" * 63])
def test_good_versions(version):
    assert check_version(version, "x") == version


@pytest.mark.parametrize(
    "version", ["", "1..2", "../1", "1/2", "1 2", "1;id", "$(id)", "`id`", "a" * 64, "v" * 300, "-1", ".1", "1\n", "1\x00", "é", None]
)
def test_bad_versions(version):
    with pytest.raises(SourceError, match="is refused") as refused:
        check_version(version, "tag x")
    assert len(str(refused.value)) < 300


def test_a_tag_must_be_the_packages_version(ask, repository):
    git(repository, "tag", "v0.3.0")
    with pytest.raises(SourceError, match=r"tag v0\.3\.0 says version 0\.3\.0, but pyproject\.toml at commit \w+ says 0\.2\.0"):
        ask("v0.3.0")


def test_two_spellings_of_one_version_agree():
    assert decide_version("v1.0.0-rc1", "tag", "c" * 40, ("1.0.0rc1", "pyproject.toml")) == ("1.0.0-rc1", "1.0.0rc1")


def test_a_tag_with_shell_characters_is_refused(ask, repository):
    git(repository, "tag", "v0.2.0$(id)")
    with pytest.raises(SourceError, match="is refused"):
        ask("v0.2.0$(id)")


def test_a_version_in_pyproject_with_shell_characters_is_refused(ask, repository):
    put(repository, {"pyproject.toml": PYPROJECT.format(version="1.0;id"), "src/tiny/__init__.py": ""})
    with pytest.raises(SourceError, match=r"pyproject\.toml: version '1\.0;id' is refused"):
        ask("main")


def test_a_package_that_states_two_versions_is_refused(ask, repository):
    put(repository, {"src/tiny/__init__.py": '__version__ = "9.9.9"\n'})
    with pytest.raises(SourceError, match=r"different versions: '0\.2\.0' in pyproject\.toml, '9\.9\.9' in src/tiny/__init__\.py"):
        ask("main")


def test_a_tag_that_is_no_version_is_treated_like_a_branch(ask, repository):
    git(repository, "tag", "stable")
    assert ask("stable")["version"].startswith("0.2.0+g")


# -- the lock ------------------------------------------------------------------------------------------------------------


def test_a_hashed_lock_is_read():
    one, two = parse_lock(
        f"# made by uv\nIdna==3.10 --hash=sha256:{HASH} \\\n  --hash=sha256:{'0' * 64}  # why\n\nuvicorn[standard]==0.30.1 ; "
        "python_version < '4' \\\n"
        f"    --hash=sha512:{'1' * 128}\n".encode(), "requirements.txt",
    )  # fmt: skip
    assert (one["name"], one["version"], one["line"], len(one["hashes"])) == ("idna", "3.10", 2, 2)
    assert (two["name"], two["extras"], two["marker"], two["line"]) == ("uvicorn", ["standard"], "python_version < '4'", 5)


def test_windows_line_ends_and_a_mark_at_the_start_are_read():
    assert parse_lock(b"\xef\xbb\xbf" + LOCK.replace("\n", "\r\n").encode(), "x")[0]["name"] == "idna"


@pytest.mark.parametrize(
    "line, reason",
    [
        ("idna==3.10", "has no --hash"),
        (f"idna>=3.10 --hash=sha256:{HASH}", "not pinned with =="),
        (f"idna==3.* --hash=sha256:{HASH}", "not pinned with =="),
        (f"idna===3.10 --hash=sha256:{HASH}", "not pinned with =="),
        (f"idna==3.10,<4 --hash=sha256:{HASH}", "not pinned with =="),
        (f"idna --hash=sha256:{HASH}", "not pinned with =="),
        ("idna==3.10 --hash=sha256:abc", "malformed hash"),
        ("idna==3.10 --hash=md5:d41d8cd98f00b204e9800998ecf8427e", "malformed hash"),
        ("-e .", "editable install"),
        ("--editable=git+https://h/x", "editable install"),
        ("--index-url https://user:pw@h/simple", "option --index-url"),
        ("--extra-index-url=https://user:pw@h/simple", "option --extra-index-url"),
        ("-r other.txt", "option -r"),
        ("-c constraints.txt", "option -c"),
        ("--no-binary :all:", "option --no-binary"),
        (f"idna @ https://user:pw@h/idna.whl --hash=sha256:{HASH}", "an address or path"),
        ("git+https://user:pw@h/x.git", "an address or path"),
        ("./wheels/idna.whl", "an address or path"),
        (f"idna==3.10 --hash=sha256:{HASH} --global-option=x", "has an option"),
    ],
)
def test_what_a_lock_may_not_hold_names_file_and_line(line, reason):
    with pytest.raises(SourceError) as refused:
        parse_lock(f"# first\n{LOCK.replace('idna', 'attrs')}{line}\n".encode(), "locks/prod.txt")
    assert "locks/prod.txt:5: " in str(refused.value) and reason in str(refused.value)
    assert "pw@" not in str(refused.value) and "user:" not in str(refused.value)


def test_every_offending_line_is_named_once_and_a_double_pin_too():
    with pytest.raises(SourceError, match=r"x:4: idna is already pinned in line 1.*x:7: 'attrs' is not pinned") as refused:
        parse_lock(f"{LOCK}{LOCK}attrs --hash=sha256:{HASH}\n".encode(), "x")
    assert str(refused.value).count("x:") == 2


def test_bytes_that_are_no_text():
    with pytest.raises(SourceError, match="not UTF-8"):
        parse_lock(b"\xff\xfe", "x")


def test_a_missing_lock_names_what_there_is(ask, repository):
    put(repository, {"requirements-prod.txt": LOCK, "requirements.txt": None})
    with pytest.raises(SourceError, match=r"requirements\.txt: does not exist at commit \w+\. There are: requirements-prod\.txt"):
        ask("main")
    with pytest.raises(SourceError, match="no path inside"):
        ask(lock="../x")


def test_the_lock_of_the_commit_counts_not_that_of_the_work_tree(ask, repository):
    put(repository, {"requirements.txt": "idna\n"})
    assert ask("v0.2.0")["requirements"] == 1
    with pytest.raises(SourceError, match=r"requirements\.txt:1: 'idna' is not pinned"):
        ask("main")


def test_a_lock_that_lacks_a_dependency_is_refused(ask, repository):
    put(repository, {"pyproject.toml": PYPROJECT.format(version="0.2.0").replace('["idna"]', '["idna", "Some_Thing>=1"]')})
    with pytest.raises(SourceError, match=r"lacks Some_Thing, which pyproject\.toml depends on"):
        ask("main")


def test_an_empty_lock_is_only_right_for_a_package_without_dependencies(ask, repository):
    put(repository, {"requirements.txt": "# nothing\n"})
    with pytest.raises(SourceError, match="lacks idna"):
        ask("main")
    put(repository, {"pyproject.toml": PYPROJECT.format(version="0.2.0").replace('["idna"]', "[]")})
    assert ask("main")["requirements"] == 0
    put(repository, {"pyproject.toml": None})
    with pytest.raises(SourceError, match="holds no requirement"):
        ask("main")


# -- the tree ------------------------------------------------------------------------------------------------------------


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


def test_resolve_ref_reads_lightweight_tags_too(repository):
    git(repository, "tag", "v9.0")
    assert resolve_ref(repository, "v9.0") == (git(repository, "rev-parse", "HEAD"), "tag")
