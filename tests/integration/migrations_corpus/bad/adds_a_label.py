"""An enum's label cannot be taken away again."""

from alembic import op

revision = "adds_a_label"
down_revision = "start"
EXPECT = "DOWNGRADE_INCOMPLETE"


def upgrade() -> None:
    op.execute("ALTER TYPE state ADD VALUE 'refunded'")


def downgrade() -> None:
    op.execute("SELECT 1")
