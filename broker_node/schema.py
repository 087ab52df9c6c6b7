"""The broker's tables. Narrow and append-only where they can be; blobs stand apart.

No table ties an account to a shop session, an order or a coin: `sessions.account` is filled for account
sessions only, and an order does not say which session placed it.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

accounts = sa.Table(
    "accounts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(64), nullable=False, unique=True),
    sa.Column("password_hash", sa.String(200), nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("created", sa.BigInteger, nullable=False),
)

login_delays = sa.Table(
    "login_delays",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("not_before", sa.BigInteger, nullable=False),
)

devices = sa.Table(
    "devices",
    metadata,
    sa.Column("account", sa.Integer, primary_key=True),
    sa.Column("secret_hash", sa.LargeBinary(32), primary_key=True),
    sa.Column("used", sa.BigInteger, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("not_before", sa.BigInteger, nullable=False),
)

second_factors = sa.Table(
    "second_factors",
    metadata,
    sa.Column("account", sa.Integer, primary_key=True),
    sa.Column("secret", sa.LargeBinary(20), nullable=False),
    sa.Column("last_step", sa.BigInteger, nullable=False),
)
"""`last_step`: the newest time step whose code was used; none of it or before counts again."""

invites = sa.Table(
    "invites",
    metadata,
    sa.Column("hash", sa.LargeBinary(32), primary_key=True),
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("expires", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("note", sa.String(200), nullable=False),
)

account_answers = sa.Table(
    "account_answers",
    metadata,
    sa.Column("sid", sa.LargeBinary(16), primary_key=True),
    sa.Column("request", sa.LargeBinary(16), primary_key=True),
    sa.Column("answer", sa.LargeBinary, nullable=False),
)
"""What a session was answered about its account, to be repeated; goes with the session."""

ticket_days = sa.Table(
    "ticket_days",
    metadata,
    sa.Column("account", sa.Integer, primary_key=True),
    sa.Column("day", sa.BigInteger, primary_key=True),
    sa.Column("issued", sa.Integer, nullable=False),
)

sessions = sa.Table(
    "sessions",
    metadata,
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

welcomes = sa.Table(
    "welcomes",
    metadata,
    sa.Column("hello_hash", sa.LargeBinary(32), primary_key=True),
    sa.Column("sid", sa.LargeBinary(16), nullable=False, index=True),
    sa.Column("hello_key_id", sa.LargeBinary(8), nullable=False, index=True),
    sa.Column("frame", sa.LargeBinary, nullable=False),
)

merchants = sa.Table(
    "merchants",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("fingerprint", sa.LargeBinary(32), nullable=False),
    sa.Column("serial", sa.String(64), nullable=False),
    sa.Column("counter", sa.BigInteger, nullable=False),
    sa.Column("session", sa.LargeBinary(16)),
)

issuer_keys = sa.Table(
    "issuer_keys",
    metadata,
    sa.Column("key_id", sa.LargeBinary(8), primary_key=True),
    sa.Column("purpose", sa.String(8), nullable=False),
    sa.Column("value", sa.BigInteger, nullable=False),
    sa.Column("month", sa.String(7), nullable=False),
    sa.Column("public", sa.LargeBinary, nullable=False),
    sa.Column("issued", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("purpose", "value", "month", name="one_key_per_slot"),
)

spent = sa.Table(
    "spent",
    metadata,
    sa.Column("mark", sa.LargeBinary(32), primary_key=True),
    sa.Column("key_id", sa.LargeBinary(8), nullable=False),
    sa.Column("owner", sa.LargeBinary(16), nullable=False),
    sa.Column("published", sa.SmallInteger),
    sqlite_with_rowid=False,
)
"""`published`: NULL until the mark stands in the public spent set."""

orders = sa.Table(
    "orders",
    metadata,
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
    sa.Column("captured_at", sa.BigInteger),
    sa.Column("settle_at", sa.BigInteger),
    sa.Column("refunded", sa.BigInteger, nullable=False),
    sa.Column("claimed", sa.BigInteger, nullable=False),
)
"""`due`: when the merchant is to be told again (the order while held, the outcome after), NULL when never.
`captured_at`: NULL where the merchant was never paid. `settle_at`: when captured money becomes the merchant's
by itself, NULL while nothing settles. `refunded`: how much of the amount is the customer's again, `claimed`:
how much of that it has drawn in coins.
"""
sa.Index(
    "ix_orders_settle_at",
    orders.c.settle_at,
    sqlite_where=orders.c.settle_at.is_not(None),
    postgresql_where=orders.c.settle_at.is_not(None),
)

disputes = sa.Table(
    "disputes",
    metadata,
    sa.Column("order_id", sa.LargeBinary(16), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("opened", sa.BigInteger, nullable=False),
    sa.Column("decide_by", sa.BigInteger, nullable=False),
    sa.Column("content_hash", sa.LargeBinary(32), nullable=False),
    sa.Column("statement", sa.Text, nullable=False),
    sa.Column("evidence", sa.LargeBinary),
    sa.Column("arrived", sa.LargeBinary),
    sa.Column("finding", sa.Text, nullable=False),
    sa.Column("answer", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("decided", sa.BigInteger),
)
"""`statement` is the customer's and `answer` the merchant's; `finding` says what signatures alone prove.

