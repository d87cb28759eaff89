"""Capitals are gone for good."""

from alembic import op

revision = "lowers_addresses"
down_revision = "start"
EXPECT = "DATA_LOST"


def upgrade() -> None:
    op.execute("UPDATE customers SET email = lower(email)")


def downgrade() -> None:
    op.execute("SELECT 1")
