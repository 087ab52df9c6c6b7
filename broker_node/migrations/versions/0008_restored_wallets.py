"""What restored wallets ask for: who drew what, which claim was for which order, and the spent set."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "issued",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("account", sa.Integer, nullable=False),
        sa.Column("operation", sa.LargeBinary(16), nullable=False),
        sa.Column("month", sa.String(7), nullable=False),
    )
    op.create_index("ix_issued_account", "issued", ["account"])
    op.create_table(
        "restores",
        sa.Column("account", sa.Integer, primary_key=True),
        sa.Column("operation", sa.LargeBinary(16), primary_key=True),
        sa.Column("count", sa.Integer, nullable=False),
    )
    op.create_table(
        "claims",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("operation", sa.LargeBinary(16), nullable=False),
        sa.Column("order_id", sa.LargeBinary(16), nullable=False),
    )
    op.create_index("ix_claims_order_id", "claims", ["order_id"])
    op.add_column("spent", sa.Column("published", sa.SmallInteger))
    op.create_table(
        "spent_chunks",
        sa.Column("key_id", sa.LargeBinary(8), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("used", sa.Integer, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("due", sa.SmallInteger),
    )
    op.create_index("ix_spent_chunks_due", "spent_chunks", ["due"])
    _withdrawals_of_before()
    _claims_of_before()


def _withdrawals_of_before() -> None:
    """Read off the ledger which account each withdrawal was debited to."""
    connection = op.get_bind()
    postings = sa.table("postings", *map(sa.column, ("posting", "reference", "at")))
    ledger = sa.table("ledger", *map(sa.column, ("posting", "book", "amount")))
    operations = sa.table("operations", sa.column("id"))
    issued = sa.table("issued", *map(sa.column, ("account", "operation", "month")))
    debits = connection.execute(
        sa.select(postings.c.reference, ledger.c.book, postings.c.at)
        .join(ledger, ledger.c.posting == postings.c.posting)
        .join(operations, operations.c.id == postings.c.reference)
        .where(ledger.c.book.like("account:%"), ledger.c.amount < 0)
        .order_by(postings.c.posting)
    )
    for reference, book, at in debits.all():
        month = datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m")
        row = {"account": int(book.partition(":")[2]), "operation": reference, "month": month}
        connection.execute(sa.insert(issued), row)


def _claims_of_before() -> None:
    """An order was claimed once, under its own id."""
    connection = op.get_bind()
    orders = sa.table("orders", *map(sa.column, ("order_id", "state")))
    claims = sa.table("claims", *map(sa.column, ("operation", "order_id")))
    for (order_id,) in connection.execute(
        sa.select(orders.c.order_id).where(orders.c.state == "refunded")
    ).all():
        key = hashlib.sha256(b"refund\0" + order_id).digest()[:16]
        connection.execute(sa.insert(claims), {"operation": key, "order_id": order_id})
