"""Refusals that are kept."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.create_table(
        "refusals",
        sa.Column("request", sa.LargeBinary(32), primary_key=True),
        sa.Column("answer", sa.LargeBinary, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False, index=True),
        sqlite_with_rowid=False,
    )
