"""Payouts to merchants."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "payouts",
        sa.Column("payout_id", sa.LargeBinary(16), primary_key=True),
        sa.Column("merchant", sa.String(32), nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("destination", sa.String(200), nullable=False),
        sa.Column("content_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("requested", sa.BigInteger, nullable=False),
        sa.Column("decided", sa.BigInteger),
        sa.Column("reason", sa.String(500)),
    )
