"""The downgrade was never run: it names a column that is not there."""

from alembic import op

revision = "downgrade_has_a_typo"
down_revision = "start"
EXPECT = "DOWNGRADE_FAILS"


def upgrade() -> None:
    op.execute("ALTER TABLE orders ADD COLUMN weight numeric")


def downgrade() -> None:
    op.execute("ALTER TABLE orders DROP COLUMN wieght")
