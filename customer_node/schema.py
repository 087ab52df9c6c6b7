"""The profile's tables: a wallet, sessions, a cart, orders and what was delivered.

Rule 1. A number that must never be used twice (a token's counter) is stored before anything is sent.
Rule 2. What may have to be repeated byte for byte is stored as bytes.
Rule 3. An account's session and the visits to merchants lie in two tables, and nothing refers from the
one to the other.
Rule 4. Secrets, and what was bought in words, are sealed (`sealed_columns`); the rest is looked up by.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from customer_node.sealed_columns import Sealed, SealedText

metadata: Final = sa.MetaData()

# --- Keys seen so far ----------------------------------------------------------------------------------

merchants: Final = sa.Table(
    "merchants",
    metadata,
    sa.Column("merchant", sa.Text, primary_key=True),
    sa.Column("fingerprint", sa.LargeBinary, nullable=False),
    sa.Column("first_seen", sa.BigInteger, nullable=False),
)
"""Each merchant's identity key as it was at first sight."""

cards: Final = sa.Table(
    "cards",
    metadata,
    sa.Column("digest", sa.LargeBinary, primary_key=True),
    sa.Column("card", sa.LargeBinary, nullable=False),
)
"""Signed cards by their SHA-256: each is the first that showed some slot's key, and goes with the last."""

key_slots: Final = sa.Table(
    "key_slots",
    metadata,
    sa.Column("holder", sa.Text, primary_key=True),
    sa.Column("purpose", sa.Text, primary_key=True),
    sa.Column("slot", sa.BigInteger, primary_key=True),
    sa.Column("key", sa.LargeBinary, nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False),
    sa.Column("card", sa.LargeBinary, sa.ForeignKey("cards.digest"), nullable=False, index=True),
)
"""The one key per calendar slot that a holder has shown, as SHA-256 of the whole public key."""

