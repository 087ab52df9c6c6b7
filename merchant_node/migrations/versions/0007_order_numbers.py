"""An order's answer, lines and sale go by its number, which rises, not by its id, which is chance."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    # SQLite's indexes keep their names when a table is renamed.
    op.drop_index("ix_order_lines_version", "order_lines")
    for name in ("order_answers", "order_lines", "sales"):
        op.rename_table(name, _old(name))
    answers = op.create_table(
        "order_answers",
        sa.Column("order_number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("answer", sa.LargeBinary, nullable=False),
    )
    lines = op.create_table(
        "order_lines",
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
    sales = op.create_table(
        "sales",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("order_number", sa.Integer, nullable=False, unique=True),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
    for table in (answers, lines, sales):
        _fill(table)
        op.drop_table(_old(table.name))


def _fill(table: sa.Table) -> None:
    kept = [column.name for column in table.columns if column.name != "order_number"]
    old = sa.table(_old(table.name), sa.column("order_id"), *(sa.column(name) for name in kept))
    orders = sa.table("orders", sa.column("number"), sa.column("order_id"))
    rows = (
        sa.select(orders.c.number, *(old.c[name] for name in kept))
        .join_from(old, orders, old.c.order_id == orders.c.order_id)
        .order_by(orders.c.number)
    )
    op.execute(sa.insert(table).from_select(["order_number", *kept], rows))
    before, after = (_count(each) for each in (old, table))
    if before != after:
        # Nothing that we wrote ever had no order. The store is as it was: all of this is one transaction.
        raise ValueError(f"rows of {table.name} that belong to no order: {before - after}")


def _count(table: sa.FromClause) -> int:
    return int(op.get_bind().scalar(sa.select(sa.func.count()).select_from(table)) or 0)


def _old(table: str) -> str:
    return f"{table}_by_id"
