"""Two digits behind the point instead of four."""

from alembic import op

revision = "rounds_amounts"
down_revision = "start"
EXPECT = "DATA_LOST"


def upgrade() -> None:
    op.execute("ALTER TABLE orders ALTER total TYPE numeric(14,2)")


def downgrade() -> None:
    op.execute("ALTER TABLE orders ALTER total TYPE numeric(14,4)")
