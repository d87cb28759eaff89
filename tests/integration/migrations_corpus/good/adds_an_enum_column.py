"""A new type and a column of it, both taken away again."""

from alembic import op

revision = "adds_an_enum_column"
down_revision = "start"
EXPECT = "LOSSY_AFTER_WRITES"


def upgrade() -> None:
    op.execute("CREATE TYPE size AS ENUM ('s', 'm', 'l')")
    op.execute("ALTER TABLE lines ADD COLUMN size size")


def downgrade() -> None:
    op.execute("ALTER TABLE lines DROP COLUMN size")
    op.execute("DROP TYPE size")
