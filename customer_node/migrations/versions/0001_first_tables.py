"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    _create_keys()
    _create_wallet()
    _create_sessions()
    _create_orders()
    _create_deliveries()


def _create_keys() -> None:
    op.create_table(
        "merchants",
        sa.Column("merchant", sa.Text, primary_key=True),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False),
        sa.Column("first_seen", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "key_slots",
        sa.Column("holder", sa.Text, primary_key=True),
        sa.Column("purpose", sa.Text, primary_key=True),
        sa.Column("slot", sa.BigInteger, primary_key=True),
        sa.Column("key_id", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "issuer_keys",
        sa.Column("key_id", sa.LargeBinary, primary_key=True),
        sa.Column("purpose", sa.Text, nullable=False),
        sa.Column("value", sa.BigInteger, nullable=False),
        sa.Column("month", sa.Text, nullable=False),
        sa.Column("public", sa.LargeBinary, nullable=False),
        sa.Column("next_counter", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("purpose", "value", "month"),
    )
    op.create_table(
        "evidence",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )


def _create_wallet() -> None:
    op.create_table(
        "tokens",
        sa.Column("key_id", sa.LargeBinary, sa.ForeignKey("issuer_keys.key_id"), primary_key=True),
        sa.Column("counter", sa.BigInteger, primary_key=True),
        sa.Column("operation", sa.LargeBinary, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("holder", sa.LargeBinary),
        sa.Column("blind_signature", sa.LargeBinary),
        sa.Column("usable_from", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_tokens_holder", "tokens", ["holder"])
    op.create_index("ix_tokens_operation", "tokens", ["operation"])
    op.create_index("ix_tokens_state", "tokens", ["state"])
    op.create_table(
        "operations",
        sa.Column("operation", sa.LargeBinary, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("request", sa.LargeBinary, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_operations_state", "operations", ["state"])


def _create_sessions() -> None:
    op.create_table(
        "account_sessions",
        sa.Column("place", sa.Text, primary_key=True),
        sa.Column("session", sa.LargeBinary, nullable=False),
        sa.Column("keys", sa.LargeBinary, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("idle_ms", sa.BigInteger, nullable=False),
        sa.Column("last_used", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "visits",
        sa.Column("place", sa.Text, primary_key=True),
        sa.Column("session", sa.LargeBinary, nullable=False),
        sa.Column("keys", sa.LargeBinary, nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("idle_ms", sa.BigInteger, nullable=False),
        sa.Column("last_used", sa.BigInteger, nullable=False),
    )


def _create_orders() -> None:
    op.create_table(
        "cart_lines",
        sa.Column("merchant", sa.Text, primary_key=True),
        sa.Column("sku", sa.Text, primary_key=True),
        sa.Column("quantity", sa.Integer, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("unit_price", sa.BigInteger, nullable=False),
        sa.Column("added", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "records",
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("merchant", sa.Text, nullable=False),
        sa.Column("record", sa.LargeBinary, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "purchases",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("merchant", sa.Text, primary_key=True),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("origin", sa.Text, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "orders",
        sa.Column("order_id", sa.LargeBinary, primary_key=True),
        sa.Column("merchant", sa.Text, nullable=False),
        sa.Column("purchase", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("deadline", sa.BigInteger, nullable=False),
        sa.Column("visit", sa.LargeBinary, nullable=False),
        sa.Column("audit", sa.LargeBinary),
        sa.Column("failure", sa.Text),
        sa.Column("failure_sku", sa.Text),
        sa.Column("failure_value", sa.BigInteger),
    )
    op.create_index("ix_orders_purchase", "orders", ["purchase"])
    op.create_index("ix_orders_state", "orders", ["state"])
    op.create_table(
        "order_lines",
        sa.Column("order_id", sa.LargeBinary, sa.ForeignKey("orders.order_id"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("sku", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("record", sa.LargeBinary, sa.ForeignKey("records.digest"), nullable=False),
        sa.Column("quantity", sa.Integer, nullable=False),
        sa.Column("unit_price", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "order_secrets",
        sa.Column("order_id", sa.LargeBinary, sa.ForeignKey("orders.order_id"), primary_key=True),
        sa.Column("secret", sa.LargeBinary, nullable=False),
        sa.Column("answer_secret", sa.LargeBinary, nullable=False),
        sa.Column("request_hash", sa.LargeBinary, nullable=False),
        sa.Column("place_order", sa.LargeBinary, nullable=False),
        sa.Column("merchant_certificate", sa.LargeBinary, nullable=False),
    )


def _create_deliveries() -> None:
    op.create_table(
        "receipts",
        sa.Column("order_id", sa.LargeBinary, sa.ForeignKey("orders.order_id"), primary_key=True),
        sa.Column("receipt", sa.LargeBinary, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "deliveries",
        sa.Column("order_id", sa.LargeBinary, sa.ForeignKey("orders.order_id"), primary_key=True),
        sa.Column("folder", sa.Text, nullable=False),
        sa.Column("done", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "delivery_files",
        sa.Column("order_id", sa.LargeBinary, sa.ForeignKey("deliveries.order_id"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
    )
