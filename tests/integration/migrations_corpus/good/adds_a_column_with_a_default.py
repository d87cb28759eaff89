"""A constant default needs no rewrite, and the serving release need not know it."""

from alembic import op

revision = "adds_a_column_with_a_default"
down_revision = "start"
EXPECT = "LOSSY_AFTER_WRITES"


def upgrade() -> None:
    op.execute("ALTER TABLE orders ADD COLUMN channel text NOT NULL DEFAULT 'web'")


def downgrade() -> None:
    op.execute("ALTER TABLE orders DROP COLUMN channel")
