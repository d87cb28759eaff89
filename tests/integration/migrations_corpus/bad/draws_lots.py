"""Values come from chance, so no two databases are alike."""

from alembic import op

revision = "draws_lots"
down_revision = "start"
EXPECT = "NONDETERMINISTIC"


def upgrade() -> None:
    op.execute("ALTER TABLE customers ADD COLUMN bucket double precision")
    op.execute("UPDATE customers SET bucket = random()")


def downgrade() -> None:
    op.execute("ALTER TABLE customers DROP COLUMN bucket")
