"""The downgrade forgets an enum type, so the next upgrade fails."""

from alembic import op

revision = "leaves_a_type"
down_revision = "start"
EXPECT = "DOWNGRADE_INCOMPLETE"


def upgrade() -> None:
    op.execute("CREATE TYPE size AS ENUM ('s', 'l')")
    op.execute("ALTER TABLE orders ADD COLUMN size size")


def downgrade() -> None:
    op.execute("ALTER TABLE orders DROP COLUMN size")