`arrived` is what the customer claims to have got, unproven.
"""

order_bodies = sa.Table(
    "order_bodies",
    metadata,
    sa.Column("order_id", sa.LargeBinary(16), primary_key=True),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
)

order_answers = sa.Table(
    "order_answers",
    metadata,
    sa.Column("order_id", sa.LargeBinary(16), primary_key=True),
    sa.Column("answer", sa.LargeBinary, nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False, index=True),
)

operations = sa.Table(
    "operations",
    metadata,
    sa.Column("id", sa.LargeBinary(16), primary_key=True),
    sa.Column("content_hash", sa.LargeBinary(32), nullable=False),
    sa.Column("response", sa.LargeBinary, nullable=False),
)

refusals = sa.Table(
    "refusals",
    metadata,
    sa.Column("request", sa.LargeBinary(32), primary_key=True),
    sa.Column("answer", sa.LargeBinary, nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False, index=True),
    sqlite_with_rowid=False,
)
"""What was refused, and is refused again `until` no copy of it can come any more (`kept_refusals`)."""

signed_marks = sa.Table(
    "signed_marks",
    metadata,
    sa.Column("mark", sa.LargeBinary(16), primary_key=True),
    sqlite_with_rowid=False,
)
"""Every blinded value that was signed, by its mark, which begins with its month (`signed_once`)."""

postings = sa.Table(
    "postings",
    metadata,
    sa.Column("posting", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("reference", sa.LargeBinary(16), nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("link", sa.LargeBinary(32), nullable=False),
)
"""`link`: a hash over the link before it and everything in the posting (`postings.link_of`)."""

ledger = sa.Table(
    "ledger",
    metadata,
    sa.Column("posting", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("book", sa.String(64), primary_key=True),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

merchant_lines = sa.Table(
    "merchant_lines",
    metadata,
    sa.Column("posting", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("merchant", sa.String(32), nullable=False),
    sa.Column("line", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("pending", sa.BigInteger, nullable=False),
    sa.Column("available", sa.BigInteger, nullable=False),
    sa.Column("reserved", sa.BigInteger, nullable=False),
    sa.Index("ix_merchant_lines", "merchant", "line", unique=True),
)
"""A merchant's statement: a line for each posting with its money, with the sums of its books after it."""

