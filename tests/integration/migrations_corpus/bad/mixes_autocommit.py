"""A failure after the first part leaves it there without the new version."""

from alembic import op

revision = "mixes_autocommit"
down_revision = "start"
EXPECT = "AUTOCOMMIT_MIXED"


def upgrade() -> None:
    op.execute("ALTER TABLE customers ADD COLUMN region text")
    with op.get_context().autocommit_block():
        op.execute("CREATE INDEX CONCURRENTLY customers_region ON customers (region)")


def downgrade() -> None:
    op.execute("DROP INDEX customers_region")
    op.execute("ALTER TABLE customers DROP COLUMN region")
