"""The rehearsal against real PostgreSQL with real alembic: the reference service's history, deep steps, other tools, its own control."""

from __future__ import annotations

import datetime
import json
import shutil
import stat
import sys
from pathlib import Path

import pytest
from ansible.module_utils.greenroom.rehearsal import adapters, control, manifest, run, state
from ansible.module_utils.greenroom.rehearsal.errors import RehearsalError
from ansible.module_utils.greenroom.rehearsal.ground import Options

sys.path.insert(0, str(Path(__file__).parent))
from rehearsal_project import CORPUS, ROOT, Project, codes, entry, make_venv, open_folder

TODAY = datetime.date(2026, 11, 20)
THINGS = ["CREATE TABLE things (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, note text)"]
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def folder():
    with open_folder() as made:
        yield made


@pytest.fixture(scope="module")
def venv(folder):
    return make_venv(folder / "venv")


@pytest.fixture
def project(folder, venv, request):
    name = "".join(letter if letter.isalnum() else "_" for letter in request.node.name)
    return Project(folder / name, venv, folder / f"{name[:20]}.s")


@pytest.fixture(scope="module")
def service(folder, venv):
    """The reference service with the next version's revision."""
    release = folder / "service"
    shutil.copytree(ROOT / "examples" / "lark-service", release / "src")
    for file in (ROOT / "examples" / "lark-service-v0.2.0" / "migrations" / "versions").glob("*.py"):
        shutil.copy(file, release / "src" / "migrations" / "versions")
    (release / "venv").symlink_to(venv)
    return release


def test_the_history_of_the_reference_service(service, folder):
    options = Options(extensions=("pgcrypto",))
    found = run.rehearse(adapters.AlembicAdapter(str(service)), folder / "s", options, released={"v0.1.0": "0004"})
    assert {one["revision"]: one["verdict"] for one in found["revisions"]} == {
        "0001": "LOSSY_AFTER_WRITES", "0002": "LOSSY_AFTER_WRITES", "0003": "LOSSY_AFTER_WRITES",
        "0004": "LOSSLESS", "0005": "LOSSY_AFTER_WRITES",
    }  # fmt: skip
    newest = entry(found, "0005")
    assert newest["side_copy"] == [{"table": "messages", "columns": ["reference"]}] and newest["recoverable"] is True
    assert [loss["column"] for loss in newest["loses"]] == ["reference"] and newest["loses"][0]["rows"] > 0
    assert all(count > 0 for one in found["revisions"] for count in one["rows"].values())
    assert all(not one["flags"] for one in found["revisions"])
    assert {one["check"]: one["status"] for one in found["chain"]} == {"one_head": "pass", "released_heads": "pass"}
    assert manifest.gate(found, [], TODAY) == []
    json.dumps(found)
    print(f"\n{found['seconds'] / len(found['revisions']):.2f} s a revision")


def test_only_what_is_pending_is_rehearsed(service, folder):
    options = Options(extensions=("pgcrypto",))
    found = run.rehearse(adapters.AlembicAdapter(str(service)), folder / "p", options, current=["0004"], controls=1)
    assert [one["revision"] for one in found["revisions"]] == ["0005"]
    assert manifest.gate(found, [], TODAY, pending=["0005"]) == []
    assert [one["code"] for one in manifest.gate(found, [], TODAY, pending=["0004", "0005"])] == ["NOT_REHEARSED"]
    nothing = run.rehearse(adapters.AlembicAdapter(str(service)), folder / "n", current=["0005"])
    assert nothing["revisions"] == [] and manifest.gate(nothing, [], TODAY, pending=[]) == []
    with pytest.raises(RehearsalError, match="0099, which this release does not contain"):
        run.rehearse(adapters.AlembicAdapter(str(service)), folder / "u", current=["0099"])


def test_the_whole_walk_with_the_deep_steps(project):
    project.take(CORPUS / "start.py", CORPUS / "bad" / "mixes_autocommit.py", CORPUS / "good" / "builds_an_index_concurrently.py")
    found = project.rehearse(current=["start"], depth="full")
    mixed = entry(found, "mixes_autocommit")
    assert "NOT_ATOMIC" in mixed["flags"], mixed["findings"]
    assert any(one["step"] == 10 and "cannot be run again" in one["text"] for one in mixed["findings"])
    good = entry(found, "builds_an_index_concurrently")
    assert good["flags"] == [] and good["verdict"] == "LOSSLESS", good["findings"]
    notes = [one["text"] for one in good["findings"] if one["step"] == 10]
    assert notes and all("heals that" in text for text in notes)
    assert any("INVALID INDEX orders_placed" in text and "DROP INDEX" in text for text in notes), "a build that was ended half way"
    load = good["measured"]["under_load"]
    assert load["statements"] > 10 and load["longest_stall_s"] > 0 and load["downgrade"] == "done"
    assert all(one["status"] == "pass" for one in good["steps"])


