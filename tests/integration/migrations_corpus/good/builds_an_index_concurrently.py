"""In an autocommit block that is alone in its revision."""

from alembic import op

revision = "builds_an_index_concurrently"
down_revision = "start"
EXPECT = "LOSSLESS"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("CREATE INDEX CONCURRENTLY orders_placed ON orders (placed)")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY orders_placed")
