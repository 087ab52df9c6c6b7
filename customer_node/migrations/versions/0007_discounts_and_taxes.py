"""Discount codes of purchases and orders, discount and tax of their lines."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    for table in ("purchases", "orders"):
        op.add_column(table, sa.Column("code", sa.Text, nullable=False, server_default=""))
    op.add_column("order_lines", sa.Column("discount", sa.BigInteger, nullable=False, server_default="0"))
    for table in ("order_lines", "cart_lines"):
        op.add_column(table, sa.Column("tax_rate", sa.Integer, nullable=False, server_default="0"))
