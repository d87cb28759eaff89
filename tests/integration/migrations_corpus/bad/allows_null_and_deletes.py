"""The downgrade deletes the rows that do not fit."""

from alembic import op

revision = "allows_null_and_deletes"
down_revision = "start"
EXPECT = "OLD_DATA_LOST_AFTER_WRITES"


def upgrade() -> None:
    op.execute("ALTER TABLE orders ALTER total DROP NOT NULL")


def downgrade() -> None:
    op.execute("DELETE FROM orders WHERE total IS NULL")
    op.execute("ALTER TABLE orders ALTER total SET NOT NULL")
