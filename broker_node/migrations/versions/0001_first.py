"""The first tables of the broker."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        sa.Column("password_hash", sa.String(200), nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "login_delays",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("not_before", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "ticket_days",
        sa.Column("account", sa.Integer, primary_key=True),
        sa.Column("day", sa.BigInteger, primary_key=True),
        sa.Column("issued", sa.Integer, nullable=False),
    )
    op.create_table(
        "sessions",
        sa.Column("sid", sa.LargeBinary(16), primary_key=True),
        sa.Column("scope", sa.String(16), nullable=False),
        sa.Column("account", sa.Integer),
        sa.Column("generation", sa.Integer),
        sa.Column("merchant", sa.String(32)),
        sa.Column("wrap_id", sa.LargeBinary(8), nullable=False),
        sa.Column("wrapped", sa.LargeBinary, nullable=False),
        sa.Column("opened", sa.BigInteger, nullable=False),
        sa.Column("last_seen", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("bytes_used", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "welcomes",
        sa.Column("hello_hash", sa.LargeBinary(32), primary_key=True),
        sa.Column("sid", sa.LargeBinary(16), nullable=False, index=True),
        sa.Column("hello_key_id", sa.LargeBinary(8), nullable=False, index=True),
        sa.Column("frame", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "merchants",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(32), nullable=False),
        sa.Column("serial", sa.String(64), nullable=False),
        sa.Column("counter", sa.BigInteger, nullable=False),
        sa.Column("session", sa.LargeBinary(16)),
    )
    op.create_table(
        "issuer_keys",
        sa.Column("key_id", sa.LargeBinary(8), primary_key=True),
        sa.Column("purpose", sa.String(8), nullable=False),
        sa.Column("value", sa.BigInteger, nullable=False),
        sa.Column("month", sa.String(7), nullable=False),
        sa.Column("public", sa.LargeBinary, nullable=False),
        sa.Column("issued", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("purpose", "value", "month", name="one_key_per_slot"),
    )
    op.create_table(
        "spent",
        sa.Column("mark", sa.LargeBinary(32), primary_key=True),
        sa.Column("key_id", sa.LargeBinary(8), nullable=False),
        sa.Column("owner", sa.LargeBinary(16), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "orders",
        sa.Column("order_id", sa.LargeBinary(16), primary_key=True),
        sa.Column("merchant", sa.String(32), nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("deadline", sa.BigInteger, nullable=False),
        sa.Column("content_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("claim_lock", sa.LargeBinary(32), nullable=False),
        sa.Column("status_lock", sa.LargeBinary(32), nullable=False),
        sa.Column("pseudonym", sa.LargeBinary(16), nullable=False),
        sa.Column("salt", sa.LargeBinary(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("due", sa.BigInteger, index=True),
        sa.Column("attempts", sa.Integer, nullable=False),
    )
    op.create_table(
        "order_bodies",
        sa.Column("order_id", sa.LargeBinary(16), primary_key=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "order_answers",
        sa.Column("order_id", sa.LargeBinary(16), primary_key=True),
        sa.Column("answer", sa.LargeBinary, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False, index=True),
    )
    op.create_table(
        "operations",
        sa.Column("id", sa.LargeBinary(16), primary_key=True),
        sa.Column("content_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("response", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "ledger",
        sa.Column("entry", sa.Integer, primary_key=True),
        sa.Column("reference", sa.LargeBinary(16), nullable=False),
        sa.Column("book", sa.String(64), nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "balances",
        sa.Column("account", sa.Integer, primary_key=True),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.CheckConstraint("amount >= 0", name="no_negative_balance"),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.LargeBinary(16), primary_key=True),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "unpublished",
        sa.Column("event", sa.LargeBinary(16), primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "totals",
        sa.Column("at", sa.BigInteger, primary_key=True),
        sa.Column("orders", sa.BigInteger, nullable=False),
    )
