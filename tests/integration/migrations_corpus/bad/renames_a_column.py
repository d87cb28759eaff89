"""The serving release knows the old name."""

from alembic import op

revision = "renames_a_column"
down_revision = "start"
EXPECT = "OLD_APP_BREAKS"


def upgrade() -> None:
    op.execute("ALTER TABLE orders RENAME note TO remark")


def downgrade() -> None:
    op.execute("ALTER TABLE orders RENAME remark TO note")
