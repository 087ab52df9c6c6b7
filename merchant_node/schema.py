"""The merchant's tables. Narrow and append-only where they can be; blobs stand apart.

A version of a product is never changed and never deleted: whoever bought it can fetch it, whatever
becomes of the product. `products` says which version is on sale. `stock` has a row only for what is
limited. Nothing here names a customer: an order is an id and a lock.

An order's answer, its lines and its sale go by its number, which rises: a batch of orders then writes the
last page of each table and index, where ids, which are chance, would have it write a page for each order.
What few orders have (a code, licence keys, a refund, a dispute) goes by the id.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

counters = sa.Table(
    "counters",
    metadata,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)
"""`catalog`: when the catalog last changed, in milliseconds. `hello`: the last counter signed.
`statement due` and `statement read`: when the broker is asked for the statement next, and answered last.
`commission`: the operator's share, in basis points, as the broker said then."""

product_versions = sa.Table(
    "product_versions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sku", sa.String(64), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("record", sa.LargeBinary, nullable=False),
    sa.Column("signature", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("sku", "version", name="one_record_per_version"),
)
"""`record`: the packed `ProductRecord`, as signed."""

products = sa.Table(
    "products",
    metadata,
    sa.Column("sku", sa.String(64), primary_key=True),
    sa.Column("current", sa.Integer, sa.ForeignKey("product_versions.id"), nullable=False),
    sa.Column("added", sa.BigInteger, nullable=False),
)

stock = sa.Table(
    "stock",
    metadata,
    sa.Column("sku", sa.String(64), primary_key=True),
    sa.Column("available", sa.Integer, nullable=False),
    sa.CheckConstraint("available >= 0", name="no_negative_stock"),
)

orders = sa.Table(
    "orders",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("order_id", sa.LargeBinary(16), nullable=False, unique=True),
    sa.Column("content_hash", sa.LargeBinary(32), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("fetch_lock", sa.LargeBinary(32), nullable=False),
    sa.Column("cells", sa.BigInteger, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
)
"""`number` rises with each order. `content_hash`: SHA-256 of the whole packed `ForwardOrder`. `at` is cut to
the minute."""

order_answers = sa.Table(
    "order_answers",
    metadata,
    sa.Column("order_number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("verdict", sa.String(16), nullable=False),
    sa.Column("answer", sa.LargeBinary, nullable=False),
)

order_lines = sa.Table(
    "order_lines",
    metadata,
    sa.Column("order_number", sa.Integer, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("version", sa.Integer, sa.ForeignKey("product_versions.id"), nullable=False, index=True),
    sa.Column("sku", sa.String(64), nullable=False),
    sa.Column("quantity", sa.Integer, nullable=False),
    sa.Column("reserved", sa.Integer, nullable=False),
    sa.Column("unit_price", sa.BigInteger, nullable=False),
    sa.Column("discount", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("tax_rate", sa.Integer, nullable=False, server_default="0"),
    sa.Column("first_cell", sa.BigInteger, nullable=False),
    sa.Column("cells", sa.BigInteger, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.LargeBinary(32), nullable=False),
    sa.Column("key_count", sa.Integer, nullable=False, server_default="0"),
)
"""`reserved`: what was taken from the stock, 0 where the product was unlimited then. `discount` is off the
whole line; `tax_rate`, in basis points, is of the tax in what is left. `key_count`: its licence keys."""

licence_keys = sa.Table(
    "licence_keys",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("sku", sa.String(64), nullable=False),
    sa.Column("key", sa.Text, nullable=False, unique=True),
    sa.Column("order_id", sa.LargeBinary(16), index=True),
    sa.Column("position", sa.Integer),
    sa.Index("licence_keys_free", "sku", "order_id", "number"),
    sqlite_autoincrement=True,
)
"""Keys of products, free (without an order) or given to a line of one. Never deleted: see there."""

discounts = sa.Table(
    "discounts",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("code", sa.String(32), nullable=False, unique=True),
    sa.Column("rate", sa.Integer, nullable=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("starts", sa.BigInteger, nullable=False),
    sa.Column("ends", sa.BigInteger),
    sa.Column("use_limit", sa.Integer),
    sa.Column("used", sa.Integer, nullable=False),
    sa.Column("minimum", sa.BigInteger, nullable=False),
    sa.Column("sku", sa.String(64), nullable=False),
    sa.Column("category", sa.String(200), nullable=False),
    sa.CheckConstraint("used >= 0", name="no_negative_uses"),
    sa.CheckConstraint("use_limit IS NULL OR used <= use_limit", name="no_use_beyond_the_limit"),
    sqlite_autoincrement=True,
)
"""Discount codes (`merchant_node.discounts.Discount`). A number is never given twice: an order of a code
that was removed gives nothing back to one that is called the same."""

discount_uses = sa.Table(
    "discount_uses",
    metadata,
    sa.Column("order_id", sa.LargeBinary(16), primary_key=True),
    sa.Column("discount", sa.Integer, nullable=False),
)
"""Which discount an accepted order used."""

sales = sa.Table(
    "sales",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("order_number", sa.Integer, nullable=False, unique=True),
    sa.Column("at", sa.BigInteger, nullable=False),
)
"""One row for each captured order, in the order of their capture."""

statement_lines = sa.Table(
    "statement_lines",
    metadata,
    sa.Column("line", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", sa.BigInteger, nullable=False, index=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("reference", sa.LargeBinary(16), nullable=False),
    sa.Column("pending", sa.BigInteger, nullable=False),
    sa.Column("available", sa.BigInteger, nullable=False),
    sa.Column("reserved", sa.BigInteger, nullable=False),
)
"""The broker's statement, as far as it was read: the sums are those after a line."""

payouts = sa.Table(
    "payouts",
    metadata,
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
"""`due`: when the broker is to be asked about it next, NULL when never. `code`: why it was refused."""

refunds = sa.Table(
    "refunds",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("refund", sa.LargeBinary(16), nullable=False, unique=True),
    sa.Column("order_id", sa.LargeBinary(16), nullable=False, index=True),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("given", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.String(500), nullable=False),
    sa.Column("code", sa.String(32)),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("due", sa.BigInteger, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
)
"""`amount`: what was asked for, 0 for all that is left. `given`: what was given back. `code`: why not."""

disputes = sa.Table(
    "disputes",
    metadata,
    sa.Column("order_id", sa.LargeBinary(16), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("opened", sa.BigInteger, nullable=False),
    sa.Column("decide_by", sa.BigInteger, nullable=False),
    sa.Column("arrived", sa.LargeBinary),
    sa.Column("answer", sa.Text),
    sa.Column("due", sa.BigInteger),
    sa.Column("attempts", sa.Integer, nullable=False),
)
"""`arrived`: what the customer claims to have got, unproven. `answer`: what this merchant says to it; `due`:
when that is sent (again), NULL when not."""
