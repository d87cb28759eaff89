"""Values that the new release may write twice make the downgrade fail."""

from alembic import op

revision = "allows_doubles"
down_revision = "start"
EXPECT = "DOWNGRADE_FAILS_AFTER_WRITES"


def upgrade() -> None:
    op.execute("ALTER TABLE lines DROP CONSTRAINT lines_sku_once")


def downgrade() -> None:
    op.execute("ALTER TABLE lines ADD CONSTRAINT lines_sku_once UNIQUE (sku)")
