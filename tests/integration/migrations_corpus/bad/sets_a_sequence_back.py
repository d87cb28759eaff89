"""The sequence starts again, the next number exists already."""

from alembic import op

revision = "sets_a_sequence_back"
down_revision = "start"
EXPECT = "DOWNGRADE_INCOMPLETE"


def upgrade() -> None:
    op.execute("ALTER SEQUENCE customers_id_seq RESTART WITH 1")


def downgrade() -> None:
    op.execute("SELECT 1")
