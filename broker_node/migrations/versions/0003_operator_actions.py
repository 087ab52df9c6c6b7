"""What the operator did, and why."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "operator_actions",
        sa.Column("id", sa.LargeBinary(16), primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(128), nullable=False, index=True),
        sa.Column("reason", sa.String(500), nullable=False),
        sa.Column("salt", sa.LargeBinary(16), nullable=False),
    )
