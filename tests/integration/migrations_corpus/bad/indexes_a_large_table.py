"""Writers wait until the index is built."""

from alembic import op

revision = "indexes_a_large_table"
down_revision = "start"
EXPECT = "LOCK"


def upgrade() -> None:
    op.execute("CREATE INDEX measurements_value ON measurements (value)")


def downgrade() -> None:
    op.execute("DROP INDEX measurements_value")
