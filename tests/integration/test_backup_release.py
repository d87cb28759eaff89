"""The release's own checks of a restored copy, with a real alembic project and real programs of the release."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from ansible.module_utils.greenroom.backup.errors import BackupError
from ansible.module_utils.greenroom.backup.release_checks import ReleaseChecks
from ansible.module_utils.greenroom.backup.scratch_cluster import ScratchCluster

sys.path.insert(0, str(Path(__file__).parent))
from rehearsal_project import Project, make_venv, open_folder

SECRET = "7hX-only-the-process-may-see-this"
PROGRAM = """#!{python}
import json, os, sys
import psycopg
with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
    rows = connection.execute("SELECT count(*) FROM things").fetchone()[0]
    who = connection.execute("SELECT current_user").fetchone()[0]
print(json.dumps({{"rows": rows, "who": who, "level": os.environ["LEVEL"]}}))
if "--fail" in sys.argv:
    sys.exit("the key is " + os.environ["KEY"])
"""
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def place():
    """(release, cluster with the database `shop` at its only revision)."""
    with open_folder() as folder:
        venv = make_venv(folder / "venv")
        project = Project(folder / "release", venv, folder / "s")
        project.revise("a1", ["CREATE TABLE things (id int PRIMARY KEY)", "INSERT INTO things VALUES (1), (2)"], ["DROP TABLE things"])
        program = venv / "bin" / "shop-cli"
        program.write_text(PROGRAM.format(python=venv / "bin" / "python"))
        program.chmod(0o755)
        with ScratchCluster(folder / "copy") as cluster:
            with cluster.connect() as admin:
                admin.execute("CREATE ROLE shop_app LOGIN")
                admin.execute("CREATE DATABASE shop OWNER shop_app")
            adapter = project.adapter()
            assert not adapter.up(f"postgresql://shop_app@/shop?host={cluster.socket_dir}&port={cluster.port}", "a1").error
            adapter.close()
            yield project, cluster


def checked(place, *commands, **more):
    project, cluster = place
    given = {"release": str(project.folder), "user": "root", "role": "shop_app", "url_key": "DATABASE_URL", "config": "alembic.ini"}
    environment = {"env": {"LEVEL": "INFO", "KEY": SECRET}, "secrets": ["KEY"]}
    return ReleaseChecks(**{**given, **environment, **more}, commands=list(commands))(cluster, "shop")


def command(text: str, **expect) -> dict:
    return {"name": text, "command": text, "expect": expect}


def test_a_copy_that_the_release_can_use(place):
    found = checked(place, command("shop-cli list", rows=2, who="shop_app", level="INFO"))
    assert [one["status"] for one in found] == ["pass", "pass"], found
    assert found[0]["observed"] == "a1"


def test_a_copy_of_before_the_migration_is_red(place):
    project, _cluster = place
    project.revise("b2", ["SELECT 1"], ["SELECT 1"])
    try:
        (one,) = checked(place)
    finally:
        (project.versions / "b2.py").unlink()
    assert one["status"] == "fail" and "the copy is at revision a1, the release's newest is b2" in one["reason"]


@pytest.mark.parametrize(
    ("text", "expect", "words"),
    [
        ("shop-cli list", {"rows": 3}, "rows is 2"),
        ("shop-cli list", {"more": 1}, "more is absent"),
        ("shop-cli --fail", {}, "the key is"),
        ("python -c 'print(1)'", {"rows": 2}, "rows is absent"),
        ("python -c 'print(\"{\")'", {"rows": 2}, "is no JSON"),
        ("shop-cly", {}, "No such file"),
        ("python -c 'import time; time.sleep(60)'", {}, "did not end within"),
    ],
)
def test_what_the_release_cannot_do_is_red(place, text, expect, words):
    (one,) = checked(place, command(text, **expect), config=None, limit_s=3)
    assert one["status"] in ("fail", "error") and words in one["reason"], one
    assert SECRET not in str(one)


def test_without_migrations_and_checks_nothing_applies(place):
    (one,) = checked(place, config=None)
    assert one["status"] == "not_applicable"
    with pytest.raises(BackupError, match="does not exist on this host"):
        checked(place, user="nobody-at-all")
