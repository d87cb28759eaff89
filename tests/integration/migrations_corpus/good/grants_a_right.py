"""A right that is taken away again."""

from alembic import op

revision = "grants_a_right"
down_revision = "start"
EXPECT = "LOSSLESS"


def upgrade() -> None:
    op.execute("GRANT SELECT ON orders TO app")


def downgrade() -> None:
    op.execute("REVOKE SELECT ON orders FROM app")
