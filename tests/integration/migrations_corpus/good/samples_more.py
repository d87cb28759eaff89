"""The planner looks at more rows of a column."""

from alembic import op

revision = "samples_more"
down_revision = "start"
EXPECT = "LOSSLESS"


def upgrade() -> None:
    op.execute("ALTER TABLE orders ALTER state SET STATISTICS 500")


def downgrade() -> None:
    op.execute("ALTER TABLE orders ALTER state SET STATISTICS -1")
