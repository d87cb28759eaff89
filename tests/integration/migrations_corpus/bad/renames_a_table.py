"""The serving release knows the old name."""

from alembic import op

revision = "renames_a_table"
down_revision = "start"
EXPECT = "OLD_APP_BREAKS"


def upgrade() -> None:
    op.execute("ALTER TABLE audit RENAME TO audit_log")


def downgrade() -> None:
    op.execute("ALTER TABLE audit_log RENAME TO audit")
