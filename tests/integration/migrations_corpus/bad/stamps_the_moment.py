"""Values depend on when it ran."""

from alembic import op

revision = "stamps_the_moment"
down_revision = "start"
EXPECT = "NONDETERMINISTIC"


def upgrade() -> None:
    op.execute("ALTER TABLE orders ADD COLUMN seen timestamptz")
    op.execute("UPDATE orders SET seen = clock_timestamp()")


def downgrade() -> None:
    op.execute("ALTER TABLE orders DROP COLUMN seen")
