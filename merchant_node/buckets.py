"""Size buckets: how many cells a delivery has, so that its length says little about which file it is.

The broker sees an order's price and, later, how many cells are fetched. A file's cell count is raised to
a rung of a fixed ladder (1, 2, 3, 4, 6, 8, 12, 16, 24, ...), and within one price rungs are merged
upwards until at least `group` products share one.

Rule 1. No product pays more than `overhead` times its own cells. Where that leaves a group too small, it
stays too small, and `merchant privacy` says so.

Rule 2. What was sold keeps its bucket: those who bought it and those who will are not to be told apart.

Padding each size by a little (Padmé, PURBs 2019) would leave 257 distinguishable sizes up to 1 MiB: no
cover against someone who knows the catalog.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from common.money import format_amount


@dataclass(frozen=True)
class Sized:
    """A product as far as buckets go: `needs` cells for its content; `fixed` is the bucket of a sold one."""

    sku: str
    price: int
    needs: int
    fixed: int | None = None


def rung(cells: int) -> int:
    """Give the lowest rung of the ladder that is not below `cells`: 2**n or 3 * 2**n."""
    power = 1 << (cells - 1).bit_length() if cells > 1 else 1
    three_quarters = power // 4 * 3
    return three_quarters if three_quarters >= cells else power


def assign(products: Iterable[Sized], group: int, overhead: int) -> dict[str, int]:
    """Give each SKU its bucket, in cells."""
    by_price: defaultdict[int, list[Sized]] = defaultdict(list)
    for product in products:
        by_price[product.price].append(product)
    buckets: dict[str, int] = {}
    for same_price in by_price.values():
        buckets.update(_assign_one_price(same_price, group, overhead))
    return buckets


def _assign_one_price(products: Sequence[Sized], group: int, overhead: int) -> dict[str, int]:
    members: defaultdict[int, list[Sized]] = defaultdict(list)
    for product in products:
        members[product.fixed if product.fixed is not None else rung(product.needs)].append(product)
    rungs = sorted(members)
    for low, high in pairwise(rungs):
        if len(members[low]) < group:
            _lift(members, low, high, members[low], overhead)
    # What is left too small above may be joined from below, as long as those who stay are enough or none.
    for low, high in reversed(list(pairwise(rungs))):
        missing = group - len(members[high])
        if members[high] and missing > 0:
            largest_first = sorted(members[low], key=lambda each: (-each.needs, each.sku))
            joining = [each for each in largest_first if _may_move(each, high, overhead)]
            spare = len(members[low]) - group
            if spare >= missing:
                _lift(members, low, high, joining[:missing], overhead)
            elif len(joining) == len(members[low]):
                _lift(members, low, high, joining, overhead)
    return {each.sku: bucket for bucket, there in members.items() for each in there}


def _may_move(product: Sized, bucket: int, overhead: int) -> bool:
    return product.fixed is None and bucket <= overhead * product.needs


def _lift(
    members: defaultdict[int, list[Sized]], low: int, high: int, candidates: Iterable[Sized], overhead: int
) -> None:
    moving = {each.sku for each in candidates if _may_move(each, high, overhead)}
    members[high] = members[high] + [each for each in members[low] if each.sku in moving]
    members[low] = [each for each in members[low] if each.sku not in moving]


@dataclass(frozen=True)
class Privacy:
    """How well one product hides: `others` share its price and its bucket. `advice` is empty if enough.

    With a `code`, the price is what one of it costs with that discount code, and the others are those that
    can cost as much, with a code or without.
    """

    sku: str
    price: int
    cells: int
    others: int
    advice: str
    code: str = ""


def privacy(
    products: Sequence[Sized], buckets: dict[str, int], group: int, overhead: int, currency: str
) -> list[Privacy]:
    """Say for each product among how many it hides, and what would help."""
    crowds: defaultdict[tuple[int, int], int] = defaultdict(int)
    for product in products:
        crowds[product.price, buckets[product.sku]] += 1
    report: list[Privacy] = []
    for product in products:
        cells = buckets[product.sku]
        crowd = crowds[product.price, cells]
        advice = ""
        if crowd < group:
            advice = _other_price(product, crowds, group, overhead, currency) or (
                f"offer {group - crowd} more at the same price with "
                f"{_cells(-(-cells // overhead), cells)}, or give files of about this size one price"
            )
        report.append(Privacy(product.sku, product.price, cells, crowd - 1, advice))
    return report


def _cells(fewest: int, most: int) -> str:
    number = f"{fewest} to {most}" if fewest < most else f"{most}"
    return f"{number} cell" if most == 1 else f"{number} cells"


def discounted_privacy(
    products: Sequence[Sized], buckets: dict[str, int], reduced: Mapping[str, Mapping[str, int]], group: int
) -> list[Privacy]:
    """Say the same of every price that a code makes; `reduced` gives code -> SKU -> price of one."""
    crowds: defaultdict[tuple[int, int], set[str]] = defaultdict(set)
    for product in products:
        crowds[product.price, buckets[product.sku]].add(product.sku)
    for prices in reduced.values():
        for sku, price in prices.items():
            crowds[price, buckets[sku]].add(sku)
    report: list[Privacy] = []
    for code, prices in reduced.items():
        for sku, price in prices.items():
            others = len(crowds[price, buckets[sku]] - {sku})
            advice = (
                "" if others + 1 >= group else "let the code take a percentage off everything of this price"
            )
            report.append(Privacy(sku, price, buckets[sku], others, advice, code))
    return report


def _other_price(
    product: Sized, crowds: dict[tuple[int, int], int], group: int, overhead: int, currency: str
) -> str:
    """Find the price at which most products have a bucket that this one may take."""
    joinable = [
        (-crowd, abs(price - product.price), price)
        for (price, bucket), crowd in crowds.items()
        if price != product.price
        and crowd + 1 >= group
        and product.needs <= bucket <= overhead * product.needs
    ]
    if not joinable:
        return ""
    crowd, _, price = min(joinable)
    return f"sell it at {format_amount(price, currency)}, as {-crowd} products of about this size are"
