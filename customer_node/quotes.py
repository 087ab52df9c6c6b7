"""Quotes: what lines would cost at a merchant now, checked before anybody sees them.

Rule 1. A quote counts only if it answers what was asked, line by line, and every figure in it follows from
price, quantity, discount and tax rate (`common.amounts`). It is not signed and proves nothing later: what
an order names are the signed records.

Rule 2. A discount code goes to the merchant whose code it is, sealed, and to nobody else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from common import messages
from common.amounts import LineAmounts, add_up, line_amounts, total_of
from common.errors import RefusedError, UntrustedError, UsageError
from customer_node.context import Context
from customer_node.figures import sums_of, tax_views
from customer_node.rejections import quote_error
from customer_node.shop import Shop, Visit
from customer_node.views import QuoteLineView, QuoteView


@dataclass(frozen=True)
class Terms:
    """What is agreed with one merchant beside the lines: a discount code, and the total that was shown.

    Without a code nothing is taken off; without a total, whatever the lines come to is paid.
    """

    code: str = ""
    total: int | None = None


@dataclass(frozen=True)
class Asked:
    """So many of a product; `price` is the one that was shown before, None where none was."""

    sku: str
    quantity: int
    title: str
    price: int | None


class Quotes:
    """Asks merchants what lines would cost."""

    def __init__(self, context: Context, shop: Shop) -> None:
        self._context = context
        self._shop = shop

    def ask(self, asked: Mapping[str, Sequence[Asked]], codes: Mapping[str, str]) -> QuoteView:
        """Quote lines, by merchant, each with the code for that merchant, where there is one.

        Raises `UsageError` for a code of a merchant that is not asked, and as `fetch_quote` does.
        """
        strangers = sorted(set(codes) - set(asked))
        if strangers:
            raise UsageError(f"There is a discount code for {strangers[0]}, and nothing to buy there.")
        quotes = {
            merchant: self._shop.at(merchant, partial(_fetch, lines=lines, code=codes.get(merchant, "")))
            for merchant, lines in asked.items()
        }
        sums = add_up([figures for quote in quotes.values() for figures in _figures(quote)])
        return QuoteView(
            lines=tuple(
                _line_view(merchant, line, quoted)
                for merchant, quote in quotes.items()
                for line, quoted in zip(asked[merchant], quote.lines, strict=True)
            ),
            totals={merchant: quote.total for merchant, quote in quotes.items()},
            codes=dict(codes),
            subtotal=sums.subtotal,
            discount=sums.discount,
            taxes=tax_views(sums.taxes),
            total=sums.total,
            currency=self._context.profile.market.currency,
            valid_until=min((quote.valid_until for quote in quotes.values()), default=0),
        )


def check_code(code: str) -> str:
    """Give a discount code as it is sent. Raises `UsageError`."""
    spelled = code.strip().upper()
    try:
        return msgspec.convert(spelled, messages.DiscountCode)
    except msgspec.ValidationError:
        raise UsageError(
            f"{code!r} is no discount code.", "It has 4 to 32 letters, digits and hyphens."
        ) from None


def fetch_quote(visit: Visit, lines: Sequence[tuple[str, int]], code: str) -> messages.Quote:
    """Ask what so many of each SKU cost.

    Raises what `rejections` says for a refusal, `UntrustedError`, and what a visit raises.
    """
    asked = [messages.QuoteLine(sku=sku, quantity=quantity) for sku, quantity in lines]
    answer = visit.answer(messages.GetQuote(lines=asked, code=code))
    currency = visit.context.profile.market.currency
    if isinstance(answer, messages.OrderRejected):
        raise quote_error(visit.merchant.id, answer, currency)
    if not isinstance(answer, messages.Quote):
        raise UntrustedError(f"{visit.merchant.id} answered something else than what was asked.")
    if [(line.sku, line.quantity) for line in answer.lines] != list(lines) or answer.currency != currency:
        raise UntrustedError(f"{visit.merchant.id} quotes something else than what was asked.")
    if not _adds_up(answer) or (answer.discount and not code):
        raise UntrustedError(f"What {visit.merchant.id} quotes does not add up.")
    return answer


def _adds_up(quote: messages.Quote) -> bool:
    try:
        lines = _figures(quote)
        sums = total_of(lines)
    except RefusedError:
        return False
    figures = [(line.amount, line.tax) for line in quote.lines]
    shown = (quote.subtotal, quote.discount, quote.taxes, quote.total)
    return figures == [(line.amount, line.tax) for line in lines] and shown == sums_of(sums)


def _figures(quote: messages.Quote) -> list[LineAmounts]:
    return [
        line_amounts(line.unit_price, line.quantity, line.discount, line.tax.rate) for line in quote.lines
    ]


def _fetch(visit: Visit, *, lines: Sequence[Asked], code: str) -> messages.Quote:
    return fetch_quote(visit, [(line.sku, line.quantity) for line in lines], code)


def _line_view(merchant: str, asked: Asked, quoted: messages.QuotedLine) -> QuoteLineView:
    return QuoteLineView(
        merchant=merchant,
        sku=quoted.sku,
        title=asked.title,
        quantity=quoted.quantity,
        unit_price=quoted.unit_price,
        discount=quoted.discount,
        amount=quoted.amount,
        tax_rate=quoted.tax.rate,
        tax=quoted.tax.amount,
        stock=quoted.stock,
        previous_price=asked.price if asked.price != quoted.unit_price else None,
    )
