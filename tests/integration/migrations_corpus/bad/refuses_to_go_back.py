"""The downgrade only raises."""

from alembic import op

revision = "refuses_to_go_back"
down_revision = "start"
EXPECT = "DOWNGRADE_RAISES"


def upgrade() -> None:
    op.execute("ALTER TABLE orders ADD COLUMN weight numeric")


def downgrade() -> None:
    raise NotImplementedError("no way back")
