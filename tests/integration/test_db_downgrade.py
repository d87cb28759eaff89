"""A schema's way back on a real server: left where the old release works, undone with a side copy, refused where it may not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from ansible.module_utils.greenroom import db_downgrade, durable, migration
from ansible.module_utils.greenroom.migration import Database, Job, MigrationError
from ansible.module_utils.greenroom.rehearsal import side_copy

sys.path.insert(0, str(Path(__file__).parent))
from rehearsal_project import Project, make_venv, open_folder


@pytest.fixture(scope="module")
def project():
    with open_folder() as folder:
        made = Project(folder / "9-1.0.0", make_venv(folder / "venv"), folder / "s")
        made.revise("a", ["CREATE TABLE things (id int PRIMARY KEY)"], ["DROP TABLE things"], "make things")
        made.revise("b", ["ALTER TABLE things ADD COLUMN tag text"], ["ALTER TABLE things DROP COLUMN tag"], "tag them")
        yield made


def child(argv, request, limit_s):
    command = [sys.executable, *argv[argv.index("-c") :]]
    done = subprocess.run(command, input=request, capture_output=True, text=True, timeout=limit_s, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def job(project, postgres):
    postgres.sql("CREATE DATABASE downgrades")
    database = Database(postgres.host, postgres.port, "downgrades", "postgres", postgres.password, "prefer")

    def make(target="a"):
        return Job(service="things", user="things", release=str(project.folder), database=database, target=target)

    migration.migrated(make("head"), run=child)
    with psycopg.connect(**database.keywords(), autocommit=True) as connection:
        connection.execute("INSERT INTO things SELECT n, 'tag ' || n FROM generate_series(1, 100) n")
        make.connection = connection
        yield make
    postgres.sql("DROP DATABASE downgrades WITH (FORCE)")


@pytest.fixture
def manifest(project, tmp_path):
    def write(verdict, **more):
        entry = {"revision": "b", "parents": ["a"], "verdict": verdict, "flags": [], "side_copy": [], "recoverable": None,
                 "measured": {"down_seconds": 0.1}, **more}  # fmt: skip
        body = {"format": 1, "revisions": [entry]}
        (tmp_path / "migration.json").write_text(json.dumps({**body, "digest": durable.digest(body)}))
        return str(tmp_path / "migration.json")

    return write


COPY = {"side_copy": [{"table": "things", "columns": ["tag"]}], "recoverable": True, "flags": ["OLD_APP_BREAKS"]}


def at(job):
    return job.connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]


def test_the_schema_is_left_where_the_old_release_works_on_it(job, manifest):
    found = db_downgrade.left(job(), manifest("LOSSY_AFTER_WRITES"), run=child)
    assert found["route"]["name"] == "leave_schema" and found["revisions"] == ["b"] and at(job) == "b"
    assert found["evidence"][0]["status"] == "not_applicable"
    assert db_downgrade.left(job("b"), None, run=child)["revisions"] == []
    with pytest.raises(MigrationError, match=r"breaks on this schema\. Open: .*Nothing was changed"):
        db_downgrade.left(job(), manifest("LOSSLESS", flags=["OLD_APP_BREAKS"]), run=child)


def test_what_would_be_dropped_is_copied_aside_first_and_comes_back(job, manifest):
    path = manifest("LOSSY_AFTER_WRITES", **COPY)
    planned = db_downgrade.downgraded(job(), path, act=False, run=child)
    assert planned["route"]["name"] == "side_copy_downgrade" and planned["changed"] and at(job) == "b"
    done = db_downgrade.downgraded(job(), path, ["b"], run=child)
    assert [one["rows"] for one in done["side_copies"]] == [100] and [one["revision"] for one in done["undone"]] == ["b"]
    assert at(job) == "a" and done["evidence"][0]["status"] == "pass"
    migration.migrated(job("head"), run=child)
    side_copy.put_back(job.connection, "b")
    assert job.connection.execute("SELECT count(tag) FROM things").fetchone()[0] == 100
    assert db_downgrade.downgraded(job(), path, run=child)["side_copies"][0]["rows"] == 100, "copies of an earlier try are made anew"


@pytest.mark.parametrize(
    ("verdict", "more", "words"),
    [
        ("BROKEN", {}, "no downgrade that restores the schema"),
        ("DESTRUCTIVE", {}, "not their data"),
        ("UNPROVEN", {}, "could not show"),
        ("LOSSY_AFTER_WRITES", {"recoverable": False}, "no side copy was seen to bring it back"),
        ("FAILS_AFTER_WRITES", {}, "closed"),
    ],
)
def test_a_way_that_the_rehearsal_closes_is_not_gone(job, manifest, verdict, more, words):
    with pytest.raises(MigrationError, match=words):
        db_downgrade.downgraded(job(), manifest(verdict, **{**COPY, **more}), run=child)
    assert at(job) == "b"


def test_another_revision_than_planned_a_missing_manifest_and_a_failing_copy_stop_it(job, manifest):
    with pytest.raises(MigrationError, match=r"is at b, the plan was made at c: somebody migrated in between"):
        db_downgrade.downgraded(job(), manifest("LOSSLESS"), ["c"], run=child)
    with pytest.raises(MigrationError, match="was not rehearsed"):
        db_downgrade.downgraded(job(), None, run=child)
    wrong = {**COPY, "side_copy": [{"table": "nothing", "columns": None}]}
    with pytest.raises(MigrationError, match=r"the side copy failed: .* Nothing was undone") as caught:
        db_downgrade.downgraded(job(), manifest("LOSSY_AFTER_WRITES", **wrong), run=child)
    assert at(job) == "b" and job().database.password not in str(caught.value)
    assert job.connection.execute("SELECT to_regnamespace('_rb_b')").fetchone()[0] is None
