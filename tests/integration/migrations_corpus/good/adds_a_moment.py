"""A default that is a moment differs from run to run, as it should."""

from alembic import op

revision = "adds_a_moment"
down_revision = "start"
EXPECT = "LOSSY_AFTER_WRITES"


def upgrade() -> None:
    op.execute("ALTER TABLE orders ADD COLUMN seen timestamptz NOT NULL DEFAULT now()")


def downgrade() -> None:
    op.execute("ALTER TABLE orders DROP COLUMN seen")
