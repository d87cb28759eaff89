"""Indexes for what is asked often: tokens that are due, sessions that are over, messages by state."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX tokens_expires_at_idx ON tokens (expires_at)")
    op.execute("CREATE INDEX user_auth_sessions_expires_at_idx ON user_auth_sessions (expires_at)")
    op.execute("CREATE INDEX messages_status_created_at_idx ON messages (status, created_at)")


def downgrade() -> None:
    op.execute("DROP INDEX messages_status_created_at_idx")
    op.execute("DROP INDEX user_auth_sessions_expires_at_idx")
    op.execute("DROP INDEX tokens_expires_at_idx")
