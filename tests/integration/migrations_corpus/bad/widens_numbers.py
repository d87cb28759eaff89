"""Numbers that only the new type holds make the downgrade fail."""

from alembic import op

revision = "widens_numbers"
down_revision = "start"
EXPECT = "DOWNGRADE_FAILS_AFTER_WRITES"


def upgrade() -> None:
    op.execute("ALTER TABLE lines ALTER quantity TYPE bigint")


def downgrade() -> None:
    op.execute("ALTER TABLE lines ALTER quantity TYPE integer")
