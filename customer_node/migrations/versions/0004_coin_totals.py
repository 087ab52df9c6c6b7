"""The public totals of coins, for the size of the crowd."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "coin_totals",
        sa.Column("value", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("month", sa.Text, primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("out", sa.BigInteger, nullable=False),
    )
