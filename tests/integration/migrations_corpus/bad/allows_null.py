"""NULLs of the new release make the downgrade fail."""

from alembic import op

revision = "allows_null"
down_revision = "start"
EXPECT = "DOWNGRADE_FAILS_AFTER_WRITES"


def upgrade() -> None:
    op.execute("ALTER TABLE orders ALTER total DROP NOT NULL")


def downgrade() -> None:
    op.execute("ALTER TABLE orders ALTER total SET NOT NULL")
