"""Pending and available money, refunds in parts, disputes."""

import time

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

SETTLEMENT_MS = 7 * 24 * 3600 * 1000


def upgrade() -> None:
    op.add_column("orders", sa.Column("captured_at", sa.BigInteger))
    op.add_column("orders", sa.Column("settle_at", sa.BigInteger))
    op.add_column("orders", sa.Column("refunded", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("orders", sa.Column("claimed", sa.BigInteger, nullable=False, server_default="0"))
    settles: sa.ColumnClause[int] = sa.column("settle_at")
    op.create_index(
        "ix_orders_settle_at",
        "orders",
        ["settle_at"],
        sqlite_where=settles.is_not(None),
        postgresql_where=settles.is_not(None),
    )
    op.create_table(
        "merchant_balances",
        sa.Column("merchant", sa.String(32), primary_key=True),
        sa.Column("available", sa.BigInteger, nullable=False),
        sa.CheckConstraint("available >= 0", name="no_negative_available"),
    )
    op.create_table(
        "disputes",
        sa.Column("order_id", sa.LargeBinary(16), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("opened", sa.BigInteger, nullable=False),
        sa.Column("decide_by", sa.BigInteger, nullable=False),
        sa.Column("content_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("statement", sa.Text, nullable=False),
        sa.Column("evidence", sa.LargeBinary),
        sa.Column("finding", sa.Text, nullable=False),
        sa.Column("answer", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("decided", sa.BigInteger),
    )
    _carry_over()


def _carry_over() -> None:
    """Give what was captured before its settlement time from now, and money its books' new names."""
    now = int(time.time() * 1000)
    orders = sa.table("orders", *map(sa.column, ("state", "amount", "captured_at", "settle_at")))
    op.execute(
        orders.update()
        .where(orders.c.state == "captured")
        .values(captured_at=now, settle_at=now + SETTLEMENT_MS)
    )
    op.execute("UPDATE orders SET refunded = amount WHERE state IN ('refundable', 'refunded')")
    op.execute("UPDATE orders SET claimed = amount WHERE state = 'refunded'")
    op.execute("UPDATE ledger SET book = 'pending:' || substr(book, 10) WHERE book LIKE 'merchant:%'")
