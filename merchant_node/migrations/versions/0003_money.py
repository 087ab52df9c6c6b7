"""The broker's statement, and payouts."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "statement_lines",
        sa.Column("line", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at", sa.BigInteger, nullable=False, index=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("reference", sa.LargeBinary(16), nullable=False),
        sa.Column("pending", sa.BigInteger, nullable=False),
        sa.Column("available", sa.BigInteger, nullable=False),
        sa.Column("reserved", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "payouts",
        sa.Column("payout_id", sa.LargeBinary(16), primary_key=True),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("destination", sa.String(200), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("code", sa.String(32), nullable=False),
        sa.Column("reason", sa.String(500), nullable=False),
        sa.Column("asked", sa.BigInteger, nullable=False),
        sa.Column("due", sa.BigInteger, index=True),
        sa.Column("attempts", sa.Integer, nullable=False),
    )
    counters = sa.table("counters", sa.column("name"), sa.column("value"))
    names = ("statement due", "statement read", "commission")
    op.bulk_insert(counters, [{"name": name, "value": 0} for name in names])
