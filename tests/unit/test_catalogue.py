"""The catalogue: the shipped files, and every fault a file can have, with its line."""

from pathlib import Path

import pytest
from ansible.module_utils.greenroom import catalogue
from ansible.module_utils.greenroom.catalogue import not_applicable

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = [ROOT / "catalogue" / "any.yml", ROOT / "examples" / "lark-service" / "catalogue.yml"]
BUILT_PHASES = {"prepare", "release", "database", "configure", "verify", "protect", "observe"}

GOOD = "- {id: a.b, phase: prepare, title: A, threshold: null, source: [001 L1], kind: auto, system: any}\n"


def test_the_shipped_catalogues_load():
    loaded = catalogue.load(SHIPPED)
    assert len(loaded) == len(catalogue.load(SHIPPED[:1])) + len(catalogue.load(SHIPPED[1:]))
    assert loaded.phases[:5] == ["prepare", "release", "database", "configure", "verify"]


def test_what_is_not_built_says_so_and_nothing_else_does():
    for entry in catalogue.load(SHIPPED):
        if entry.kind == "auto" and entry.gate_phase not in (*BUILT_PHASES, "rollback", "restore"):  # of these, what the way asks for
            assert entry.not_built, entry.id
        later = ("prep.monitor.stack", "prep.script.rollback", "observe.weekly.dependencies")
        if entry.gate_phase in BUILT_PHASES and entry.id not in later:
            assert not entry.not_built, entry.id


def test_entries_measured_in_another_phase():
    moved = {entry.id: entry.gate_phase for entry in catalogue.load(SHIPPED) if entry.measured_in}
    later = ["sec.secrets.mode", "sec.secrets.not_in_vcs", "sec.tls", "release.running_version", "release.time_budget"]
    earlier = ["sec.network.ports", "db.extension.pgcrypto", "db.user.privileges"]  # the hosts have them before a release is there
    assert moved == {**dict.fromkeys(later, "verify"), **dict.fromkeys(earlier, "prepare"), "release.start.app": "configure",
                     "protect.backup.before_deploy": "database"}  # fmt: skip


def test_an_entry_knows_where_it_stands(tmp_path):
    path = tmp_path / "c.yml"
    path.write_text(f"# comment\n{GOOD}")
    assert catalogue.load([path]).get("a.b").where == f"{path}:2"


@pytest.mark.parametrize(
    ("text", "line", "fault"),
    [
        (GOOD + GOOD, 2, "a.b: this id is already at"),
        (GOOD.replace("title: A, ", ""), 1, "a.b: missing field 'title'"),
        (GOOD.replace("system: any", "system: any, treshold: 1"), 1, "unknown field 'treshold'"),
        (GOOD.replace("title: A", "title: A, title: B"), 1, "field 'title' is there twice"),
        (GOOD.replace("kind: auto", "kind: magic"), 1, "kind 'magic' is none of"),
        (GOOD.replace("title: A", "title: ''"), 1, "title must be text"),
        (GOOD.replace("id: a.b", "id: 7"), 1, "id must be text"),
        (GOOD.replace("[001 L1]", "[]"), 1, "source must be a list"),
        (GOOD.replace("[001 L1]", "001"), 1, "source must be a list"),
        (GOOD.replace("kind: auto", "kind: declared, not_built: later"), 1, "not_built is for entries of kind auto"),
        (GOOD.replace("kind: auto", "kind: auto, not_built: ''"), 1, "not_built must be text"),
        (GOOD + "- text\n", 2, "an entry is a mapping"),
        ("a: 1\n", 1, "a catalogue is a list"),
        ("", 1, "a catalogue is a list"),
        (GOOD + "- {id: [\n", 3, "not YAML"),
        ("- !!python/object:os.system {}\n", 1, ""),
    ],
)
def test_faults_are_named_with_file_and_line(tmp_path, text, line, fault):
    path = tmp_path / "c.yml"
    path.write_text(text)
    with pytest.raises(catalogue.CatalogueError) as caught:
        catalogue.load([path])
    assert f"{path}:{line}" in str(caught.value) and fault in str(caught.value)


def test_all_faults_of_all_files_are_listed_at_once(tmp_path):
    first, second = tmp_path / "1.yml", tmp_path / "2.yml"
    first.write_text(GOOD + GOOD.replace("a.b", "c.d").replace("title: A, ", ""))
    second.write_text(GOOD)
    with pytest.raises(catalogue.CatalogueError) as caught:
        catalogue.load([first, second, tmp_path / "none.yml"])
    text = str(caught.value)
    assert f"{first}:2: c.d" in text and f"{second}:1: a.b: this id is already at {first}:1" in text and "none.yml: cannot be read" in text


def test_the_same_file_twice_is_read_once(tmp_path):
    path = tmp_path / "c.yml"
    path.write_text(GOOD)
    assert len(catalogue.load([path, path])) == 1


def test_requirements_of_a_dependency_that_is_not_there_do_not_apply():
    ids = ["prep.db.user", "db.connect", "prep.queue.vhost", "prep.server.cpu", "sec.cors"]
    service = {"dependencies": {"database": {}, "broker": {}}, "not_applicable": {"sec.cors": "no browser"}}
    assert not_applicable(service, ids) == {"sec.cors": "no browser"}
    without = not_applicable({"dependencies": {}}, ids)
    assert set(without) == {"prep.db.user", "db.connect", "prep.queue.vhost"} and without["db.connect"] == "the service uses no database"


def test_what_only_a_repository_tells_does_not_apply_to_a_prebuilt_archive():
    ids = [entry.id for entry in catalogue.load(SHIPPED)]
    service = {"dependencies": {"database": {}, "broker": {}}}
    known = not_applicable({**service, "source": {}}, ids)
    found = {name: reason for name, reason in not_applicable({**service, "artefact": {}}, ids).items() if name not in known}
    assert set(found) == set(catalogue.OF_THE_REPOSITORY), "each of them is in the catalogue"
    assert all("prebuilt archive" in reason for reason in found.values())
