"""The application's model is that of another day."""

import sqlalchemy as sa
from alembic import op
from shop.models import COLUMN

revision = "uses_the_models"
down_revision = "start"
EXPECT = "APP_IMPORT"


def upgrade() -> None:
    op.add_column("orders", sa.Column(COLUMN, sa.Text()))


def downgrade() -> None:
    op.drop_column("orders", COLUMN)
