"""What merchants called themselves, and what the buyer is called on invoices."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.add_column("order_secrets", sa.Column("merchant_name", sa.LargeBinary))
    op.create_table(
        "buyer",
        sa.Column("name", sa.LargeBinary, nullable=False),
        sa.Column("address", sa.LargeBinary, nullable=False),
    )
