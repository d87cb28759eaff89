"""A column that may be NULL."""

from alembic import op

revision = "adds_a_column"
down_revision = "start"
EXPECT = "LOSSY_AFTER_WRITES"


def upgrade() -> None:
    op.execute("ALTER TABLE orders ADD COLUMN channel text")


def downgrade() -> None:
    op.execute("ALTER TABLE orders DROP COLUMN channel")
