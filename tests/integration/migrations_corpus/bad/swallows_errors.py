"""An error is caught, and the rest goes on as if nothing had happened."""

from alembic import op

revision = "swallows_errors"
down_revision = "start"
EXPECT = "SWALLOWS_ERRORS"


def upgrade() -> None:
    try:
        op.execute("SAVEPOINT before")
        op.execute("ALTER TABLE customers ADD COLUMN nick text")
    except Exception:
        op.execute("ROLLBACK TO before")
    op.execute("ALTER TABLE customers ADD COLUMN region text")


def downgrade() -> None:
    op.execute("ALTER TABLE customers DROP COLUMN region")
