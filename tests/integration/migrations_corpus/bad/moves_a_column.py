"""A computed column comes back at the end of the table."""

from alembic import op

revision = "moves_a_column"
down_revision = "start"
EXPECT = "COLUMN_ORDER"


def upgrade() -> None:
    op.execute("ALTER TABLE customers DROP COLUMN short")


def downgrade() -> None:
    op.execute("ALTER TABLE customers ADD COLUMN short text GENERATED ALWAYS AS (left(name, 3)) STORED")
