"""The values of a dropped column do not come back with it."""

from alembic import op

revision = "drops_a_column"
down_revision = "start"
EXPECT = "DATA_LOST"


def upgrade() -> None:
    op.execute("ALTER TABLE customers DROP COLUMN phone")


def downgrade() -> None:
    op.execute("ALTER TABLE customers ADD COLUMN phone text")
