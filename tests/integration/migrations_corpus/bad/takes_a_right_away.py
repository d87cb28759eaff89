"""The serving release's role may not write any more: a trigger refuses it."""

from alembic import op

revision = "takes_a_right_away"
down_revision = "start"
EXPECT = "OLD_APP_BREAKS"


def upgrade() -> None:
    op.execute("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'read only'; END $$")
    op.execute("CREATE TRIGGER audit_closed BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION refuse()")


def downgrade() -> None:
    op.execute("DROP TRIGGER audit_closed ON audit")
    op.execute("DROP FUNCTION refuse()")
