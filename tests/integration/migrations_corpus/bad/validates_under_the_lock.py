"""All rows are read while nobody may write."""

from alembic import op

revision = "validates_under_the_lock"
down_revision = "start"
EXPECT = "LOCK"


def upgrade() -> None:
    op.execute("ALTER TABLE measurements ADD CONSTRAINT value_is_known CHECK (value IS NULL OR value < 2000000000)")


def downgrade() -> None:
    op.execute("ALTER TABLE measurements DROP CONSTRAINT value_is_known")
