"""Known devices, second factors, invites, and answers about accounts."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "devices",
        sa.Column("account", sa.Integer, primary_key=True),
        sa.Column("secret_hash", sa.LargeBinary(32), primary_key=True),
        sa.Column("used", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("not_before", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "second_factors",
        sa.Column("account", sa.Integer, primary_key=True),
        sa.Column("secret", sa.LargeBinary(20), nullable=False),
        sa.Column("last_step", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "invites",
        sa.Column("hash", sa.LargeBinary(32), primary_key=True),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("note", sa.String(200), nullable=False),
    )
    op.create_table(
        "account_answers",
        sa.Column("sid", sa.LargeBinary(16), primary_key=True),
        sa.Column("request", sa.LargeBinary(16), primary_key=True),
        sa.Column("answer", sa.LargeBinary, nullable=False),
    )
