"""Which keys have had their event, and what the last published totals were."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "announced_keys",
        sa.Column("owner", sa.String(32), primary_key=True),
        sa.Column("kind", sa.String(8), primary_key=True),
        sa.Column("slot", sa.BigInteger, primary_key=True),
        sa.Column("commitment", sa.LargeBinary(32), primary_key=True),
        sa.Column("ends", sa.BigInteger),
        sqlite_with_rowid=False,
    )
    op.add_column("totals", sa.Column("coins", sa.LargeBinary))
