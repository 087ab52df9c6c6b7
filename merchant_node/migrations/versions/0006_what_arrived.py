"""What customers claim to have got of orders that they dispute."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("disputes", sa.Column("arrived", sa.LargeBinary))
