"""Licence keys that were delivered."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.create_table(
        "order_keys",
        sa.Column("order_id", sa.LargeBinary, sa.ForeignKey("orders.order_id"), primary_key=True),
        sa.Column("sku", sa.Text, primary_key=True),
        sa.Column("text", sa.LargeBinary, nullable=False),
    )
