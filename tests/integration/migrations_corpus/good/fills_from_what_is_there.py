"""A new column whose values are computed from the row."""

from alembic import op

revision = "fills_from_what_is_there"
down_revision = "start"
EXPECT = "LOSSY_AFTER_WRITES"


def upgrade() -> None:
    op.execute("ALTER TABLE lines ADD COLUMN pieces integer")
    op.execute("UPDATE lines SET pieces = quantity")


def downgrade() -> None:
    op.execute("ALTER TABLE lines DROP COLUMN pieces")
