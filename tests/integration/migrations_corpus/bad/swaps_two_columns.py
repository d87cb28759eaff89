"""The serving release reads one column's values under the other's name."""

from alembic import op

revision = "swaps_two_columns"
down_revision = "start"
EXPECT = "OLD_APP_BREAKS"


def upgrade() -> None:
    op.execute("ALTER TABLE customers RENAME phone TO spare")
    op.execute("ALTER TABLE customers RENAME memo TO phone")
    op.execute("ALTER TABLE customers RENAME spare TO memo")


def downgrade() -> None:
    op.execute("ALTER TABLE customers RENAME phone TO spare")
    op.execute("ALTER TABLE customers RENAME memo TO phone")
    op.execute("ALTER TABLE customers RENAME spare TO memo")
