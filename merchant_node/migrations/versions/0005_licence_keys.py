"""Licence keys, and which lines were sold with some."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "licence_keys",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("sku", sa.String(64), nullable=False),
        sa.Column("key", sa.Text, nullable=False, unique=True),
        sa.Column("order_id", sa.LargeBinary(16), index=True),
        sa.Column("position", sa.Integer),
        sqlite_autoincrement=True,
    )
    op.create_index("licence_keys_free", "licence_keys", ["sku", "order_id", "number"])
    op.add_column("order_lines", sa.Column("key_count", sa.Integer, nullable=False, server_default="0"))
