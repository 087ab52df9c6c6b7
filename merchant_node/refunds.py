"""Refunds: what this merchant gives back, asked for at any time and repeated until the broker has answered.

    queued --RefundTaken--> done
      +------Refused------> refused       nothing was given back; the code says why

Rule 1. A refund is a row before it is a message, so that it can be asked for while broker or bus are away,
also by another process than the running merchant. Its id is the operation: however often it is sent, it is
given back once.

Rule 2. An order's refunds are sent one after the other, in the order in which they were asked for: "all
that is left" means what is left after the ones before it.

Rule 3. The broker's books decide what is left of an order. What this store knows is checked first, so that
a mistake is told at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from common import messages
from common.clock import Random
from common.config import Limits
from common.errors import NotFoundError, RejectedError, UsageError
from common.states import MERCHANT_ORDER, Table, sources
from common.store import Row, Store, Tx, one_of
from merchant_node import schema

REFUND: Final[Table] = {
    "queued": frozenset({"done", "refused"}),
    "done": frozenset(),
    "refused": frozenset(),
}
EVERYTHING: Final = 0
"""As an amount: all that is left of the order."""

LONGEST_REASON: Final = 500
DUE_AT_ONCE: Final = 100

_ADD: Final = sa.insert(schema.refunds)
_FIRST: Final = (
    sa.select(sa.func.min(schema.refunds.c.number))
    .where(schema.refunds.c.state == "queued")
    .group_by(schema.refunds.c.order_id)
)
_DUE: Final = (
    sa.select(schema.refunds)
    .where(schema.refunds.c.number.in_(_FIRST), schema.refunds.c.due <= sa.bindparam("now"))
    .order_by(schema.refunds.c.number)
    .limit(DUE_AT_ONCE)
)
_TOLD: Final = (
    sa.update(schema.refunds)
    .where(schema.refunds.c.refund == sa.bindparam("of"))
    .values(due=sa.bindparam("next"), attempts=schema.refunds.c.attempts + 1)
)
_ORDER_REFUNDED: Final = (
    sa.update(schema.orders)
    .where(schema.orders.c.order_id == sa.bindparam("of"))
    .where(one_of(schema.orders.c.state, sources(MERCHANT_ORDER, "refunded")))
    .values(state="refunded")
)
_REPEATED: Final = 16


@dataclass(frozen=True)
class RefundReport:
    """One refund. `amount` is what was asked for (0: all that is left), `given` what was given back."""

    refund: bytes
    order_id: bytes
    state: str
    amount: int
    given: int
    reason: str
    code: str | None
    at: int


class Refunds:
    """What a person asks for, beside the running merchant; each call is one transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def ask(self, order_id: bytes, amount: int | None, reason: str, now: int, random: Random) -> RefundReport:
        """Queue a refund of `amount` minor units, or of all that is left where that is None.

        Raises `NotFoundError`, `UsageError` for a reason that is empty or too long, `RejectedError` where
        the order was not paid for or less is left of it.
        """
        with self._store.immediate() as tx:
            row = _wanted(tx, order_id, amount, reason, now, random)
            tx.insert(_ADD, row)
        return _report(row)

    def rehearse(
        self, order_id: bytes, amount: int | None, reason: str, now: int, random: Random
    ) -> RefundReport:
        """Give the refund that `ask` would queue, and queue none. Raises as `ask` does."""
        with self._store.snapshot() as tx:
            return _report(_wanted(tx, order_id, amount, reason, now, random))

    def listing(self, order_id: bytes | None = None) -> list[RefundReport]:
        """Give all refunds, or those of one order, the newest first."""
        query = sa.select(schema.refunds).order_by(schema.refunds.c.number.desc())
        if order_id is not None:
            query = query.where(schema.refunds.c.order_id == order_id)
        with self._store.immediate() as tx:
            return [_report(row) for row in tx.all(query)]


def _wanted(
    tx: Tx, order_id: bytes, amount: int | None, reason: str, now: int, random: Random
) -> dict[str, Any]:
    """Give the row of a refund that may be asked for."""
    said = reason.strip()
    if not 0 < len(said) <= LONGEST_REASON or not said.isprintable():
        raise UsageError(f"A reason is one line of 1 to {LONGEST_REASON} characters.", "Say why: --reason.")
    order = tx.one(sa.select(schema.orders).where(schema.orders.c.order_id == order_id))
    if order is None:
        raise NotFoundError("no such order")
    _check_left(tx, order, amount)
    return {
        "refund": random(16),
        "order_id": order_id,
        "state": "queued",
        "amount": EVERYTHING if amount is None else amount,
        "given": 0,
        "reason": said,
        "code": None,
        "at": now,
        "due": 0,
        "attempts": 0,
    }


def _check_left(tx: Tx, order: Row, amount: int | None) -> None:
    if order["state"] not in sources(MERCHANT_ORDER, "refunded"):
        raise RejectedError(f"This order is {order['state']}: there is nothing to give back.")
    others = tx.all(
        sa.select(schema.refunds).where(
            schema.refunds.c.order_id == order["order_id"], schema.refunds.c.state != "refused"
        )
    )
    if any(row["amount"] == EVERYTHING for row in others):
        raise RejectedError("All of this order is being given back already.")
    left = order["amount"] - sum(row["amount"] for row in others)
    if left <= 0 or (amount is not None and not 0 < amount <= left):
        raise RejectedError(f"Of this order {left} minor units are left to give back.", "Name less, or none.")


def _report(row: Row) -> RefundReport:
    names = ("refund", "order_id", "state", "amount", "given", "reason", "code", "at")
    return RefundReport(**{name: row[name] for name in names})


# --- the running merchant --------------------------------------------------------------------------------


def due(tx: Tx, now: int, limits: Limits) -> list[messages.RefundOrder]:
    """Give what has to be sent now, and note when it is due again."""
    rows = tx.rows(_DUE, {"now": now})
    tx.each(
        _TOLD,
        [{"of": row["refund"], "next": now + delay_of(row["attempts"], limits)} for row in rows],
    )
    return [
        messages.RefundOrder(order_id=row["order_id"], refund=row["refund"], amount=row["amount"])
        for row in rows
    ]


def delay_of(attempts: int, limits: Limits) -> int:
    """How long to wait for the broker before it is asked again."""
    return min(limits.reforward_first_ms << min(attempts, _REPEATED), limits.reforward_longest_ms)


def all_due(tx: Tx) -> None:
    """Make everything due at once: a session was opened, and what was sent before may be lost."""
    tx.execute(sa.update(schema.refunds).where(schema.refunds.c.state == "queued").values(due=0, attempts=0))


def taken(tx: Tx, answers: Sequence[messages.RefundTaken]) -> None:
    """Store what the broker gave back; an answer that comes again changes nothing."""
    for answer in answers:
        _end(tx, answer.refund, "done", given=answer.amount)
        order_id = tx.scalar(
            sa.select(schema.refunds.c.order_id).where(schema.refunds.c.refund == answer.refund)
        )
        if order_id is not None and not answer.left:
            tx.changed(_ORDER_REFUNDED, {"of": order_id})


def refused(tx: Tx, refusals: Sequence[messages.Refused]) -> None:
    """Store that nothing was given back."""
    for refusal in refusals:
        _end(tx, refusal.reference, "refused", code=refusal.code)


def _end(tx: Tx, refund: bytes, outcome: str, **values: object) -> None:
    tx.execute(
        sa.update(schema.refunds)
        .where(schema.refunds.c.refund == refund, schema.refunds.c.state.in_(sources(REFUND, outcome)))
        .values(state=outcome, **values)
    )
