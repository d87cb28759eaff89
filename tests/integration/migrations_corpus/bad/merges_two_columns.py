"""Two columns become one; nobody can take them apart again."""

from alembic import op

revision = "merges_two_columns"
down_revision = "start"
EXPECT = "DATA_LOST"


def upgrade() -> None:
    op.execute("ALTER TABLE customers ADD COLUMN called text")
    op.execute("UPDATE customers SET called = name || ' ' || coalesce(nick, '')")
    op.execute("ALTER TABLE customers DROP COLUMN nick")


def downgrade() -> None:
    op.execute("ALTER TABLE customers ADD COLUMN nick varchar(30)")
    op.execute("UPDATE customers SET nick = split_part(called, ' ', 2)")
    op.execute("ALTER TABLE customers DROP COLUMN called")
