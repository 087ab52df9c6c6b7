"""Secrets are sealed under a key that follows from the seed; swaps and orders are numbered."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from customer_node.sealed_columns import cipher_of

revision = "0006"
down_revision = "0005"

SEALED = {
    "evidence": ("content",),
    "tokens": ("blind_signature",),
    "operations": ("request",),
    "account_sessions": ("keys",),
    "visits": ("keys",),
    "cart_lines": ("title",),
    "records": ("record",),
    "order_lines": ("title",),
    "order_secrets": ("secret", "answer_secret", "place_order"),
    "receipts": ("receipt",),
    "disputes": ("request",),
}
TEXTS = ("cart_lines", "order_lines")


def upgrade() -> None:
    op.create_table(
        "numbers",
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("era", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("month", sa.Text, primary_key=True),
        sa.Column("next", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "eras",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("era", sa.BigInteger, nullable=False, unique=True),
    )
    for table in TEXTS:
        with op.batch_alter_table(table) as batch:
            batch.alter_column("title", type_=sa.LargeBinary, existing_nullable=False)
    for table, columns in SEALED.items():
        for column in columns:
            _seal(table, column)


def _seal(table: str, column: str) -> None:
    connection = op.get_bind()
    stored = sa.table(table, sa.column("rowid", sa.Integer), sa.column(column, sa.LargeBinary))
    content = stored.c[column]
    rows = connection.execute(sa.select(stored.c.rowid, content).where(content.is_not(None))).all()
    for number, value in rows:
        sealed = cipher_of(connection.dialect).seal(f"{table}.{column}", value)
        connection.execute(sa.update(stored).where(stored.c.rowid == number).values({column: sealed}))
