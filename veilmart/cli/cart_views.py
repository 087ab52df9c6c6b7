"""How a cart and a quote are shown."""

from __future__ import annotations

from collections.abc import Iterable

from common.money import format_amount, format_rate
from customer_node.views import CartView, QuoteView, TaxView
from veilmart.output import Output, Table, View


def show_cart(shown: Output, cart: CartView) -> None:
    """Show the cart, with its sums."""
    rows = [
        (
            line.merchant,
            line.sku,
            line.title,
            line.quantity,
            format_amount(line.unit_price, cart.currency),
            format_amount(line.amount, cart.currency),
        )
        for line in cart.lines
    ]
    if not rows:
        shown.show(cart, "the cart is empty")
        return
    table = Table(("merchant", "sku", "title", "quantity", "price", "amount"), rows)
    together = f"together {format_amount(cart.total, cart.currency)}"
    shown.show(cart, table, together, *tax_lines(cart.taxes, cart.currency))


def quote_views(quote: QuoteView) -> list[View]:
    """Give a quote's lines and sums."""
    rows = [
        (
            line.merchant,
            line.sku,
            line.title,
            line.quantity,
            format_amount(line.unit_price, quote.currency),
            "" if line.previous_price is None else format_amount(line.previous_price, quote.currency),
            line.stock,
            format_amount(-line.discount, quote.currency) if line.discount else "",
            format_amount(line.amount, quote.currency),
        )
        for line in quote.lines
    ]
    names = ("merchant", "sku", "title", "quantity", "price", "before", "stock", "discount", "amount")
    together = f"together {total_of(quote)}"
    return [Table(names, rows), together, *tax_lines(quote.taxes, quote.currency)]


def total_of(quote: QuoteView) -> str:
    """Give a quote's total, and what discounts take off."""
    total = format_amount(quote.total, quote.currency)
    if not quote.discount:
        return total
    subtotal, discount = (format_amount(each, quote.currency) for each in (quote.subtotal, quote.discount))
    return f"{total} ({subtotal} less {discount} by {', '.join(sorted(quote.codes.values()))})"


def tax_lines(taxes: Iterable[TaxView], currency: str) -> list[str]:
    """Say for each rate what tax is in a total."""
    return [
        f"in it {format_rate(tax.rate)} tax on {format_amount(tax.base, currency)}: "
        f"{format_amount(tax.amount, currency)}"
        for tax in taxes
        if tax.rate
    ]


def plain(table: Table) -> str:
    """Give a table for stderr: a row in a line."""
    return "\n".join("  ".join(str(cell) for cell in row if cell != "") for row in table.rows)
