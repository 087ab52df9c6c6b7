"""How far the restoring of a wallet has come."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_table(
        "restores",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("account", sa.LargeBinary, unique=True),
        sa.Column("operation", sa.LargeBinary, nullable=False),
        sa.Column("count", sa.BigInteger),
        sa.Column("fetched", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "searches",
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("era", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("month", sa.Text, primary_key=True),
        sa.Column("next", sa.BigInteger, nullable=False),
        sa.Column("misses", sa.BigInteger, nullable=False),
        sa.Column("found", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.create_table(
        "unmatched",
        sa.Column("signature", sa.LargeBinary, primary_key=True),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("usable_from", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "restored_orders",
        sa.Column("order_id", sa.LargeBinary, primary_key=True),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("due", sa.BigInteger, nullable=False),
        sa.Column("claimed", sa.BigInteger, nullable=False),
        sa.Column("deadline", sa.BigInteger, nullable=False),
        sa.Column("claim", sa.LargeBinary),
    )
