"""The downgrade does not restore a default."""

from alembic import op

revision = "forgets_a_default"
down_revision = "start"
EXPECT = "DOWNGRADE_INCOMPLETE"


def upgrade() -> None:
    op.execute("ALTER TABLE customers ALTER active DROP DEFAULT")
    op.execute("ALTER TABLE customers ALTER active SET DEFAULT false")


def downgrade() -> None:
    op.execute("ALTER TABLE customers ALTER active DROP DEFAULT")
