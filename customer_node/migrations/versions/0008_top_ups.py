"""Charges of cards."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "top_ups",
        sa.Column("operation", sa.LargeBinary, primary_key=True),
        sa.Column("account", sa.LargeBinary),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("brand", sa.LargeBinary, nullable=False),
        sa.Column("last_four", sa.LargeBinary, nullable=False),
        sa.Column("charge", sa.LargeBinary, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_top_ups_state", "top_ups", ["state"])
