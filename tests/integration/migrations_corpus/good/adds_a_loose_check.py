"""A check that is not validated under the lock and that the serving release never meets."""

from alembic import op

revision = "adds_a_loose_check"
down_revision = "start"
EXPECT = "LOSSLESS"


def upgrade() -> None:
    op.execute("ALTER TABLE lines ADD CONSTRAINT quantity_is_sane CHECK (quantity < 2000000000) NOT VALID")


def downgrade() -> None:
    op.execute("ALTER TABLE lines DROP CONSTRAINT quantity_is_sane")
