"""What the books have to say about orders, and what they say.

    state                       escrow              pending              available + commission
    held                        amount              -                    -
    captured, disputed          refunded            amount - refunded    -
    settled                     refunded            -                    amount - refunded
    refundable, refunded        refunded            -                    -

Those are the sums of what was posted under the order's id, whose coins are always its amount, taken: no
order without its hold. What its customer has claimed since leaves escrow under the claim's reference, so
that the book of escrow holds `refunded - claimed` of every order, and the amount of those that are held.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import sqlalchemy as sa

from broker_node import schema
from broker_node.mint import owner_of
from broker_node.postings import COMMISSION, ESCROW, class_of, pending_book
from common.store import Tx

PENDING: Final = frozenset({"captured", "disputed"})
"""States of orders whose money, but for what was given back, is pending."""
PAID: Final = frozenset({"settled"})


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
_SPENT: Final = (
    sa.select(schema.spent.c.owner, sa.func.sum(schema.issuer_keys.c.value).label("total"))
    .join(schema.issuer_keys, schema.issuer_keys.c.key_id == schema.spent.c.key_id)
    .where(schema.issuer_keys.c.purpose == "coin")
    .group_by(schema.spent.c.owner)
)


def sum_faults(tx: Tx, books: Mapping[str, int]) -> Iterator[str]:
    """Compare escrow and pending with the sums over all orders."""
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


def faults(tx: Tx) -> Iterator[str]:
    """Compare each order with its entries, and with the coins that it spent."""
    spent = {owner: int(total) for owner, total in tx.tuples(_SPENT)}
    said = tx.tuples(_SAID)
    reference, *sums = next(said, _END)
    # Both come sorted by id: one pass over both, whatever their number.
    for order_id, state, amount, given_back, claimed in tx.tuples(_ORDERS):
        while reference < order_id:
            reference, *sums = next(said, _END)
        found = sums if reference == order_id else NOTHING
        name = f"order {order_id.hex()}"
        left = amount - given_back
        expected = [
            -amount,
            amount if state == "held" else given_back,
            left if state in PENDING else 0,
            left if state in PAID else 0,
        ]
        if found[0] != -amount:
            yield f"{name} is {state}, and has no hold of its amount"
        elif found != expected:
            yield f"{name} is {state}, but its entries are those of another state"
        if (paid := spent.get(owner_of("order", order_id), 0)) != amount:
            yield f"{name} has spent coins of {paid} for {amount}"
        if not 0 <= claimed <= given_back <= amount:
            yield f"{name} has {given_back} of {amount} given back and {claimed} claimed"


NOTHING: Final = [0, 0, 0, 0]
_END: Final = (b"\xff" * 17, *NOTHING)
