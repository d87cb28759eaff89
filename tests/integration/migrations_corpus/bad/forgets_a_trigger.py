"""The downgrade does not make the trigger again."""

from alembic import op

revision = "forgets_a_trigger"
down_revision = "start"
EXPECT = "DOWNGRADE_INCOMPLETE"


def upgrade() -> None:
    op.execute("DROP TRIGGER customers_touch ON customers")


def downgrade() -> None:
    op.execute("SELECT 1")
