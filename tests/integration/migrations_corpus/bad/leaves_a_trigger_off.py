"""A trigger is switched off for a data change and stays off."""

from alembic import op

revision = "leaves_a_trigger_off"
down_revision = "start"
EXPECT = "DOWNGRADE_INCOMPLETE"


def upgrade() -> None:
    op.execute("ALTER TABLE customers DISABLE TRIGGER customers_touch")
    op.execute("ALTER TABLE customers ADD COLUMN rank int")


def downgrade() -> None:
    op.execute("ALTER TABLE customers DROP COLUMN rank")
