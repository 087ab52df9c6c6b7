"""What the broker found in the evidence of a dispute."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.add_column("orders", sa.Column("finding", sa.Text, nullable=False, server_default=""))
