"""A row security policy is gone afterwards."""

from alembic import op

revision = "drops_a_policy"
down_revision = "start"
EXPECT = "DOWNGRADE_INCOMPLETE"


def upgrade() -> None:
    op.execute("DROP POLICY own_options ON options")


def downgrade() -> None:
    op.execute("SELECT 1")
