"""What a lock file may hold, and how every fault is named by its line."""


import pytest
from ansible.module_utils.greenroom.git import SourceError
from ansible.module_utils.greenroom.lock_file import parse_lock
from service_repository import HASH, LOCK, PYPROJECT, put


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
