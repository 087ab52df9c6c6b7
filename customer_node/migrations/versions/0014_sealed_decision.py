"""Why a dispute ended is sealed: it may tell what was bought."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from customer_node.sealed_columns import cipher_of

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    with op.batch_alter_table("orders") as batch:
        batch.alter_column(
            "decision", type_=sa.LargeBinary, existing_nullable=False, existing_server_default=None
        )
    connection = op.get_bind()
    stored = sa.table("orders", sa.column("rowid", sa.Integer), sa.column("decision", sa.LargeBinary))
    for number, value in connection.execute(sa.select(stored.c.rowid, stored.c.decision)).all():
        sealed = cipher_of(connection.dialect).seal("orders.decision", value)
        connection.execute(sa.update(stored).where(stored.c.rowid == number).values(decision=sealed))
