"""Stock: how many are left of what is limited, and what one batch takes of it.

Rule. A product without a row is unlimited. A batch reads the rows that it needs once, counts in memory,
and writes back one update per product; that no other writer comes in between is what the transaction is for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

import sqlalchemy as sa

from common.messages import StockLevel
from common.store import Tx
from merchant_node import schema

LOW: Final = 3

_AVAILABLE = sa.select(schema.stock.c.sku, schema.stock.c.available).where(
    schema.stock.c.sku.in_(sa.bindparam("skus", expanding=True))
)
_TAKE = (
    sa.update(schema.stock)
    .where(schema.stock.c.sku == sa.bindparam("of"), schema.stock.c.available >= sa.bindparam("taken"))
    .values(available=schema.stock.c.available - sa.bindparam("taken"))
)
_GIVE_BACK = (
    sa.update(schema.stock)
    .where(schema.stock.c.sku == sa.bindparam("of"))
    .values(available=schema.stock.c.available + sa.bindparam("given"))
)


def available(tx: Tx, skus: Iterable[str]) -> dict[str, int]:
    """Give what is left of each of `skus` that is limited."""
    return {row["sku"]: row["available"] for row in tx.among(_AVAILABLE, skus)}


def level(left: int | None) -> StockLevel:
    """Tell customers no more than this; None is unlimited."""
    if left is None or left > LOW:
        return "in"
    return "low" if left else "out"


class Reservations:
    """What one batch of orders takes."""

    def __init__(self, tx: Tx, skus: Iterable[str]) -> None:
        self._tx = tx
        self._left = available(tx, skus)
        self._taken: Counter[str] = Counter()

    def left(self, sku: str) -> int | None:
        """How many can still be sold, or None where there is no limit."""
        return self._left.get(sku)

    def take(self, sku: str, quantity: int) -> int:
        """Take `quantity`, which the caller has seen to be there. Tells how many were reserved."""
        if sku not in self._left:
            return 0
        self._left[sku] -= quantity
        self._taken[sku] += quantity
        return quantity

    def write(self) -> None:
        """Write back what was taken."""
        self._tx.step(_TAKE, [{"of": sku, "taken": taken} for sku, taken in sorted(self._taken.items())])


def give_back(tx: Tx, quantities: Mapping[str, int]) -> None:
    """Return what void orders had reserved. A product that is unlimited by now has no row to change."""
    for sku, given in sorted(quantities.items()):
        tx.changed(_GIVE_BACK, {"of": sku, "given": given})
