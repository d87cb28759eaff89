"""Another type: the whole table is written while nobody may read it."""

from alembic import op

revision = "writes_a_table_anew"
down_revision = "start"
EXPECT = "REWRITE"


def upgrade() -> None:
    op.execute("ALTER TABLE orders ALTER placed TYPE timestamp USING placed AT TIME ZONE 'UTC'")


def downgrade() -> None:
    op.execute("ALTER TABLE orders ALTER placed TYPE timestamptz USING placed AT TIME ZONE 'UTC'")
