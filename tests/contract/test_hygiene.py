"""Rules for every file: no application named in the project's parts, no paths of one machine, no shortcuts, no giants."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SELF = Path("tests/contract/test_hygiene.py")
# Words of folder names under examples/ that say what kind of thing it is; the other words are names of applications.
KINDS = {
    "service",
    "standin",
    "example",
    "minimal",
    "hello",
    "web",
    "worker",
    "only",
    "without",
    "no",
    "with",
    "database",
    "broker",
    "and",
    "api",
    "app",
    "static",
}
# Files that may speak of an application: what deploys it, proves it, tells about it, or quotes the runbooks.
MAY_NAME = ("examples", "inventories", "tests", "docs", "molecule", "catalogue", "README.md", "CHANGELOG.md")

# A messenger to which notifications go has a name, too; the files that speak to it may say it.
CHANNELS = {"feishu": ("schemas/service.json", "plugins/module_utils/greenroom/notify.py")}

FORBIDDEN = {
    "a path of one machine": r"(?<![\w.~$}/-])/(?:work|root)/(?!\.{3})",
    "the host of a package registry": r"\b(?:pypi\.org|pythonhosted\.org|galaxy\.ansible\.com|registry-1\.docker\.io|docker\.io/|ghcr\.io"
    r"|quay\.io|registry\.npmjs\.org|proxy\.golang\.org)",
    "SSH without verified host keys": r"host_key_checking\s*[=:]\s*(?i:false|no|0)|StrictHostKeyChecking[= ](?i:no|off|accept-new)",
    "errors that are ignored": r"^\s*ignore_errors\s*:|^\s*ignore_unreachable\s*:\s*(?i:true|yes)",
    "an index address in a lock file": r"^--(?:extra-)?index-url",
}  # fmt: skip


def application_words():
    folders = [path.name for path in (ROOT / "examples").iterdir() if path.is_dir()]
    return sorted({word for folder in folders for word in re.findall(r"[a-z]{3,}", folder.lower())} - KINDS)


def test_examples_have_names_to_look_for():
    assert application_words(), "examples/ holds no application: the next test would prove nothing"


def test_no_part_of_the_project_names_an_application(files, text):
    words = re.compile("|".join(application_words()), re.I)
    found = []
    for name in files:
        if name.parts[0] in MAY_NAME:
            continue
        if words.search(str(name)):
            found.append(f"{name}: the name of the file")
        lines = enumerate((text(name) or "").splitlines(), 1)
        found += [
            f"{name}:{number}: {line.strip()[:100]}"
            for number, line in lines
            if any(str(name) not in CHANNELS.get(word.lower(), ()) for word in words.findall(line))
        ]
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_has(what, files, text):
    pattern = re.compile(FORBIDDEN[what], re.M)
    found = []
    for name in files:
        if name == SELF:
            continue
        found += [
            f"{name}:{number}: {line.strip()[:100]}"
            for number, line in enumerate((text(name) or "").splitlines(), 1)
            if pattern.search(line)
        ]
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("a path of one machine", "x: /work/somewhere/y"),
        ("a path of one machine", "home=/root/.ssh"),
        ("the host of a package registry", "https://pypi.org/simple"),
        ("SSH without verified host keys", "host_key_checking = False"),
        ("SSH without verified host keys", "-o StrictHostKeyChecking=no"),
        ("errors that are ignored", "  ignore_errors: true"),
        ("an index address in a lock file", "--index-url https://x"),
    ],
)
def test_the_patterns_see_what_they_forbid(what, line):
    assert re.search(FORBIDDEN[what], line, re.M)


def test_task_files_and_python_files_stay_small(files, text):
    found = []
    for name in files:
        lines = len((text(name) or "").splitlines())
        tasks = name.parts[0] == "roles" and "tasks" in name.parts and name.suffix == ".yml"
        if tasks and lines > 150:
            found.append(f"{name}: {lines} lines, a task file has at most 150")
        if name.suffix == ".py" and lines > 400:
            found.append(f"{name}: {lines} lines, a Python file has at most 400")
    assert not found, "\n".join(["", *found])


def test_a_default_off_failure_has_an_assertion_of_its_own(files, text, load):
    """`failed_when: false` hides a failure: the same file must look at the registered result afterwards."""
    found = []
    for name in files:
        if name.suffix not in (".yml", ".yaml") or name.parts[0] not in ("roles", "playbooks", "molecule"):
            continue
        content = text(name) or ""
        for block in re.split(r"^\s*- name:", content, flags=re.M):
            if re.search(r"^\s*failed_when:\s*(?i:false|no)\s*$", block, re.M):
                register = re.search(r"^\s*register:\s*(\w+)", block, re.M)
                if not register or len(re.findall(rf"\b{register.group(1)}\b", content)) < 2:
                    found.append(f"{name}: {block.strip().splitlines()[0]}")
    assert not found, "\n".join(["", *found])


def test_secrets_are_never_committed(files):
    generated = [
        str(name) for name in files if name.name in ("secrets.yml", "id_ed25519", "known_hosts") or name.suffix in (".pem", ".key")
    ]
    assert generated == []
