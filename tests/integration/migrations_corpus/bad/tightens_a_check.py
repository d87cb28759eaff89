"""The serving release writes what the new check refuses."""

from alembic import op

revision = "tightens_a_check"
down_revision = "start"
EXPECT = "OLD_APP_BREAKS"


def upgrade() -> None:
    op.execute("ALTER TABLE customers ADD CONSTRAINT nick_is_short CHECK (length(nick) < 10) NOT VALID")


def downgrade() -> None:
    op.execute("ALTER TABLE customers DROP CONSTRAINT nick_is_short")
