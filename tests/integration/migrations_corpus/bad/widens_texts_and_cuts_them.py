"""The downgrade cuts silently what the new release wrote."""

from alembic import op

revision = "widens_texts_and_cuts_them"
down_revision = "start"
EXPECT = "OLD_DATA_LOST_AFTER_WRITES"


def upgrade() -> None:
    op.execute("ALTER TABLE customers ALTER nick TYPE varchar(200)")


def downgrade() -> None:
    op.execute("ALTER TABLE customers ALTER nick TYPE varchar(30) USING left(nick, 30)")
