"""A new table that points at an old one."""

from alembic import op

revision = "adds_a_table"
down_revision = "start"
EXPECT = "LOSSY_AFTER_WRITES"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE returns (
            id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            order_id bigint NOT NULL REFERENCES orders,
            why      text
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE returns")
