"""Discount codes, which orders used them, and discount and tax of each line."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    with op.batch_alter_table("order_lines") as lines:
        lines.add_column(sa.Column("discount", sa.BigInteger, nullable=False, server_default="0"))
        lines.add_column(sa.Column("tax_rate", sa.Integer, nullable=False, server_default="0"))
    op.create_table(
        "discounts",
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
    op.create_table(
        "discount_uses",
        sa.Column("order_id", sa.LargeBinary(16), primary_key=True),
        sa.Column("discount", sa.Integer, nullable=False),
    )
