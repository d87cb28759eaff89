"""On a table of ordinary size."""

from alembic import op

revision = "adds_an_index"
down_revision = "start"
EXPECT = "LOSSLESS"


def upgrade() -> None:
    op.execute("CREATE INDEX orders_placed ON orders (placed)")


def downgrade() -> None:
    op.execute("DROP INDEX orders_placed")
