"""Rows with the new label make the downgrade fail."""

from alembic import op

revision = "adds_a_label_by_a_new_type"
down_revision = "start"
EXPECT = "DOWNGRADE_FAILS_AFTER_WRITES"


def upgrade() -> None:
    op.execute("ALTER TYPE state RENAME TO state_old")
    op.execute("CREATE TYPE state AS ENUM ('new', 'paid', 'sent', 'refunded')")
    op.execute("ALTER TABLE orders ALTER state DROP DEFAULT")
    op.execute("ALTER TABLE orders ALTER state TYPE state USING state::text::state")
    op.execute("ALTER TABLE orders ALTER state SET DEFAULT 'new'")
    op.execute("DROP TYPE state_old")


def downgrade() -> None:
    op.execute("ALTER TYPE state RENAME TO state_old")
    op.execute("CREATE TYPE state AS ENUM ('new', 'paid', 'sent')")
    op.execute("ALTER TABLE orders ALTER state DROP DEFAULT")
    op.execute("ALTER TABLE orders ALTER state TYPE state USING state::text::state")
    op.execute("ALTER TABLE orders ALTER state SET DEFAULT 'new'")
    op.execute("DROP TYPE state_old")
