"""Numbers of refused swaps and orders, to be given again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.create_table(
        "freed_numbers",
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("era", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("month", sa.Text, primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("usable_from", sa.BigInteger, nullable=False),
    )
