"""Texts that are longer than the new limit."""

from alembic import op

revision = "shortens_texts"
down_revision = "start"
EXPECT = "UPGRADE_FAILS"


def upgrade() -> None:
    op.execute("ALTER TABLE customers ALTER nick TYPE varchar(10)")


def downgrade() -> None:
    op.execute("ALTER TABLE customers ALTER nick TYPE varchar(30)")
