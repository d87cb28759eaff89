"""Secrets in version control are found, in every way they are written, and never printed."""

import base64
import subprocess

import pytest
from ansible.module_utils.greenroom import vcs_secrets as subject

SECRETS = {
    "vault_app_password": "correct-horse/battery",
    "vault_service_env": {"DATABASE_URL": "postgresql://app:url%2Fpassword@db/x", "KEYS": ["first-of-the-keys"], "PIN": 123456789},
    "vault_empty": "",
}


@pytest.fixture
def repository(tmp_path):
    def git(*arguments):
        argv = ["git", "-c", "user.name=t", "-c", "user.email=t@example.internal", "-C", str(tmp_path / "repo"), *arguments]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()

    (tmp_path / "repo").mkdir()
    git("init", "-q")
    (tmp_path / "repo" / "clean.txt").write_text("nothing here\n")
    git("add", ".")
    git("commit", "-q", "-m", "clean")
    git.folder = tmp_path / "repo"
    return git


def places(git, commit=None):
    return [{"name": "service", "directory": str(git.folder), "commit": commit}]


def test_a_clean_repository_passes_with_figures(repository):
    found = subject.check(SECRETS, [*places(repository, "HEAD"), *places(repository)])
    assert (found["status"], found["observed"]) == ("pass", "0 hits of 4 secrets in 2 files")


@pytest.mark.parametrize(
    ("key", "content"),
    [
        ("vault_app_password", "password: correct-horse/battery"),
        ("vault_app_password", "http://x/?p=correct-horse%2Fbattery"),
        ("vault_app_password", base64.b64encode(b"correct-horse/battery").decode()),
        ("vault_service_env.DATABASE_URL", "pw = 'url/password'"),
        ("vault_service_env.DATABASE_URL", "url%2Fpassword"),
        ("vault_service_env.KEYS.0", b"\0\xffbinary first-of-the-keys"),
        ("vault_service_env.PIN", "pin 123456789"),
    ],
)
def test_a_secret_is_found_in_a_commit_and_in_tracked_files(repository, key, content):
    file = repository.folder / "config" / "näme.txt"
    file.parent.mkdir()
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    (repository.folder / ".gitattributes").write_text("config export-ignore\n")
    assert subject.check(SECRETS, places(repository))["status"] == "pass"  # not tracked yet
    repository("add", ".")
    found = subject.check(SECRETS, places(repository))
    assert found["status"] == "fail" and f"service: config/näme.txt holds {key}" in found["reason"]
    assert subject.check(SECRETS, places(repository, "HEAD"))["status"] == "pass"  # not committed yet
    repository("commit", "-q", "-m", "leak")
    found = subject.check(SECRETS, places(repository, "HEAD"))
    assert found["status"] == "fail" and key in found["reason"]
    for value in ("correct-horse", "url/password", "url%2Fpassword", "first-of-the-keys", "123456789"):
        assert value not in repr(found)


def test_nothing_to_look_for_or_nowhere_to_look_proves_nothing(repository, tmp_path):
    assert subject.check({}, places(repository))["status"] == "no_evidence"
    assert subject.check(SECRETS, [])["status"] == "no_evidence"
    (tmp_path / "plain").mkdir()
    found = subject.check(SECRETS, [{"name": "project", "directory": str(tmp_path / "plain")}])
    assert found["status"] == "no_evidence"
    both = subject.check(SECRETS, [*places(repository), {"name": "project", "directory": str(tmp_path / "plain")}])
    assert both["status"] == "pass" and both["detail"]["not_in_version_control"] == ["project"]


def test_a_commit_that_is_not_there_is_an_error(repository):
    found = subject.check(SECRETS, places(repository, "0" * 40))
    assert found["status"] == "error" and "git ls-tree" in found["reason"]


def test_a_value_too_short_to_look_for_is_red(repository):
    found = subject.check({**SECRETS, "vault_pin": "1234"}, places(repository))
    assert found["status"] == "fail" and "vault_pin has fewer than 6" in found["reason"]
