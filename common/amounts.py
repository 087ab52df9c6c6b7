"""What a line of an order costs, and what an order does: pure, integers alone, the same for both sides.

Rule 1. Prices are what a consumer pays: the tax is in them. A line's amount is its price times its
quantity less its discount; the tax is taken out of that amount, never put on top.

    base = amount * 10000 / (10000 + rate), rounded half up       tax = amount - base

Rule 2. Rounding happens once, in each line. A total is the sum of its rounded lines, and so it adds up
whichever way one adds: lines, or bases and taxes by rate.

Rule 3. A discount is never negative and never more than its line.

>>> line = line_amounts(999, 2, 200, 1900)
>>> line.amount, line.tax.base, line.tax.amount
(1798, 1511, 287)
>>> total_of([line, line_amounts(450, 1, 0, 700)]).total
2248
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from common.config import MAXIMUM_AMOUNT, MAXIMUM_QUANTITY, WHOLE_IN_BASIS_POINTS
from common.errors import RefusedError
from common.messages import Tax
from common.money import divide_half_up


@dataclass(frozen=True)
class LineAmounts:
    """A line's figures, in minor units. `subtotal` is before the discount, `amount` what is paid."""

    subtotal: int
    discount: int
    amount: int
    tax: Tax


@dataclass(frozen=True)
class OrderAmounts:
    """The sums over an order's lines. `taxes` has one entry per rate, in the order of the rates."""

    subtotal: int
    discount: int
    taxes: tuple[Tax, ...]
    total: int


def line_amounts(unit_price: int, quantity: int, discount: int, tax_rate: int) -> LineAmounts:
    """Work a line out. Raises `RefusedError` (`wrong_amount`) for what no line can be."""
    subtotal = unit_price * quantity
    if not (
        unit_price >= 0
        and 1 <= quantity <= MAXIMUM_QUANTITY
        and subtotal <= MAXIMUM_AMOUNT
        and 0 <= discount <= subtotal
        and 0 <= tax_rate <= WHOLE_IN_BASIS_POINTS
    ):
        raise RefusedError("wrong_amount", "a price, quantity, discount or rate that no line can have")
    amount = subtotal - discount
    base = divide_half_up(amount * WHOLE_IN_BASIS_POINTS, WHOLE_IN_BASIS_POINTS + tax_rate)
    return LineAmounts(subtotal, discount, amount, Tax(rate=tax_rate, base=base, amount=amount - base))


def total_of(lines: Sequence[LineAmounts]) -> OrderAmounts:
    """Add an order up. Raises `RefusedError` (`wrong_amount`) where it is more than a market can handle."""
    sums = add_up(lines)
    if sums.subtotal > MAXIMUM_AMOUNT:
        raise RefusedError("wrong_amount", "more than a market can handle")
    return sums


def add_up(lines: Sequence[LineAmounts]) -> OrderAmounts:
    """Add up any lines, also those of several orders."""
    taxes: defaultdict[int, list[Tax]] = defaultdict(list)
    for line in lines:
        taxes[line.tax.rate].append(line.tax)
    return OrderAmounts(
        subtotal=sum(line.subtotal for line in lines),
        discount=sum(line.discount for line in lines),
        taxes=tuple(
            Tax(rate=rate, base=sum(tax.base for tax in of_rate), amount=sum(tax.amount for tax in of_rate))
            for rate, of_rate in sorted(taxes.items())
        ),
        total=sum(line.amount for line in lines),
    )


def percent_off(subtotals: Sequence[int], rate: int) -> list[int]:
    """Give each line its part of a discount in basis points, half up per line."""
    return [divide_half_up(subtotal * rate, WHOLE_IN_BASIS_POINTS) for subtotal in subtotals]


def spread(amount: int, subtotals: Sequence[int]) -> list[int]:
    """Spread a fixed discount over lines in proportion; the parts make up the whole, to the last unit.

    What the lines do not have cannot be taken off: more than their sum takes their sum.
    """
    whole = sum(subtotals)
    amount = min(amount, whole)
    parts: list[int] = []
    reached = given = 0
    for subtotal in subtotals:
        reached += subtotal
        # Where the sum so far stands, rounded: a part lies between 0 and its line, the last one ends it.
        due = divide_half_up(amount * reached, whole) if whole else 0
        parts.append(due - given)
        given = due
    return parts
