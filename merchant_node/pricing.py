"""What lines cost here and now: the same for a quote and for the order that follows it.

Rule 1. Prices and tax rates are those of the signed records on sale, discounts those of the code. The
customer works the same figures out of what it was shown; an order that says others is refused.

Rule 2. An order costs something: one that a discount brings down to nothing is refused, since nothing can
be paid with no coins, and coins are what proves an order.

Rule 3. A quote reserves nothing and is not remembered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from common import config, messages
from common.amounts import LineAmounts, OrderAmounts, line_amounts, total_of
from common.errors import RefusedError
from merchant_node import stock
from merchant_node.catalog import Catalog, Product
from merchant_node.discounts import Discount, Redemptions
from merchant_node.refusals import OfferRefusedError

QUOTE_LIFE_MS: Final = 15 * config.MINUTE_MS


@dataclass(frozen=True)
class Bill:
    """What an order costs: its products, the figures of each line, and their sums."""

    products: Sequence[Product]
    lines: Sequence[LineAmounts]
    sums: OrderAmounts


def find_products(catalog: Catalog, skus: Sequence[str]) -> list[Product]:
    """Give what is on sale under these SKUs. Raises `OfferRefusedError`."""
    products: list[Product] = []
    for sku in skus:
        product = catalog.get(sku)
        if product is None:
            raise OfferRefusedError("not_found", sku)
        products.append(product)
    return products


def make_bill(products: Sequence[Product], quantities: Sequence[int], discount: Discount | None) -> Bill:
    """Work out what so many of each cost. Raises `OfferRefusedError`."""
    records = [product.record for product in products]
    subtotals = [record.price * quantity for record, quantity in zip(records, quantities, strict=True)]
    discounts = [0] * len(records) if discount is None else discount.parts(records, subtotals)
    try:
        lines = [
            line_amounts(record.price, quantity, off, record.tax_rate)
            for record, quantity, off in zip(records, quantities, discounts, strict=True)
        ]
        sums = total_of(lines)
    except RefusedError:
        raise OfferRefusedError("wrong_amount", price=config.MAXIMUM_AMOUNT) from None
    if sums.total == 0:
        raise OfferRefusedError("nothing_to_pay")
    return Bill(products, lines, sums)


def answer_quote(
    catalog: Catalog,
    asked: messages.GetQuote,
    left: Mapping[str, int],
    redemptions: Redemptions,
    currency: str,
    now: int,
) -> messages.Quote | messages.OrderRejected:
    """Answer `GetQuote`; `left` says what remains of what is limited, `now` is the broker's time."""
    try:
        products = find_products(catalog, [line.sku for line in asked.lines])
        discount = redemptions.find(asked.code, now)
        bill = make_bill(products, [line.quantity for line in asked.lines], discount)
    except OfferRefusedError as refused:
        return refused.answer
    until = now + QUOTE_LIFE_MS
    if discount is not None and discount.ends is not None:
        until = min(until, discount.ends)
    return messages.Quote(
        lines=[
            messages.QuotedLine(
                sku=line.sku,
                record=product.record_digest,
                quantity=line.quantity,
                unit_price=product.record.price,
                discount=figures.discount,
                amount=figures.amount,
                tax=figures.tax,
                stock=stock.level(left.get(line.sku)),
            )
            for line, product, figures in zip(asked.lines, products, bill.lines, strict=True)
        ],
        subtotal=bill.sums.subtotal,
        discount=bill.sums.discount,
        taxes=list(bill.sums.taxes),
        total=bill.sums.total,
        currency=currency,
        valid_until=until,
    )
