"""NULLs are there."""

from alembic import op

revision = "forbids_null_too_early"
down_revision = "start"
EXPECT = "UPGRADE_FAILS"


def upgrade() -> None:
    op.execute("ALTER TABLE customers ALTER nick SET NOT NULL")


def downgrade() -> None:
    op.execute("ALTER TABLE customers ALTER nick DROP NOT NULL")
