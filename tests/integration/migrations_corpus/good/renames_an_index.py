"""Nobody's statement names an index."""

from alembic import op

revision = "renames_an_index"
down_revision = "start"
EXPECT = "LOSSLESS"


def upgrade() -> None:
    op.execute("ALTER INDEX lines_order_id RENAME TO lines_of_an_order")


def downgrade() -> None:
    op.execute("ALTER INDEX lines_of_an_order RENAME TO lines_order_id")
