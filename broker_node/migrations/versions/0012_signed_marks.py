"""Marks of the blinded values that were signed.

What was signed before has none: an answer that is stored does not say which key each of its signatures is by.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.create_table(
        "signed_marks",
        sa.Column("mark", sa.LargeBinary(16), primary_key=True),
        sqlite_with_rowid=False,
    )
