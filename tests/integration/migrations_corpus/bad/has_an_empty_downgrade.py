"""The downgrade does nothing."""

from alembic import op

revision = "has_an_empty_downgrade"
down_revision = "start"
EXPECT = "DOWNGRADE_INCOMPLETE"


def upgrade() -> None:
    op.execute("ALTER TABLE orders ADD COLUMN weight numeric")


def downgrade() -> None:
    pass
