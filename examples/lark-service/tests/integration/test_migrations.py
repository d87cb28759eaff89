"""Every revision goes up, down and up again, leaves nothing behind, and is reached one by one."""

import os

import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory

from .conftest import alembic_config

SCRIPTS = list(reversed(list(ScriptDirectory.from_config(alembic_config()).walk_revisions())))


def schema():
    """Everything in the schema that a revision could make, as comparable text."""
    query = """
        SELECT 'column', table_name, column_name, data_type, is_nullable, coalesce(column_default, '') FROM information_schema.columns
         WHERE table_schema = 'public' AND table_name <> 'alembic_version'
        UNION ALL SELECT 'index', tablename, indexname, indexdef, '', '' FROM pg_indexes
         WHERE schemaname = 'public' AND tablename <> 'alembic_version'
        UNION ALL SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', '' FROM pg_constraint
         WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version'
        ORDER BY 1, 2, 3
    """
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        return connection.execute(query).fetchall()


@pytest.fixture(autouse=True)
def from_nothing():
    command.downgrade(alembic_config(), "base")
    yield
    command.upgrade(alembic_config(), "head")


def test_one_line_of_revisions():
    assert len(ScriptDirectory.from_config(alembic_config()).get_heads()) == 1
    assert len(SCRIPTS) >= 4


def test_stairway():
    assert schema() == []
    for script in SCRIPTS:
        before = schema()
        command.upgrade(alembic_config(), script.revision)
        after = schema()
        assert after != before, f"{script.revision} changes nothing"
        command.downgrade(alembic_config(), script.down_revision or "base")
        assert schema() == before, f"the downgrade of {script.revision} leaves something behind"
        command.upgrade(alembic_config(), script.revision)
        assert schema() == after, f"{script.revision} is not the same the second time"


def test_a_run_that_fails_leaves_nothing(database):
    """All revisions of one run are one transaction."""
    database.execute("CREATE TABLE messages (in_the_way int)")
    try:
        with pytest.raises(Exception, match="already exists"):
            command.upgrade(alembic_config(), "head")
        assert [row[1] for row in schema() if row[0] == "column"] == ["messages"]
    finally:
        database.execute("DROP TABLE messages")
