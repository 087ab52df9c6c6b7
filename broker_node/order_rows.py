"""Orders as rows: read, recognised, and taken a step on.

A step is an update that names every state which it may start from (`common.states.BROKER_ORDER`); who asks
for it has read the row in the same transaction.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from broker_node import schema
from common.errors import RefusedError
from common.states import BROKER_ORDER, sources, step
from common.store import Row, Tx, one_of

_ORDERS: Final = sa.select(schema.orders).where(
    schema.orders.c.order_id.in_(sa.bindparam("wanted", expanding=True))
)
_STANDING: Final = sa.select(
    schema.orders.c.order_id,
    schema.orders.c.merchant,
    schema.orders.c.state,
    schema.orders.c.captured_at,
    schema.orders.c.status_lock,
).where(schema.orders.c.order_id.in_(sa.bindparam("wanted", expanding=True)))
_TAKEN: Final = sa.union_all(
    *(
        sa.select(column.label("id")).where(column.in_(sa.bindparam("wanted", expanding=True)))
        for column in (schema.payouts.c.payout_id, schema.operations.c.id)
    )
)
_FORGET_BODY: Final = sa.delete(schema.order_bodies).where(
    schema.order_bodies.c.order_id == sa.bindparam("of")
)


def by_id(tx: Tx, order_ids: Sequence[bytes]) -> dict[bytes, Row]:
    """Read orders; what is not there is left out."""
    return {row["order_id"]: row for row in tx.among(_ORDERS, order_ids)}


def standing(tx: Tx, order_ids: Sequence[bytes]) -> dict[bytes, Row]:
    """Read of orders whose they are and where they stand, for what asks no more of many."""
    return {row["order_id"]: row for row in tx.among(_STANDING, order_ids)}


def taken(tx: Tx, order_ids: Sequence[bytes]) -> set[bytes]:
    """Give those ids that no order may have, since something else was posted under them.

    Payouts are, and until references were drawn at random the keys of operations were.
    """
    return {row["id"] for row in tx.among(_TAKEN, order_ids)}


def get(tx: Tx, order_id: bytes) -> Row:
    """Read one order. Raises `RefusedError`: `not_found`."""
    row = by_id(tx, [order_id]).get(order_id)
    if row is None:
        raise RefusedError("not_found")
    return row


def check_status(row: Row | None, secret: bytes) -> Row:
    """Give the order that the status secret opens. Raises `RefusedError`."""
    return _opened(row, "status_lock", secret)


def check_claim(row: Row | None, secret: bytes) -> Row:
    """Give the order that the claim secret opens. Raises `RefusedError`."""
    return _opened(row, "claim_lock", secret)


def _opened(row: Row | None, lock: str, secret: bytes) -> Row:
    if row is None:
        raise RefusedError("not_found")
    if not hmac.compare_digest(row[lock], hashlib.sha256(secret).digest()):
        raise RefusedError("wrong_secret")
    return row


def _moving(state: str, **values: Any) -> sa.Update:
    return (
        sa.update(schema.orders)
        .where(schema.orders.c.order_id == sa.bindparam("of"))
        .where(one_of(schema.orders.c.state, sources(BROKER_ORDER, state)))
        .values(state=state, **values)
    )


_TOLD_NEXT: Final = {"due": sa.bindparam("next"), "attempts": 0}
_CAPTURE: Final = _moving(
    "captured", captured_at=sa.bindparam("at"), settle_at=sa.bindparam("settles"), **_TOLD_NEXT
)
_MAKE_REFUNDABLE: Final = _moving("refundable", refunded=schema.orders.c.amount, **_TOLD_NEXT)
_SETTLE: Final = _moving("settled", settle_at=None)
_FREEZE: Final = _moving("disputed", settle_at=None, **_TOLD_NEXT)


def capture(tx: Tx, changes: Sequence[Mapping[str, Any]]) -> None:
    """Capture held orders: `of`, `next` (when the merchant is told again), `at`, `settles`."""
    tx.step(_CAPTURE, changes)


def make_refundable(tx: Tx, changes: Sequence[Mapping[str, Any]]) -> None:
    """Give held orders back to their customers, and erase their sealed parts: `of`, `next`."""
    tx.step(_MAKE_REFUNDABLE, changes)


def settle(tx: Tx, rows: Sequence[Row]) -> None:
    """Make what is left of captured orders the merchant's."""
    for row in rows:
        step(BROKER_ORDER, row["state"], "settled")
    tx.step(_SETTLE, [{"of": row["order_id"]} for row in rows])


def freeze(tx: Tx, changes: Sequence[Mapping[str, Any]]) -> None:
    """Let nothing of captured orders settle: `of`, `next`."""
    tx.step(_FREEZE, changes)


def make_due(tx: Tx, order_id: bytes, now: int) -> None:
    """Have a merchant told now, and again until it has stored it."""
    tx.execute(
        sa.update(schema.orders).where(schema.orders.c.order_id == order_id).values(due=now, attempts=0)
    )


def forget_bodies(tx: Tx, order_ids: Sequence[bytes]) -> None:
    """Erase sealed parts that no merchant has to be shown any more."""
    tx.each(_FORGET_BODY, [{"of": order_id} for order_id in order_ids])
