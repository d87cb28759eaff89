"""Moments without their fractions."""

from alembic import op

revision = "cuts_microseconds"
down_revision = "start"
EXPECT = "DATA_LOST"


def upgrade() -> None:
    op.execute("ALTER TABLE orders ALTER placed TYPE timestamptz(0)")


def downgrade() -> None:
    op.execute("ALTER TABLE orders ALTER placed TYPE timestamptz")
