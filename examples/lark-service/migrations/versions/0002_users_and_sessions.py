"""Cached users and their sign-in sessions."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE user_cache (
            app_id     text NOT NULL REFERENCES applications (app_id) ON DELETE CASCADE,
            open_id    text NOT NULL,
            name       text NOT NULL,
            en_name    text,
            email      text,
            avatar_url text,
            fetched_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (app_id, open_id)
        )
        """
    )
    op.execute(
        """
        CREATE TABLE user_auth_sessions (
            session_id uuid PRIMARY KEY,
            app_id     text NOT NULL REFERENCES applications (app_id) ON DELETE CASCADE,
            created_at timestamptz NOT NULL DEFAULT now(),
            expires_at timestamptz NOT NULL
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE user_auth_sessions")
    op.execute("DROP TABLE user_cache")
