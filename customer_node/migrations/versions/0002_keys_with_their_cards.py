"""Slots keep the whole key's hash and the signed card that showed it.

What was remembered until now, ids of 8 bytes without a card, proves nothing and is forgotten.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.drop_table("key_slots")
    op.create_table(
        "cards",
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("card", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "key_slots",
        sa.Column("holder", sa.Text, primary_key=True),
        sa.Column("purpose", sa.Text, primary_key=True),
        sa.Column("slot", sa.BigInteger, primary_key=True),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
        sa.Column("card", sa.LargeBinary, sa.ForeignKey("cards.digest"), nullable=False),
    )
    op.create_index("ix_key_slots_card", "key_slots", ["card"])
