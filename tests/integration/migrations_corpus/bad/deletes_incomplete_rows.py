"""Rows without a note are taken for rubbish."""

from alembic import op

revision = "deletes_incomplete_rows"
down_revision = "start"
EXPECT = "DATA_LOST"


def upgrade() -> None:
    op.execute("DELETE FROM orders WHERE note IS NULL")


def downgrade() -> None:
    op.execute("SELECT 1")
