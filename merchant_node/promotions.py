"""The merchant's discount codes: made, listed, removed. The running node sees each change at once.

    promotions.add("SUMMER", rate=1000, ends=..., use_limit=100)

A code cannot be changed: whoever was told its terms has them. Remove it and make another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
from msgspec import Meta

from common import clock, messages
from common.config import WHOLE_IN_BASIS_POINTS
from common.errors import NotFoundError, UsageError
from common.store import Store, Tx
from merchant_node import schema
from merchant_node.catalog import read_on_sale
from merchant_node.discounts import Discount

_BY_CODE = sa.select(schema.discounts).where(schema.discounts.c.code == sa.bindparam("of"))
_ALL = sa.select(schema.discounts).order_by(schema.discounts.c.code)
_REMOVE = sa.delete(schema.discounts).where(schema.discounts.c.code == sa.bindparam("of"))


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What a merchant may write about a code, and its bounds (`merchant_node.discounts.Discount`)."""

    code: messages.DiscountCode
    rate: Annotated[int, Meta(ge=0, le=WHOLE_IN_BASIS_POINTS)]
    amount: messages.Price
    starts: messages.Time
    ends: messages.Time | None
    use_limit: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None
    minimum: messages.Price
    sku: Annotated[str, Meta(max_length=64)]
    category: messages.ShortText


class Promotions:
    """Works on the merchant's store; each call is one transaction."""

    def __init__(self, store: Store, now: Callable[[], int] = clock.now_ms) -> None:
        self._store = store
        self._now = now

    def add(
        self,
        code: str,
        *,
        rate: int = 0,
        amount: int = 0,
        starts: int = 0,
        ends: int | None = None,
        use_limit: int | None = None,
        minimum: int = 0,
        sku: str = "",
        category: str = "",
    ) -> Discount:
        """Make a code; `rate` in basis points or `amount` in minor units, times in milliseconds.

        Raises `UsageError` for terms that make no sense or a code that is there, `NotFoundError` where it
        would cover nothing that is on sale.
        """
        terms = _terms(
            {
                "code": code,
                "rate": rate,
                "amount": amount,
                "starts": starts,
                "ends": ends,
                "use_limit": use_limit,
                "minimum": minimum,
                "sku": sku,
                "category": category,
            },
            self._now(),
        )
        with self._store.immediate() as tx:
            if tx.one(_BY_CODE, {"of": code}) is not None:
                raise UsageError(f"{code} is there already", "Remove it first, or take another name.")
            row = {**msgspec.structs.asdict(terms), "used": 0}
            tx.execute(sa.insert(schema.discounts), row)
            discount = _find(tx, code)
            if not any(discount.covers(product.record) for product in read_on_sale(tx)):
                raise NotFoundError(
                    f"{code} would cover nothing that is on sale", "`product list` shows SKUs and categories."
                )
        return discount

    def remove(self, code: str) -> None:
        """Make a code unknown. Orders that used it stay as they are. Raises `NotFoundError`."""
        with self._store.immediate() as tx:
            _find(tx, code)
            tx.changed(_REMOVE, {"of": code})

    def all(self) -> list[Discount]:
        """Give every code, by its name."""
        with self._store.immediate() as tx:
            return [Discount.of(row) for row in tx.all(_ALL)]


def _terms(fields: dict[str, Any], now: int) -> Terms:
    try:
        terms = msgspec.convert(fields, Terms)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"a discount code cannot be like this: {error}",
            "A code has 4 to 32 of A-Z, 0-9 and '-', and does not begin with '-'.",
        ) from error
    if (terms.rate > 0) == (terms.amount > 0):
        raise UsageError("a code takes off either a percentage or an amount", "Give one of the two, above 0.")
    if terms.ends is not None and terms.ends <= max(terms.starts, now):
        raise UsageError("a code that is over before it begins, or is over now, takes nothing off")
    return terms


def _find(tx: Tx, code: str) -> Discount:
    row = tx.one(_BY_CODE, {"of": code})
    if row is None:
        raise NotFoundError(f"no discount code {code}", "`discount list` shows them all.")
    return Discount.of(row)
