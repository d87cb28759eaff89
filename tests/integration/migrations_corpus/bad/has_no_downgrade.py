"""There is no downgrade at all."""

from alembic import op

revision = "has_no_downgrade"
down_revision = "start"
EXPECT = "DOWNGRADE_FAILS"


def upgrade() -> None:
    op.execute("ALTER TABLE orders ADD COLUMN weight numeric")
