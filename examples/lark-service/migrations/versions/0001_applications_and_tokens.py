"""Applications with their encrypted secrets, and their access tokens."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    # On a deployed host the extension is there already (its installation is an administrator's); a scratch database's owner may make it,
    # because pgcrypto is a trusted extension.
    op.execute("CREATE EXTENSION IF NOT EXISTS pgcrypto")
    op.execute(
        """
        CREATE TABLE applications (
            app_id           text PRIMARY KEY,
            name             text NOT NULL,
            secret_encrypted bytea NOT NULL,
            enabled          boolean NOT NULL DEFAULT true,
            created_at       timestamptz NOT NULL DEFAULT now(),
            updated_at       timestamptz NOT NULL DEFAULT now()
        )
        """
    )
    op.execute(
        """
        CREATE TABLE tokens (
            app_id          text NOT NULL REFERENCES applications (app_id) ON DELETE CASCADE,
            kind            text NOT NULL CONSTRAINT tokens_kind_check CHECK (kind IN ('tenant', 'app')),
            token_encrypted bytea NOT NULL,
            expires_at      timestamptz NOT NULL,
            obtained_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
            refreshes       bigint NOT NULL DEFAULT 0,
            PRIMARY KEY (app_id, kind)
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE tokens")
    op.execute("DROP TABLE applications")
    # pgcrypto stays: this migration may not have made it, and others may use it.
