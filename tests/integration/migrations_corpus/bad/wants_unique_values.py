"""Values that are there twice."""

from alembic import op

revision = "wants_unique_values"
down_revision = "start"
EXPECT = "UPGRADE_FAILS"


def upgrade() -> None:
    op.execute("CREATE UNIQUE INDEX customers_name_once ON customers (name)")


def downgrade() -> None:
    op.execute("DROP INDEX customers_name_once")
