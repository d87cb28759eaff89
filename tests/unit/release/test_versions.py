"""Which version a ref is, what a version may look like, and when two mean the same."""


import pytest
from ansible.module_utils.greenroom.git import SourceError
from ansible.module_utils.greenroom.versions import check_version, decide_version, plain_version
from service_repository import PYPROJECT, git, put


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


@pytest.mark.parametrize(
    "one, two", [("1.0.0-rc1", "1.0.0rc1"), ("1.0", "1.0.0"), ("v1.2", "1.2"), ("1.0.0.post1", "1.0.0-post1"), ("1.0A1", "1.0a1")]
)
def test_spellings_of_one_version(one, two):
    assert plain_version(one) == plain_version(two)


@pytest.mark.parametrize(
    "one, two", [("1.0.1", "1.0"), ("1.0rc1", "1.0"), ("1.10", "1.1"), ("10", "1"), ("1.0+a", "1.0"), ("1.0rc1", "1.0rc10"), ("", "1")]
)
def test_different_versions(one, two):
    assert plain_version(one) != plain_version(two)
