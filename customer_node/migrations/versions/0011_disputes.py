"""By when a dispute is decided, and why it ended."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("orders", sa.Column("decide_by", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("orders", sa.Column("decision", sa.Text, nullable=False, server_default=""))
