"""A column that must have a value, in a table that has rows."""

from alembic import op

revision = "obliges_at_once"
down_revision = "start"
EXPECT = "UPGRADE_FAILS"


def upgrade() -> None:
    op.execute("ALTER TABLE orders ADD COLUMN channel text NOT NULL")


def downgrade() -> None:
    op.execute("ALTER TABLE orders DROP COLUMN channel")
