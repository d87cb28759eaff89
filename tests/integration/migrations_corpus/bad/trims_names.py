"""Blanks at the ends are gone for good."""

from alembic import op

revision = "trims_names"
down_revision = "start"
EXPECT = "DATA_LOST"


def upgrade() -> None:
    op.execute("UPDATE customers SET name = btrim(name)")


def downgrade() -> None:
    op.execute("SELECT 1")
