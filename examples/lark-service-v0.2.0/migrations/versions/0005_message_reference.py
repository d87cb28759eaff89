"""Messages can carry the caller's own reference. Additive: v0.1.0 works on this schema, because the column may be null."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE messages ADD COLUMN reference text")
    op.execute("CREATE INDEX messages_app_id_reference_idx ON messages (app_id, reference) WHERE reference IS NOT NULL")


def downgrade() -> None:
    op.execute("DROP INDEX messages_app_id_reference_idx")
    op.execute("ALTER TABLE messages DROP COLUMN reference")
