"""Discount codes: what they take off, when they count, and how often they were used.

Rule 1. Whoever knows a code may use it; nothing ties it to a person. It travels in the sealed order alone,
so that the broker sees a total and never why.

Rule 2. A use is counted in the transaction that accepts its order, and given back in the one in which the
order becomes void. A batch reads its codes once, counts in memory, and writes back one update per code;
the update itself holds the limit.

Rule 3. Who names a code exactly is told what is wrong with it, since a person has to know. A code whose
time has not come, and one that was removed, is unknown: guessing finds out nothing of use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from common.amounts import percent_off, spread
from common.messages import ProductRecord
from common.store import Row, Tx
from merchant_node import schema
from merchant_node.refusals import OfferRefusedError

_BY_CODE: Final = sa.select(schema.discounts).where(
    schema.discounts.c.code.in_(sa.bindparam("codes", expanding=True))
)
_USE: Final = (
    sa.update(schema.discounts)
    .where(
        schema.discounts.c.number == sa.bindparam("of"),
        sa.or_(
            schema.discounts.c.use_limit.is_(None),
            schema.discounts.c.used + sa.bindparam("uses") <= schema.discounts.c.use_limit,
        ),
    )
    .values(used=schema.discounts.c.used + sa.bindparam("uses"))
)
_ADD_USE: Final = sa.insert(schema.discount_uses)
_USED: Final = sa.select(schema.discount_uses.c.order_id, schema.discount_uses.c.discount).where(
    schema.discount_uses.c.order_id.in_(sa.bindparam("ids", expanding=True))
)
_GIVE_BACK: Final = (
    sa.update(schema.discounts)
    .where(schema.discounts.c.number == sa.bindparam("of"))
    .values(used=schema.discounts.c.used - sa.bindparam("uses"))
)


@dataclass(frozen=True)
class Discount:
    """A code. Either `rate` (basis points) or `amount` (minor units, once per order) is more than 0.

    It counts from `starts` until before `ends`, both in milliseconds; None has no end. `use_limit` None is
    no limit. `minimum` is what the order's lines cost at least before the discount. `sku` and `category`
    say which lines it covers; both empty is all of them.
    """

    number: int
    code: str
    rate: int
    amount: int
    starts: int
    ends: int | None
    use_limit: int | None
    used: int
    minimum: int
    sku: str
    category: str

    @classmethod
    def of(cls, row: Row) -> Discount:
        """Read a row."""
        return cls(**row)

    def lasts(self, now: int) -> bool:
        """Tell whether it is not over yet."""
        return self.ends is None or now < self.ends

    def covers(self, record: ProductRecord) -> bool:
        """Tell whether it takes something off this product's price."""
        return self.sku in ("", record.sku) and self.category in ("", record.category)

    def parts(self, records: Sequence[ProductRecord], subtotals: Sequence[int]) -> list[int]:
        """Give what it takes off each line. Raises `OfferRefusedError`."""
        if sum(subtotals) < self.minimum:
            raise OfferRefusedError("code_minimum", price=self.minimum)
        covered = [
            subtotal if self.covers(record) else 0
            for record, subtotal in zip(records, subtotals, strict=True)
        ]
        if not any(covered):
            raise OfferRefusedError("code_unfit")
        return percent_off(covered, self.rate) if self.rate else spread(self.amount, covered)

    def reduced(self, records: Iterable[ProductRecord]) -> dict[str, int]:
        """Give the price of one, by SKU, where it takes something off that and leaves something."""
        prices = {
            record.sku: record.price - sum(self.parts([record], [record.price]))
            for record in records
            if self.covers(record) and record.price >= self.minimum
        }
        return {sku: price for sku, price in prices.items() if price}


class Redemptions:
    """The codes of one batch, and what it uses of them."""

    def __init__(self, tx: Tx, codes: Iterable[str]) -> None:
        self._tx = tx
        rows = tx.among(_BY_CODE, {code for code in codes if code})
        self._discounts = {row["code"]: Discount.of(row) for row in rows}
        self._uses: Counter[int] = Counter()

    def find(self, code: str, now: int) -> Discount | None:
        """Give the discount of a code, None where there is no code. Raises `OfferRefusedError`."""
        if not code:
            return None
        discount = self._discounts.get(code)
        if discount is None or now < discount.starts:
            raise OfferRefusedError("code_unknown")
        if not discount.lasts(now):
            raise OfferRefusedError("code_expired")
        used = discount.used + self._uses[discount.number]
        if discount.use_limit is not None and used >= discount.use_limit:
            raise OfferRefusedError("code_used_up")
        return discount

    def use(self, discount: Discount, order_id: bytes) -> None:
        """Count a use by an accepted order."""
        self._uses[discount.number] += 1
        self._tx.insert(_ADD_USE, {"order_id": order_id, "discount": discount.number})

    def write(self) -> None:
        """Write back what was used."""
        self._tx.step(_USE, [{"of": number, "uses": uses} for number, uses in sorted(self._uses.items())])


def give_back(tx: Tx, order_ids: Iterable[bytes]) -> None:
    """Return the uses of void orders. A code that was removed meanwhile has no row to change."""
    uses = Counter(row["discount"] for row in tx.among(_USED, order_ids))
    tx.each(_GIVE_BACK, [{"of": number, "uses": count} for number, count in sorted(uses.items())])
