"""The empty text and NULL are two things."""

from alembic import op

revision = "empties_become_null"
down_revision = "start"
EXPECT = "DATA_LOST"


def upgrade() -> None:
    op.execute("UPDATE customers SET nick = NULL WHERE nick = ''")


def downgrade() -> None:
    op.execute("SELECT 1")
