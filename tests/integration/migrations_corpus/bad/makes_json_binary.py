"""jsonb keeps neither the order nor doubled keys nor blanks."""

from alembic import op

revision = "makes_json_binary"
down_revision = "start"
EXPECT = "DATA_LOST"


def upgrade() -> None:
    op.execute("ALTER TABLE customers ALTER data TYPE jsonb")


def downgrade() -> None:
    op.execute("ALTER TABLE customers ALTER data TYPE json")
