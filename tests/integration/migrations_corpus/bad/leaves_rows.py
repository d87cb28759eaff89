"""Rows that the upgrade inserts stay after the downgrade."""

from alembic import op

revision = "leaves_rows"
down_revision = "start"
EXPECT = "DOWNGRADE_INCOMPLETE"


def upgrade() -> None:
    op.execute("INSERT INTO options (key, value) VALUES ('theme', 'dark')")


def downgrade() -> None:
    op.execute("SELECT 1")
