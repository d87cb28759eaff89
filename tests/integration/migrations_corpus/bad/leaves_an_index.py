"""The downgrade forgets an index."""

from alembic import op

revision = "leaves_an_index"
down_revision = "start"
EXPECT = "DOWNGRADE_INCOMPLETE"


def upgrade() -> None:
    op.execute("CREATE INDEX orders_placed ON orders (placed)")
    op.execute("ALTER TABLE orders ADD COLUMN weight numeric")


def downgrade() -> None:
    op.execute("ALTER TABLE orders DROP COLUMN weight")
