"""A view reads, no more."""

from alembic import op

revision = "adds_a_view"
down_revision = "start"
EXPECT = "LOSSLESS"


def upgrade() -> None:
    op.execute("CREATE VIEW paid_orders AS SELECT id, total FROM orders WHERE state = 'paid'")


def downgrade() -> None:
    op.execute("DROP VIEW paid_orders")
