"""When a restoring came to its end."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.add_column("restores", sa.Column("ended", sa.BigInteger))
