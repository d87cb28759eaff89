"""Numbers that need the wider type."""

from alembic import op

revision = "makes_integers_small"
down_revision = "start"
EXPECT = "UPGRADE_FAILS"


def upgrade() -> None:
    op.execute("ALTER TABLE customers ALTER age TYPE smallint")


def downgrade() -> None:
    op.execute("ALTER TABLE customers ALTER age TYPE integer")
