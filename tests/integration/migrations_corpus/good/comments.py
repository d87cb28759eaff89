"""Words about a column."""

from alembic import op

revision = "comments"
down_revision = "start"
EXPECT = "LOSSLESS"


def upgrade() -> None:
    op.execute("COMMENT ON COLUMN orders.note IS 'of the customer'")


def downgrade() -> None:
    op.execute("COMMENT ON COLUMN orders.note IS NULL")
