"""The serving release does not fill the new column."""

from alembic import op

revision = "obliges_the_serving_release"
down_revision = "start"
EXPECT = "OLD_APP_BREAKS"


def upgrade() -> None:
    op.execute("ALTER TABLE orders ADD COLUMN channel text NOT NULL DEFAULT 'web'")
    op.execute("ALTER TABLE orders ALTER channel DROP DEFAULT")


def downgrade() -> None:
    op.execute("ALTER TABLE orders DROP COLUMN channel")
