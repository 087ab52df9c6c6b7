"""The first tables of the merchant, and its two counters."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    counters = op.create_table(
        "counters",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "product_versions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("sku", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("record", sa.LargeBinary, nullable=False),
        sa.Column("signature", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("sku", "version", name="one_record_per_version"),
    )
    op.create_table(
        "products",
        sa.Column("sku", sa.String(64), primary_key=True),
        sa.Column("current", sa.Integer, sa.ForeignKey("product_versions.id"), nullable=False),
        sa.Column("added", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "stock",
        sa.Column("sku", sa.String(64), primary_key=True),
        sa.Column("available", sa.Integer, nullable=False),
        sa.CheckConstraint("available >= 0", name="no_negative_stock"),
    )
    op.create_table(
        "orders",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("order_id", sa.LargeBinary(16), nullable=False, unique=True),
        sa.Column("content_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("fetch_lock", sa.LargeBinary(32), nullable=False),
        sa.Column("cells", sa.BigInteger, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "order_answers",
        sa.Column("order_id", sa.LargeBinary(16), primary_key=True),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("answer", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "order_lines",
        sa.Column("order_id", sa.LargeBinary(16), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("version", sa.Integer, sa.ForeignKey("product_versions.id"), nullable=False, index=True),
        sa.Column("sku", sa.String(64), nullable=False),
        sa.Column("quantity", sa.Integer, nullable=False),
        sa.Column("reserved", sa.Integer, nullable=False),
        sa.Column("unit_price", sa.BigInteger, nullable=False),
        sa.Column("first_cell", sa.BigInteger, nullable=False),
        sa.Column("cells", sa.BigInteger, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
    )
    op.create_table(
        "sales",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("order_id", sa.LargeBinary(16), nullable=False, unique=True),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(counters, [{"name": "catalog", "value": 0}, {"name": "hello", "value": 0}])
