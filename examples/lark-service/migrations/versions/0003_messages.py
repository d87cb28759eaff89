"""Messages and what became of them."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE messages (
            id                uuid PRIMARY KEY,
            app_id            text NOT NULL REFERENCES applications (app_id) ON DELETE CASCADE,
            receive_id_type   text NOT NULL,
            receive_id        text NOT NULL,
            status            text NOT NULL DEFAULT 'queued'
                              CONSTRAINT messages_status_check CHECK (status IN ('queued', 'retrying', 'sent', 'failed')),
            attempts          integer NOT NULL DEFAULT 0,
            feishu_message_id text,
            error             text,
            request_id        text NOT NULL DEFAULT '',
            created_at        timestamptz NOT NULL DEFAULT now(),
            updated_at        timestamptz NOT NULL DEFAULT now()
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE messages")
