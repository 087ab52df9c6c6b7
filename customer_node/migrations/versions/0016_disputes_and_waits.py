"""What evidence proves, files that are not what was signed, and whom top-ups wait for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.add_column("orders", sa.Column("finding", sa.Text, nullable=False, server_default=""))
    op.add_column("top_ups", sa.Column("heard", sa.BigInteger, nullable=False, server_default="0"))
    op.create_table(
        "wrong_files",
        sa.Column("order_id", sa.LargeBinary, sa.ForeignKey("orders.order_id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("sku", sa.Text, nullable=False),
        sa.Column("keys", sa.Boolean, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