def test_the_whole_chain(project):
    project.revise("a", THINGS, ["DROP TABLE things"]).revise("b", ["CREATE TABLE left_over (id int)"], [])
    chain = {one["check"]: one for one in project.rehearse(depth="full", released={"v1": "a", "v0": "gone"})["chain"]}
    assert chain["released_heads"]["status"] == "fail" and "v0 (gone)" in chain["released_heads"]["text"]
    assert chain["models"]["status"] == "not_applicable"
    assert chain["head_to_base"]["status"] == "fail" and "left_over" in chain["head_to_base"]["text"]
    project.revise("c", [], [], below="a")
    heads = next(one for one in project.rehearse(current=["a"])["chain"] if one["check"] == "one_head")
    assert heads["status"] == "fail"


def test_models_that_differ_from_the_schema(project):
    env = project.folder / "src" / "migrations" / "env.py"
    models = (
        "import sqlalchemy as sa\nMETADATA = sa.MetaData()\n"
        "sa.Table('things', METADATA, sa.Column('id', sa.BigInteger, primary_key=True), sa.Column('more', sa.Text))\n"
    )
    given = "connection=connection, target_metadata=METADATA, compare_server_default=True)"
    text = env.read_text().replace("connection=connection)", given)
    env.write_text(text.replace("from sqlalchemy import create_engine, pool\n", "from sqlalchemy import create_engine, pool\n" + models))
    project.revise("a", ["CREATE TABLE things (id bigint PRIMARY KEY)"], ["DROP TABLE things"])
    chain = {one["check"]: one for one in project.rehearse(depth="full")["chain"]}
    assert chain["models"]["status"] == "fail" and "more" in chain["models"]["text"]


def test_recorded_statements_of_the_serving_release(project):
    project.revise("a", THINGS, ["DROP TABLE things"])
    project.revise("b", ["ALTER TABLE things ADD COLUMN tag text"], ["ALTER TABLE things DROP COLUMN tag"])
    project.revise("c", ["CREATE VIEW w AS SELECT id FROM things"], ["DROP VIEW w"])
    project.revise("d", ["CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'"], ["DROP FUNCTION f()"])
    texts = ("SELECT id, tag FROM things WHERE name = $1", "SELECT count(*) FROM w", "SELECT id FROM things WHERE id = ANY($1)")
    found = project.rehearse(current=["a"], statements=texts)
    assert all("OLD_APP_BREAKS" not in one["flags"] for one in found["revisions"])
    project.revise("e", ["DROP VIEW w"], ["CREATE VIEW w AS SELECT id FROM things"])
    broken = entry(project.rehearse(current=["d"], statements=texts), "e")
    assert "OLD_APP_BREAKS" in broken["flags"]
    assert any('SELECT count(*) FROM w: relation "w" does not exist' in one["text"] for one in broken["findings"])


def test_a_table_that_cannot_be_filled_is_no_pass(project):
    refuse = "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'closed'; END $$"
    project.revise(
        "a",
        ["CREATE TABLE closed (id int)", refuse, "CREATE TRIGGER t BEFORE INSERT ON closed FOR EACH ROW EXECUTE FUNCTION no()", *THINGS],
        ["DROP TABLE closed", "DROP TABLE things", "DROP FUNCTION no()"],
    )
    project.revise("b", ["ALTER TABLE things ADD COLUMN tag text"], ["ALTER TABLE things DROP COLUMN tag"])
    found = project.rehearse(current=["a"])
    one = entry(found, "b")
    assert one["verdict"] == "UNPROVEN" and "closed: no row could be inserted: closed" in one["findings"][0]["text"]
    assert [each["code"] for each in manifest.gate(found, [], TODAY)] == ["UNPROVEN"]
    assert all(each["status"] == "not_run" for each in one["steps"] if each["step"] in (3, 5, 6, 8))
    with_reason = entry(project.rehearse(current=["a"], reasons={"closed": "filled by the importer only"}), "b")
    assert with_reason["verdict"] == "LOSSY_AFTER_WRITES"
    assert {"filled by the importer only"} == {gap["reason"] for gap in with_reason["gaps"] if gap["table"] == "closed"}


def test_a_merge_is_walked_from_both_branches(project):
    project.revise("a", THINGS, ["DROP TABLE things"])
    project.revise("left", ["ALTER TABLE things ADD COLUMN l text"], ["ALTER TABLE things DROP COLUMN l"], below="a")
    project.revise("right", ["ALTER TABLE things ADD COLUMN r text"], ["ALTER TABLE things DROP COLUMN r"], below="a")
    text = (project.versions / "right.py").read_text()
    text = text.replace('"right"', '"both"').replace("down_revision = 'a'", 'down_revision = ("left", "right")')
    (project.versions / "both.py").write_text(text.replace("COLUMN r", "COLUMN m"))
    found = project.rehearse()
    verdicts = {one["revision"]: one["verdict"] for one in found["revisions"]}
    assert verdicts == dict.fromkeys(("a", "left", "right", "both"), "LOSSY_AFTER_WRITES")
    assert sorted(entry(found, "both")["parents"]) == ["left", "right"]


