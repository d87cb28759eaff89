"""Texts that are no numbers."""

from alembic import op

revision = "casts_texts_to_numbers"
down_revision = "start"
EXPECT = "UPGRADE_FAILS"


def upgrade() -> None:
    op.execute("ALTER TABLE customers ALTER phone TYPE bigint USING phone::bigint")


def downgrade() -> None:
    op.execute("ALTER TABLE customers ALTER phone TYPE text")
