"""Old rows are thrown away."""

from alembic import op

revision = "truncates"
down_revision = "start"
EXPECT = "DATA_LOST"


def upgrade() -> None:
    op.execute("TRUNCATE audit")
    op.execute("ALTER TABLE audit ADD COLUMN who text")


def downgrade() -> None:
    op.execute("ALTER TABLE audit DROP COLUMN who")
