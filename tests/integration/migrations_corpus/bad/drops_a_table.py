"""The rows of a dropped table do not come back with it."""

from alembic import op

revision = "drops_a_table"
down_revision = "start"
EXPECT = "DATA_LOST"


def upgrade() -> None:
    op.execute("DROP TABLE audit")


def downgrade() -> None:
    op.execute("CREATE TABLE audit (at timestamptz, said text)")