payouts = sa.Table(
    "payouts",
    metadata,
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

checkpoints = sa.Table(
    "checkpoints",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("posting", sa.Integer, nullable=False),
    sa.Column("link", sa.LargeBinary(32), nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
)

checked_books = sa.Table(
    "checked_books",
    metadata,
    sa.Column("book", sa.String(64), primary_key=True),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""The books' sums at the last checkpoint."""

payments = sa.Table(
    "payments",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String(8), nullable=False),
    sa.Column("faults", sa.Integer, nullable=False),
)
"""Whether money moves (`payments.PAYMENTS`): the newest row says, `running` where there is none."""

balances = sa.Table(
    "balances",
    metadata,
    sa.Column("account", sa.Integer, primary_key=True),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.CheckConstraint("amount >= 0", name="no_negative_balance"),
)

top_ups = sa.Table(
    "top_ups",
    metadata,
    sa.Column("id", sa.LargeBinary(16), primary_key=True),
    sa.Column("account", sa.Integer, nullable=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("brand", sa.String(16), nullable=False),
    sa.Column("last_four", sa.String(4), nullable=False),
    sa.Column("charge", sa.String(200), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("code", sa.String(32), nullable=False),
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("ended", sa.BigInteger),
    sa.Column("due", sa.BigInteger, index=True),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Index("ix_top_ups_account_created", "account", "created"),
)
"""Charges of cards, and all that is kept of one. `due`: when the gateway is asked next, NULL when never."""

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.LargeBinary(16), primary_key=True),
    sa.Column("type", sa.String(32), nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

unpublished = sa.Table(
    "unpublished",
    metadata,
    sa.Column("event", sa.LargeBinary(16), primary_key=True),
    sqlite_with_rowid=False,
)

announced_keys = sa.Table(
    "announced_keys",
    metadata,
    sa.Column("owner", sa.String(32), primary_key=True),
    sa.Column("kind", sa.String(8), primary_key=True),
    sa.Column("slot", sa.BigInteger, primary_key=True),
    sa.Column("commitment", sa.LargeBinary(32), primary_key=True),
    sa.Column("ends", sa.BigInteger),
    sqlite_with_rowid=False,
)
"""Keys that have had their event; coin and ticket keys are in `issuer_keys`. `ends`: NULL for the log key."""

operator_actions = sa.Table(
    "operator_actions",
    metadata,
    sa.Column("id", sa.LargeBinary(16), primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("action", sa.String(32), nullable=False),
    sa.Column("subject", sa.String(128), nullable=False, index=True),
    sa.Column("reason", sa.String(500), nullable=False),
    sa.Column("salt", sa.LargeBinary(16), nullable=False),
)

totals = sa.Table(
    "totals",
    metadata,
    sa.Column("at", sa.BigInteger, primary_key=True),
    sa.Column("orders", sa.BigInteger, nullable=False),
    sa.Column("coins", sa.LargeBinary),
)
"""`coins`: the published totals, a packed list of `CoinTotal`."""

# --- Restored wallets ----------------------------------------------------------------------------------

issued = sa.Table(
    "issued",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("account", sa.Integer, nullable=False, index=True),
    sa.Column("operation", sa.LargeBinary(16), nullable=False),
    sa.Column("month", sa.String(7), nullable=False),
)
"""Which account each withdrawal's signatures went to, for a wallet that is restored."""

restores = sa.Table(
    "restores",
    metadata,
    sa.Column("account", sa.Integer, primary_key=True),
    sa.Column("operation", sa.LargeBinary(16), primary_key=True),
    sa.Column("count", sa.Integer, nullable=False),
)
"""How often a wallet of each account was restored."""

claims = sa.Table(
    "claims",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("operation", sa.LargeBinary(16), nullable=False),
    sa.Column("order_id", sa.LargeBinary(16), nullable=False, index=True),
)
"""Which order each refund claim was for, for a wallet that is restored."""

spent_chunks = sa.Table(
    "spent_chunks",
    metadata,
    sa.Column("key_id", sa.LargeBinary(8), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("used", sa.Integer, nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
    sa.Column("due", sa.SmallInteger, index=True),
)
"""The public spent set as it stands on the bus; `due` where it is to be published, else NULL."""
