"""What the broker last said of an order, refunds in parts, disputes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("orders", sa.Column("standing", sa.Text))
    for name in ("settles", "refunded", "claimed", "heard"):
        op.add_column("orders", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
    op.create_table(
        "claims",
        sa.Column("operation", sa.LargeBinary, primary_key=True),
        sa.Column("order_id", sa.LargeBinary, sa.ForeignKey("orders.order_id"), nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_claims_order_id", "claims", ["order_id"])
    op.create_table(
        "disputes",
        sa.Column("order_id", sa.LargeBinary, sa.ForeignKey("orders.order_id"), primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("request", sa.LargeBinary, nullable=False),
        sa.Column("opened", sa.BigInteger, nullable=False),
    )
    # What an order's bytes settled before: nothing was given back in part, and its coins are here.
    op.execute("UPDATE orders SET refunded = amount, claimed = amount WHERE state = 'refunded'")
    # A claim in the older form is made anew, with an id of its own.
    operations = sa.table("operations", *map(sa.column, ("operation", "kind", "state")))
    tokens = sa.table("tokens", *map(sa.column, ("operation", "state")))
    claims = sa.and_(operations.c.kind == "refund", operations.c.state == "open")
    asked_for = sa.select(operations.c.operation).where(claims)
    op.execute(
        tokens.update()
        .where(tokens.c.state == "requested", tokens.c.operation.in_(asked_for))
        .values(state="void")
    )
    op.execute(operations.update().where(claims).values(state="refused"))