issuer_keys: Final = sa.Table(
    "issuer_keys",
    metadata,
    sa.Column("key_id", sa.LargeBinary, primary_key=True),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("value", sa.BigInteger, nullable=False),
    sa.Column("month", sa.Text, nullable=False),
    sa.Column("public", sa.LargeBinary, nullable=False),
    sa.Column("next_counter", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("purpose", "value", "month"),
)
"""Blind-signature keys, one per purpose, value and month; `next_counter` is the next unused token."""

coin_totals: Final = sa.Table(
    "coin_totals",
    metadata,
    sa.Column("value", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("month", sa.Text, primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("out", sa.BigInteger, nullable=False),
)
"""How many coins of a kind were out at the last boundary `at`, as the broker's card says."""

evidence: Final = sa.Table(
    "evidence",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("content", Sealed("evidence.content"), nullable=False),
)
"""What somebody signed or sent that breaks a promise: kept to be shown."""

# --- Wallet --------------------------------------------------------------------------------------------

tokens: Final = sa.Table(
    "tokens",
    metadata,
    sa.Column("key_id", sa.LargeBinary, sa.ForeignKey("issuer_keys.key_id"), primary_key=True),
    sa.Column("counter", sa.BigInteger, primary_key=True),
    sa.Column("operation", sa.LargeBinary, nullable=False, index=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False, index=True),
    sa.Column("holder", sa.LargeBinary, index=True),
    sa.Column("blind_signature", Sealed("tokens.blind_signature")),
    sa.Column("usable_from", sa.BigInteger, nullable=False),
)
"""Coins and tickets. `operation` asked for the token, `holder` (order, swap, session) will spend it.

One that is asked for and was restored has its signature already, and as `holder` where it came back from.
"""

tending: Final = sa.Table(
    "tending",
    metadata,
    sa.Column("what", sa.Text, primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),
)
"""When the wallet does what by itself: times drawn beforehand; and, as `account` and as `shop`, when a
session of that side was last used (`apart`)."""

operations: Final = sa.Table(
    "operations",
    metadata,
    sa.Column("operation", sa.LargeBinary, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False, index=True),
    sa.Column("request", Sealed("operations.request"), nullable=False),
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("account", sa.LargeBinary),
)
"""Withdrawals, swaps and refund claims: the exact message, repeated until it is answered.

`account` stands at withdrawals alone: only that account's session may repeat them.
"""

numbers: Final = sa.Table(
    "numbers",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("era", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("month", sa.Text, primary_key=True),
    sa.Column("next", sa.BigInteger, nullable=False),
)
"""The next unused number of swaps and orders, of which their ids follow (`numbers`)."""

freed_numbers: Final = sa.Table(
    "freed_numbers",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("era", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("month", sa.Text, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("usable_from", sa.BigInteger, nullable=False),
)
"""Numbers that were given, and of whose swap or order the broker keeps nothing: they are given again."""

eras: Final = sa.Table(
    "eras",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("era", sa.BigInteger, nullable=False, unique=True),
)
"""The eras that this profile has begun by restoring; the newest one counts, and none means the first."""

# --- Restoring -----------------------------------------------------------------------------------------

restores: Final = sa.Table(
    "restores",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("account", sa.LargeBinary, unique=True),
    sa.Column("operation", sa.LargeBinary, nullable=False),
    sa.Column("count", sa.BigInteger),
    sa.Column("fetched", sa.BigInteger, nullable=False),
    sa.Column("ended", sa.BigInteger),
)
"""Accounts whose coins were asked for: how often the broker says that was done, the last batch, and when all
that there was to be looked for had been, in ms; nothing while any of it is under way.

A profile that was made from words begins with a row without an account.
"""

searches: Final = sa.Table(
    "searches",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("era", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("month", sa.Text, primary_key=True),
    sa.Column("next", sa.BigInteger, nullable=False),
    sa.Column("misses", sa.BigInteger, nullable=False),
    sa.Column("found", sa.BigInteger, nullable=False, server_default="0"),
)
"""Which numbers of swaps and orders were asked for: the next one, and how many in a row were unknown."""

unmatched: Final = sa.Table(
    "unmatched",
    metadata,
    sa.Column("signature", sa.LargeBinary, primary_key=True),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("usable_from", sa.BigInteger, nullable=False),
)
"""Blind signatures whose token was not found yet, or which are another wallet's."""

restored_orders: Final = sa.Table(
    "restored_orders",
    metadata,
    sa.Column("order_id", sa.LargeBinary, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("due", sa.BigInteger, nullable=False),
    sa.Column("claimed", sa.BigInteger, nullable=False),
    sa.Column("deadline", sa.BigInteger, nullable=False),
    sa.Column("claim", sa.LargeBinary),
)
"""Orders that were found by their number: what they brought back. What they were for is not known."""

# --- Sessions ------------------------------------------------------------------------------------------


def _session_columns(table: str) -> list[sa.Column[object]]:
    return [
        sa.Column("session", sa.LargeBinary, nullable=False),
        sa.Column("keys", Sealed(f"{table}.keys"), nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("idle_ms", sa.BigInteger, nullable=False),
        sa.Column("last_used", sa.BigInteger, nullable=False),
    ]


account_sessions: Final = sa.Table(
    "account_sessions",
    metadata,
    sa.Column("place", sa.Text, primary_key=True),
    sa.Column("account", sa.LargeBinary, nullable=False),
    *_session_columns("account_sessions"),
)
"""The account's session, in its only place. `account` is a keyed hash of its name."""

visits: Final = sa.Table(
    "visits",
    metadata,
    sa.Column("place", sa.Text, primary_key=True),
    *_session_columns("visits"),
)
"""Shop sessions: one per merchant visited, one per order taken up again."""

top_ups: Final = sa.Table(
    "top_ups",
    metadata,
    sa.Column("operation", sa.LargeBinary, primary_key=True),
    sa.Column("account", sa.LargeBinary),
    sa.Column("state", sa.Text, nullable=False, index=True),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("brand", SealedText("top_ups.brand"), nullable=False),
    sa.Column("last_four", SealedText("top_ups.last_four"), nullable=False),
    sa.Column("charge", SealedText("top_ups.charge"), nullable=False),
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("heard", sa.BigInteger, nullable=False, server_default="0"),
)
"""Charges of cards that this profile asked for; of a card its brand and last four digits, no more. `heard` is
when the broker last said that the gateway has not answered, 0 where it never did."""

# --- Cart and orders -----------------------------------------------------------------------------------

cart_lines: Final = sa.Table(
    "cart_lines",
    metadata,
    sa.Column("merchant", sa.Text, primary_key=True),
    sa.Column("sku", sa.Text, primary_key=True),
    sa.Column("quantity", sa.Integer, nullable=False),
    sa.Column("title", SealedText("cart_lines.title"), nullable=False),
    sa.Column("unit_price", sa.BigInteger, nullable=False),
    sa.Column("tax_rate", sa.Integer, nullable=False, server_default="0"),
    sa.Column("added", sa.BigInteger, nullable=False),
)

records: Final = sa.Table(
    "records",
    metadata,
    sa.Column("digest", sa.LargeBinary, primary_key=True),
    sa.Column("merchant", sa.Text, nullable=False),
    sa.Column("record", Sealed("records.record"), nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
)
"""Signed product records that an order names."""

purchases: Final = sa.Table(
    "purchases",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("merchant", sa.Text, primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("code", sa.Text, nullable=False, server_default=""),
)
"""What an idempotency key stands for: SHA-256 of one merchant's lines, and a discount code. `origin` is
`cart` or `direct`."""

orders: Final = sa.Table(
    "orders",
    metadata,
    sa.Column("order_id", sa.LargeBinary, primary_key=True),
    sa.Column("merchant", sa.Text, nullable=False),
    sa.Column("purchase", sa.Text, nullable=False, index=True),
    sa.Column("state", sa.Text, nullable=False, index=True),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("deadline", sa.BigInteger, nullable=False),
    sa.Column("visit", sa.LargeBinary, nullable=False),
    sa.Column("audit", sa.LargeBinary),
    sa.Column("failure", sa.Text),
    sa.Column("failure_sku", sa.Text),
    sa.Column("failure_value", sa.BigInteger),
    sa.Column("standing", sa.Text),
    sa.Column("settles", sa.BigInteger, nullable=False, default=0),
    sa.Column("decide_by", sa.BigInteger, nullable=False, default=0),
    sa.Column("finding", sa.Text, nullable=False, server_default=""),
    sa.Column("decision", SealedText("orders.decision"), nullable=False, default=""),
    sa.Column("refunded", sa.BigInteger, nullable=False, default=0),
    sa.Column("claimed", sa.BigInteger, nullable=False, default=0),
    sa.Column("heard", sa.BigInteger, nullable=False, default=0),
    sa.Column("code", sa.Text, nullable=False, server_default=""),
)
"""What the broker said last, at `heard` (a refusal: on the broker's clock): the order's state there
(`standing`), when its money settles by itself (0: it does not), by when a dispute is decided, what its
evidence proves (which names no product) and why it ended, how much of it was given back. `claimed` is how
much of that is in the wallet.
"""

order_lines: Final = sa.Table(
    "order_lines",
    metadata,
    sa.Column("order_id", sa.LargeBinary, sa.ForeignKey("orders.order_id"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("sku", sa.Text, nullable=False),
    sa.Column("title", SealedText("order_lines.title"), nullable=False),
    sa.Column("record", sa.LargeBinary, sa.ForeignKey("records.digest"), nullable=False),
    sa.Column("quantity", sa.Integer, nullable=False),
    sa.Column("unit_price", sa.BigInteger, nullable=False),
    sa.Column("discount", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("tax_rate", sa.Integer, nullable=False, server_default="0"),
)

order_secrets: Final = sa.Table(
    "order_secrets",
    metadata,
    sa.Column("order_id", sa.LargeBinary, sa.ForeignKey("orders.order_id"), primary_key=True),
    sa.Column("secret", Sealed("order_secrets.secret"), nullable=False),
    sa.Column("answer_secret", Sealed("order_secrets.answer_secret"), nullable=False),
    sa.Column("request_hash", sa.LargeBinary, nullable=False),
    sa.Column("place_order", Sealed("order_secrets.place_order"), nullable=False),
    sa.Column("merchant_certificate", sa.LargeBinary, nullable=False),
    sa.Column("merchant_name", SealedText("order_secrets.merchant_name")),
)
"""`merchant_name`: what the merchant's card called it then."""

receipts: Final = sa.Table(
    "receipts",
    metadata,
    sa.Column("order_id", sa.LargeBinary, sa.ForeignKey("orders.order_id"), primary_key=True),
    sa.Column("receipt", Sealed("receipts.receipt"), nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
)

buyer: Final = sa.Table(
    "buyer",
    metadata,
    sa.Column("name", SealedText("buyer.name"), nullable=False),
    sa.Column("address", SealedText("buyer.address"), nullable=False),
)
"""At most one row: what the owner of this profile wants to be called on invoices. Nobody is sent it."""

claims: Final = sa.Table(
    "claims",
    metadata,
    sa.Column("operation", sa.LargeBinary, primary_key=True),
    sa.Column("order_id", sa.LargeBinary, sa.ForeignKey("orders.order_id"), nullable=False, index=True),
    sa.Column("amount", sa.BigInteger, nullable=False),
)
"""Refund claims: which order each is for, and how much it asks for. Their messages are in `operations`."""

disputes: Final = sa.Table(
    "disputes",
    metadata,
    sa.Column("order_id", sa.LargeBinary, sa.ForeignKey("orders.order_id"), primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("request", Sealed("disputes.request"), nullable=False),
    sa.Column("opened", sa.BigInteger, nullable=False),
)
"""Disputes that this profile has opened: the exact message, repeated until it is answered."""

order_keys: Final = sa.Table(
    "order_keys",
    metadata,
    sa.Column("order_id", sa.LargeBinary, sa.ForeignKey("orders.order_id"), primary_key=True),
    sa.Column("sku", sa.Text, primary_key=True),
    sa.Column("text", SealedText("order_keys.text"), nullable=False),
)
"""Licence keys that were delivered, as the text of their file."""

wrong_files: Final = sa.Table(
    "wrong_files",
    metadata,
    sa.Column("order_id", sa.LargeBinary, sa.ForeignKey("orders.order_id"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("sku", sa.Text, nullable=False),
    sa.Column("keys", sa.Boolean, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
)
"""Files of an order that came with another `digest` than the one signed, the latest of each; `keys` is
whether it was to be licence keys. What came lies beside the store (`wrong_content`)."""

deliveries: Final = sa.Table(
    "deliveries",
    metadata,
    sa.Column("order_id", sa.LargeBinary, sa.ForeignKey("orders.order_id"), primary_key=True),
    sa.Column("folder", sa.Text, nullable=False),
    sa.Column("done", sa.BigInteger, nullable=False),
)
"""How far a delivery is: the first `done` cells of the order's stream are on disk."""

delivery_files: Final = sa.Table(
    "delivery_files",
    metadata,
    sa.Column("order_id", sa.LargeBinary, sa.ForeignKey("deliveries.order_id"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
)
"""The plain file name that each line has in its delivery's folder."""
