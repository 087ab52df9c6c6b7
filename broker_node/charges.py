"""The rows of top-ups: what is kept of charges, and the steps that they take (`states.BROKER_TOP_UP`)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from broker_node import schema
from common.config import DAY_MS
from common.states import BROKER_TOP_UP, UnlistedStepError, sources
from common.store import Row, Tx

INSERT: Final = sa.insert(schema.top_ups)
_FIND = sa.select(schema.top_ups).where(schema.top_ups.c.id == sa.bindparam("wanted"))


def top_up_id(account: int, operation: bytes) -> bytes:
    """Give the id of an account's operation: nobody can occupy another account's."""
    return hashlib.sha256(b"top-up\0" + account.to_bytes(8, "big") + operation).digest()[:16]


def find(tx: Tx, identifier: bytes) -> Row | None:
    """Give a top-up's row."""
    return tx.one(_FIND, {"wanted": identifier})


@dataclass(frozen=True)
class StateCount:
    """How many top-ups are in a state, of how much, and since when the oldest."""

    state: str
    count: int
    amount: int
    oldest: int


def counted(tx: Tx) -> Sequence[StateCount]:
    """Count all top-ups by state, as the operator sees them."""
    columns = schema.top_ups.c
    rows = tx.all(
        sa.select(
            columns.state,
            sa.func.count().label("count"),
            sa.func.sum(columns.amount).label("amount"),
            sa.func.min(columns.created).label("oldest"),
        )
        .group_by(columns.state)
        .order_by(columns.state)
    )
    return [StateCount(row["state"], row["count"], int(row["amount"]), row["oldest"]) for row in rows]


def new_row(identifier: bytes, account: int, now: int) -> dict[str, object]:
    """Give the row of a new top-up, its state left out."""
    return {
        "id": identifier,
        "account": account,
        "amount": 0,
        "brand": "",
        "last_four": "",
        "charge": "",
        "code": "",
        "created": now,
        "ended": None,
        "due": None,
        "attempts": 0,
    }


def known(tx: Tx, identifier: bytes) -> Row:
    """Give the row of a top-up that there must be."""
    row = find(tx, identifier)
    if row is None:
        raise UnlistedStepError("a top-up that has no row")
    return row


def step(tx: Tx, identifier: bytes, new: str, **values: object) -> bool:
    """Take a step where the table lists it from the present state, and tell whether it happened."""
    statement = (
        sa.update(schema.top_ups)
        .where(schema.top_ups.c.id == identifier)
        .where(schema.top_ups.c.state.in_(sources(BROKER_TOP_UP, new)))
        .values(state=new, **values)
    )
    return tx.changed(statement) == 1


def tried(tx: Tx, account: int, now: int) -> int:
    """Count an account's top-ups of the last 24 hours, whatever became of them."""
    return int(
        tx.scalar(
            sa.select(sa.func.count())
            .select_from(schema.top_ups)
            .where(schema.top_ups.c.account == account, schema.top_ups.c.created > now - DAY_MS)
        )
    )
