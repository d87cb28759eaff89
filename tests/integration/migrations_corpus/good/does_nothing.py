"""A revision that only joins two lines of work."""

revision = "does_nothing"
down_revision = "start"
EXPECT = "LOSSLESS"


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass
