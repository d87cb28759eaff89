"""From a ref to a commit that may be released, on real git repositories."""


import pytest
from ansible.module_utils.greenroom import git as git_library
from ansible.module_utils.greenroom.git import SourceError, resolve_ref
from ansible.module_utils.greenroom.masking import redact
from service_repository import git, put


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
    cache = git_library.fetch(str(repository), tmp_path / "build", ref=commit)
    assert resolve_ref(cache, commit) == (commit, "commit")
    for ref in ("v0.2.0", "main", commit[:10], "f" * 40):
        with pytest.raises(SourceError, match=r"cannot be fetched"):
            git_library.fetch(str(repository), tmp_path / "build", ref=ref)
    with pytest.raises(SourceError, match="no such folder"):
        ask(commit)


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


def test_credentials_of_an_address_are_never_shown(tmp_path):
    secret = "s3cr3t-t0ken"
    for address in (
        f"https://user:{secret}@127.0.0.1:1/x.git",
        f"https://{secret}@127.0.0.1:1/x.git",
        f"ssh://git:{secret}@127.0.0.1:1/x.git",
    ):
        with pytest.raises(SourceError) as refused:
            git_library.fetch(address, tmp_path / "build", timeout_s=20, retries=0)
        assert secret not in str(refused.value)
        assert "127.0.0.1" in str(refused.value)
    stored = b"".join(path.read_bytes() for path in (tmp_path / "build").rglob("*") if path.is_file())
    assert secret.encode() not in stored
    assert redact("see https://a:b@h/x and ssh://git:pw@h/y, git@h:z") == "see https://***@h/x and ssh://git:***@h/y, git@h:z"


def test_git_that_hangs_is_ended(tmp_path):
    with pytest.raises(SourceError, match=r"no end within 0.5 s"):
        git_library.run_git(["-c", "alias.wait=!sleep 20", "wait"], timeout_s=0.5)


def test_resolve_ref_reads_lightweight_tags_too(repository):
    git(repository, "tag", "v9.0")
    assert resolve_ref(repository, "v9.0") == (git(repository, "rev-parse", "HEAD"), "tag")