def test_a_destructive_one_passes_with_the_side_copy_it_names(project):
    project.take(CORPUS / "start.py", CORPUS / "bad" / "drops_a_column.py")
    found = project.rehearse(current=["start"])
    one = entry(found, "drops_a_column")
    assert one["verdict"] == "DESTRUCTIVE" and one["recoverable"] is True
    assert one["side_copy"] == [{"table": "customers", "columns": ["phone"]}]
    blockers = manifest.gate(found, [], TODAY)
    assert {each["code"] for each in blockers} == {"DESTRUCTIVE", "OLD_APP_BREAKS"}
    assert {each["code"] for each in manifest.gate(found, [], TODAY, side_copies=True)} == {"OLD_APP_BREAKS"}


def test_a_revision_that_hangs_is_ended(project):
    project.revise("a", ["SELECT pg_sleep(60)"], ["SELECT 1"])
    adapter = project.adapter(time_limit_s=8)
    found = run.rehearse(adapter, project.scratch, Options(), controls=1)
    assert "not done after 8 s" in entry(found, "a")["findings"][0]["text"]
    slow = project.adapter(statement_timeout_s=1)
    found = run.rehearse(slow, project.scratch, Options(), controls=1)
    assert "statement timeout" in entry(found, "a")["findings"][0]["text"], "the limits are those of production"


@pytest.mark.parametrize("bad", control.CORPUS, ids=lambda bad: bad.name)
def test_every_migration_of_the_control_is_caught(bad, control_cluster):
    found = control.walked(control_cluster, bad)
    assert found["caught"], found


@pytest.fixture(scope="module")
def control_cluster(folder):
    with run.ScratchCluster(folder / "c", settings=run.SETTINGS) as cluster:
        yield cluster


def test_a_rehearsal_that_sees_nothing_calls_itself_broken(project, monkeypatch):
    project.revise("a", THINGS, ["DROP TABLE things"])
    monkeypatch.setattr(state, "row_losses", lambda *_given: [])
    monkeypatch.setattr(state, "schema_differences", lambda *_given: ([], False))
    monkeypatch.setattr(control, "drawn", lambda *_given: [control.CORPUS[0], control.CORPUS[2]])
    found = project.rehearse()
    assert found["control"]["ok"] is False and sorted(found["control"]["missed"]) == ["drops a column", "has no way back"]
    assert [one["code"] for one in manifest.gate(found, [], TODAY)] == ["REHEARSAL_BROKEN"]


TOOL = """#!/usr/bin/env python3
import os, sys, psycopg
steps = {"1": ("CREATE TABLE things (id int PRIMARY KEY, name text)", "DROP TABLE things"),
         "2": ("ALTER TABLE things ADD COLUMN note text", "ALTER TABLE things DROP COLUMN note"),
         "3": ("ALTER TABLE things DROP COLUMN name", "ALTER TABLE things ADD COLUMN name text")}
command = sys.argv[1]
if command == "list":
    print("1 make things\\n2 a note\\n3 no name")
    sys.exit()
with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    connection.execute("CREATE TABLE IF NOT EXISTS versions (v text)")
    if command == "current":
        print((connection.execute("SELECT max(v) FROM versions").fetchone()[0]) or "")
    elif command == "up":
        for number in sorted(steps):
            if number <= sys.argv[2] and not connection.execute("SELECT FROM versions WHERE v = %s", [number]).rowcount:
                connection.execute(steps[number][0])
                connection.execute("INSERT INTO versions VALUES (%s)", [number])
    else:
        connection.execute(steps[sys.argv[2]][1])
        connection.execute("DELETE FROM versions WHERE v = %s", [sys.argv[2]])
"""


def test_another_tool_by_its_commands(folder, tmp_path):
    tool = tmp_path / "migrate"
    tool.write_text(TOOL.replace("#!/usr/bin/env python3", f"#!{sys.executable}"))
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    commands = {"list": [str(tool), "list"], "current": [str(tool), "current"], "up": [str(tool), "up", "{revision}"]}
    with pytest.raises(RehearsalError, match="lack down"):
        adapters.CommandAdapter(commands, cwd=str(tmp_path))
    adapter = adapters.CommandAdapter(
        {**commands, "down": [str(tool), "down", "{revision}"]}, cwd=str(tmp_path), version_tables=("versions",)
    )
    found = run.rehearse(adapter, folder / "t", Options(), controls=1)
    assert [one["verdict"] for one in found["revisions"]] == ["LOSSY_AFTER_WRITES", "LOSSY_AFTER_WRITES", "DESTRUCTIVE"]
    assert "OLD_APP_BREAKS" in found["revisions"][2]["flags"] and codes(found["revisions"][2]) >= {"DATA_LOST"}
