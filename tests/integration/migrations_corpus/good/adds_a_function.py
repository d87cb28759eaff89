"""A function that nobody calls yet."""

from alembic import op

revision = "adds_a_function"
down_revision = "start"
EXPECT = "LOSSLESS"


def upgrade() -> None:
    op.execute("CREATE FUNCTION twice(n integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT n * 2'")


def downgrade() -> None:
    op.execute("DROP FUNCTION twice(integer)")
