"""What the README tells people to type exists, and is what continuous integration runs; tags are the documented ones."""

import re
import subprocess
from pathlib import Path

import pytest
from ansible.module_utils.greenroom.inputs import PHASES, ROLLBACK_TAGS, RUN_VARIABLES

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ["README.md", *sorted(str(file.relative_to(ROOT)) for file in ROOT.glob("docs/*.md"))]


def commands(document):
    """Lines of the document's shell blocks, comments and prompts removed."""
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:sh|bash|shell|console)\n(.*?)^```", text, flags=re.M | re.S)
    lines = [re.sub(r"\s+#.*", "", line).strip().removeprefix("$ ") for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def targets():
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))


def fault(command):
    """What is wrong with a command, or None."""
    words = [word for word in command.split() if not re.fullmatch(r"[A-Z_]+=.*", word)]
    if not words:
        return None
    program, rest = words[0].removeprefix(".venv/bin/"), words[1:]
    if program == "make":
        unknown = [word for word in rest if not word.startswith("-") and "=" not in word and word not in targets()]
        return f"no target {', '.join(unknown)} in the Makefile" if unknown else None
    if program in ("ansible-playbook", "ansible-inventory", "ansible"):
        for word in rest:
            path = re.fullmatch(r"[\w./-]+\.yml|inventories/[\w/-]+", word)
            if path and "<" not in word and not (ROOT / word).exists():
                return f"{word} does not exist"
        tags = re.search(r"--(?:skip-)?tags[ =](\S+)", command)
        unknown = [tag for tag in tags.group(1).split(",") if tag not in (*PHASES, *ROLLBACK_TAGS) and "<" not in tag] if tags else []
        variables = [name for name in re.findall(r"-e (run_\w+)=", command) if name not in RUN_VARIABLES]
        return f"unknown: {', '.join(unknown + variables)}" if unknown or variables else None
    if program == "molecule" and "-s" in rest:
        scenario = rest[rest.index("-s") + 1]
        return None if "<" in scenario or (ROOT / "molecule" / scenario).is_dir() else f"no molecule scenario {scenario}"
    if program == "ansible-doc":
        names = [word for word in rest if re.fullmatch(r"[a-z_]+", word) and word not in ("module", "filter", "callback")]
        unknown = [name for name in names if not list(ROOT.glob(f"plugins/*/{name}.py"))]
        return f"no plugin {', '.join(unknown)}" if unknown else None
    if program.startswith(("scripts/", "./")):
        return None if (ROOT / program).is_file() else f"{program} does not exist"
    return None


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_of_the_documents_exist(document):
    assert (ROOT / document).is_file(), f"{document} is missing"
    faults = {command: wrong for command in commands(document) if (wrong := fault(command))}
    assert not faults, "\n".join(["", *(f"{command}: {wrong}" for command, wrong in faults.items())])


def test_the_check_of_commands_sees_faults():
    wrong = """make everything
        ansible-playbook nowhere.yml
        ansible-playbook deploy.yml -i inventories/nowhere
        ansible-playbook deploy.yml --tags verfy
        ansible-playbook deploy.yml -e run_reff=x
        scripts/nowhere
        molecule test -s nowhere
        ansible-doc -t module nowhere"""
    for command in wrong.splitlines():
        assert fault(command), command
    for command in ("make up", "make ssh HOST=app1", "git clone x", "ansible-doc -t module run_inputs", "INVENTORY=x make test"):
        assert fault(command) is None, command


def test_the_readme_shows_the_two_commands_and_ci_runs_the_test():
    shown = commands("README.md")
    assert "make up" in shown
    assert "make test" in shown
    assert re.search(r"^\s*(exec )?make test\b", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), flags=re.M)


def test_every_make_target_is_explained():
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    bare = [line for line in lines if re.match(r"^[a-z][a-z-]*:", line) and "## " not in line]
    assert bare == []


def test_tags_of_deploy_are_the_documented_ones(ansible_environment):
    command = ["ansible-playbook", "deploy.yml", "-i", "inventories/staging", "--list-tags"]
    done = subprocess.run(command, cwd=ROOT, env=ansible_environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = {tag for line in re.findall(r"TAGS: \[(.*?)\]", done.stdout) for tag in re.split(r",\s*", line) if tag}
    assert found - {"always", "never"} == {*PHASES, *ROLLBACK_TAGS}


def run_variables(content):
    """Names that begin with run_ where a value is read: no keys (modules and their options), no filters, no names of files."""
    return re.findall(r"(?<!\| )(?<!\|)\brun_[a-z_]+\b(?!:|\.yml)", content)


def test_only_what_is_read_counts_as_a_variable_of_a_run():
    content = "run_once: true\nrun_as: {{ run_id | run_started }}\nwhen: run_ref is defined\ninclude_tasks: run_tests.yml"
    assert run_variables(content) == ["run_id", "run_ref"]


def test_variables_of_a_run_are_the_known_ones(files, text):
    """Every run_… variable that playbooks and roles read is one that the entry lets through, and every one of those is read."""
    used = {}
    for name in files:
        if name.parts[0] in ("playbooks", "roles") or str(name) == "deploy.yml":
            for variable in run_variables(text(name) or ""):
                used.setdefault(variable, str(name))
    for ordinary in ("run_id", "run_dir", *(file.stem for file in ROOT.glob("roles/*/tasks/run_*.yml"))):
        used.pop(ordinary, None)
    assert {variable: name for variable, name in used.items() if variable not in RUN_VARIABLES} == {}
    assert set(RUN_VARIABLES) - set(used) == set()
