"""What the books have to say about orders, and what they say.

    state                       escrow              pending              available + commission
    held                        amount              -                    -
    captured, disputed          refunded            amount - refunded    -
    settled                     refunded            -                    amount - refunded
    refundable, refunded        refunded            -                    -

Those are the sums of what was posted under the order's id, whose coins are always its amount, taken: no
order without its hold. What its customer has claimed since leaves escrow under the claim's reference, so
that the book of escrow holds `refunded - claimed` of every order, and the amount of those that are held.
Merchants' available money and commission leave their books for payouts alone: together they hold what is
left of every settled order.

The other way round, no money is put into escrow but under an order's id, and no coin is spent but by an order
or a swap: an order that is gone is missed by both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from broker_node import schema
from broker_node.mint import owner_of
from broker_node.postings import COMMISSION, ESCROW, PAYOUTS, class_of, pending_book
from common.store import Tx

PENDING: Final = frozenset({"captured", "disputed"})
"""States of orders whose money, but for what was given back, is pending."""
PAID: Final = frozenset({"settled"})
EARNED: Final = frozenset({"available", "reserved", PAYOUTS, COMMISSION})
"""Books that what has settled is in, wherever it went."""


def _sum_of(*classes: str) -> sa.ColumnElement[int]:
    book = schema.ledger.c.book
    named = [book == name if name in {ESCROW, COMMISSION} else book.like(f"{name}:%") for name in classes]
    return sa.func.coalesce(sa.func.sum(sa.case((sa.or_(*named), schema.ledger.c.amount))), 0)


_SAID: Final = (
    sa.select(
        schema.postings.c.reference,
        *(_sum_of("coins"), _sum_of(ESCROW), _sum_of("pending"), _sum_of("available", COMMISSION)),
    )
    .join(schema.orders, schema.orders.c.order_id == schema.postings.c.reference)
    .join(schema.ledger, schema.ledger.c.posting == schema.postings.c.posting)
    .group_by(schema.postings.c.reference)
    .order_by(schema.postings.c.reference)
)
_ORDERS: Final = sa.select(
    *(schema.orders.c[name] for name in ("order_id", "state", "amount", "refunded", "claimed"))
).order_by(schema.orders.c.order_id)
_HELD_FOR_NOTHING: Final = (
    sa.select(schema.postings.c.posting, schema.ledger.c.amount)
    .join(schema.ledger, schema.ledger.c.posting == schema.postings.c.posting)
    .outerjoin(schema.orders, schema.orders.c.order_id == schema.postings.c.reference)
    .where(schema.ledger.c.book == ESCROW, schema.ledger.c.amount > 0)
    .where(schema.orders.c.order_id.is_(None))
    .order_by(schema.postings.c.posting)
)
_SPENT: Final = (
    sa.select(schema.spent.c.owner, sa.func.sum(schema.issuer_keys.c.value).label("total"))
    .join(schema.issuer_keys, schema.issuer_keys.c.key_id == schema.spent.c.key_id)
    .where(schema.issuer_keys.c.purpose == "coin")
    .group_by(schema.spent.c.owner)
)


def sum_faults(tx: Tx, books: Mapping[str, int]) -> Iterator[str]:
    """Compare escrow, pending and what was earned with the sums over all orders."""
    orders = schema.orders.c
    held = sa.case((orders.state == "held", orders.amount), else_=orders.refunded - orders.claimed)
    escrow = int(tx.scalar(sa.select(sa.func.coalesce(sa.func.sum(held), 0))) or 0)
    if books.get(ESCROW, 0) != escrow:
        yield f"escrow is {books.get(ESCROW, 0)}, open orders hold {escrow}"
    pending = {
        pending_book(row["merchant"]): int(row["total"])
        for row in tx.all(
            sa.select(orders.merchant, sa.func.sum(orders.amount - orders.refunded).label("total"))
            .where(orders.state.in_(PENDING))
            .group_by(orders.merchant)
        )
    }
    for book in sorted(pending.keys() | {book for book in books if class_of(book) == "pending"}):
        if books.get(book, 0) != pending.get(book, 0):
            yield f"{book} is {books.get(book, 0)}, orders say {pending.get(book, 0)}"
    left = sa.func.coalesce(sa.func.sum(orders.amount - orders.refunded), 0)
    settled = int(tx.scalar(sa.select(left).where(orders.state.in_(PAID))) or 0)
    earned = sum(amount for book, amount in books.items() if class_of(book) in EARNED)
    if earned != settled:
        yield f"merchants and operator have earned {earned}, settled orders say {settled}"


def faults(tx: Tx) -> Iterator[str]:
    """Compare each order with its entries, and with the coins that it spent; then find what has no order."""
    spent = {owner: int(total) for owner, total in tx.tuples(_SPENT)}
    for order, sums in _with_entries(tx, _ORDERS, _SAID):
        yield from _order_faults(order, sums)
        order_id, _, amount, *_ = order
        if (paid := spent.pop(owner_of("order", order_id), 0)) != amount:
            yield f"{_name(order_id)} has spent coins of {paid} for {amount}"
    yield from _held_for_nothing(tx, 0)
    for (key,) in tx.tuples(sa.select(schema.operations.c.id)):
        spent.pop(key, None)
    for total in spent.values():
        yield f"coins of {total} were spent by no order and no swap that there is"


def new_faults(tx: Tx, after: int) -> Iterator[str]:
    """Compare each order that a posting after this one is about with all of its entries."""
    named = sa.select(schema.postings.c.reference).where(schema.postings.c.posting > after)
    of_these = _ORDERS.where(schema.orders.c.order_id.in_(named))
    for order, sums in _with_entries(tx, of_these, _SAID.where(schema.postings.c.reference.in_(named))):
        yield from _order_faults(order, sums)
    yield from _held_for_nothing(tx, after)


def _with_entries(
    tx: Tx, orders: sa.Select[Any], said: sa.Select[Any]
) -> Iterator[tuple[tuple[Any, ...], Sequence[int]]]:
    """Give orders with the sums of their entries. Both come sorted by id: one pass, whatever their number."""
    entries = tx.tuples(said)
    found = next(entries, _END)
    for order in tx.tuples(orders):
        while found[0] < order[0]:
            found = next(entries, _END)
        yield order, found[1:] if found[0] == order[0] else NOTHING


def _order_faults(order: tuple[Any, ...], found: Sequence[int]) -> Iterator[str]:
    order_id, state, amount, given_back, claimed = order
    left = amount - given_back
    expected = (
        -amount,
        amount if state == "held" else given_back,
        left if state in PENDING else 0,
        left if state in PAID else 0,
    )
    if found[0] != -amount:
        yield f"{_name(order_id)} is {state}, and has no hold of its amount"
    elif tuple(found) != expected:
        yield f"{_name(order_id)} is {state}, but its entries are those of another state"
    if not 0 <= claimed <= given_back <= amount:
        yield f"{_name(order_id)} has {given_back} of {amount} given back and {claimed} claimed"


def _held_for_nothing(tx: Tx, after: int) -> Iterator[str]:
    for posting, amount in tx.tuples(_HELD_FOR_NOTHING.where(schema.postings.c.posting > after)):
        yield f"posting {posting} puts {amount} into escrow for no order that there is"


def _name(order_id: bytes) -> str:
    return f"order {order_id.hex()}"


NOTHING: Final = (0, 0, 0, 0)
_END: Final = (b"\xff" * 17, *NOTHING)
