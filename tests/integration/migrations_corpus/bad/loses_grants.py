"""The table is made anew on the way down, without its grants."""

from alembic import op

revision = "loses_grants"
down_revision = "start"
EXPECT = "DOWNGRADE_INCOMPLETE"


def upgrade() -> None:
    op.execute("CREATE TABLE options_new (key text PRIMARY KEY, value text)")
    op.execute("INSERT INTO options_new SELECT key, value FROM options")
    op.execute("DROP TABLE options")
    op.execute("ALTER TABLE options_new RENAME TO options")
    op.execute("ALTER INDEX options_new_pkey RENAME TO options_pkey")


def downgrade() -> None:
    op.execute("SELECT 1")
