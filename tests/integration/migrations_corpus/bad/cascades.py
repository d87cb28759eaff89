"""A CASCADE takes a view that nobody named."""

from alembic import op

revision = "cascades"
down_revision = "start"
EXPECT = "CASCADE"


def upgrade() -> None:
    op.execute("DROP VIEW active_customers CASCADE")


def downgrade() -> None:
    op.execute("CREATE VIEW active_customers AS SELECT id, name FROM customers WHERE active")
