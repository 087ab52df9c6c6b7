"""The cart and `buy`.

Rule. A person is shown the total and asked. A script says `--yes`: then what the cart shows is what is
paid, and a price that has changed since is an error, shown with the new prices; the next `buy` takes them.
With a discount code a person is asked about the discounted total, and a script takes what the code gives.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from common.errors import PriceChangedError, UsageError, VeilmartError
from common.money import format_amount
from customer_node import Market
from customer_node.views import OrderView, PurchaseView, QuoteView
from veilmart.cli.cart_views import plain, quote_views, show_cart, total_of
from veilmart.cli.consent import DryRun
from veilmart.cli.customer_browse import Merchant, Sku
from veilmart.cli.homes import Yes
from veilmart.cli.profiles import on_profile
from veilmart.output import IncompleteError, Output, View

app = typer.Typer(add_completion=False, rich_markup_mode=None)
cart_app = typer.Typer(add_completion=False, rich_markup_mode=None, help="The cart, kept in the profile.")
app.add_typer(cart_app, name="cart")

Quantity = Annotated[int, typer.Option(min=1, help="How many licences.")]
Codes = Annotated[
    list[str] | None,
    typer.Option(
        "--code",
        metavar="[MERCHANT=]CODE",
        help="A discount code; with several merchants in the cart, say whose it is. Repeatable.",
    ),
]


@on_profile(cart_app, "add")
def cart_add(shown: Output, market: Market, merchant: Merchant, sku: Sku, quantity: Quantity = 1) -> None:
    """Look a product up and put so many of it into the cart."""
    show_cart(shown, market.cart.add(merchant, sku, quantity))


@on_profile(cart_app, "set")
def cart_set(
    shown: Output,
    market: Market,
    merchant: Merchant,
    sku: Sku,
    quantity: Annotated[int, typer.Argument(min=0, help="0 removes it.")],
) -> None:
    """Change how many of a product are in the cart."""
    show_cart(shown, market.cart.set(merchant, sku, quantity))


@on_profile(cart_app, "remove")
def cart_remove(shown: Output, market: Market, merchant: Merchant, sku: Sku) -> None:
    """Take a product out of the cart."""
    show_cart(shown, market.cart.remove(merchant, sku))


@on_profile(cart_app, "show")
def cart_show(
    shown: Output,
    market: Market,
    *,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Ask the merchants for prices and stock.")
    ] = False,
    code: Codes = None,
) -> None:
    """Show the cart at the prices that were last shown; with --refresh or a discount code, at those now."""
    if refresh or code:
        quote = market.quote(_codes(code, _merchants(market)))
        shown.show(quote, *quote_views(quote))
    else:
        show_cart(shown, market.cart.view())


@on_profile(cart_app, "clear")
def cart_clear(shown: Output, market: Market) -> None:
    """Empty the cart."""
    market.cart.clear()
    show_cart(shown, market.cart.view())


@on_profile(app)
def buy(
    shown: Output,
    market: Market,
    merchant: Annotated[str | None, typer.Argument(help="Buy from this merchant, past the cart.")] = None,
    sku: Annotated[str | None, typer.Argument(help="This product.")] = None,
    *,
    quantity: Quantity = 1,
    yes: Yes = False,
    dry_run: DryRun = False,
    idempotency_key: Annotated[
        str | None,
        typer.Option(help="The same key gives the same order; without one every purchase is new."),
    ] = None,
    code: Codes = None,
) -> None:
    """Buy what is in the cart: one order per merchant. Shows the total and asks."""
    if merchant is not None:
        if sku is None:
            raise UsageError("Which product?", "`veilmart buy MERCHANT SKU`, or `veilmart buy` for the cart.")
        own = _codes(code, [merchant]).get(merchant, "")
        _buy_one(shown, market, (merchant, sku, quantity), idempotency_key, own, yes=yes, dry_run=dry_run)
    else:
        codes = _codes(code, _merchants(market))
        _buy_cart(shown, market, idempotency_key, codes, yes=yes, dry_run=dry_run)


def _merchants(market: Market) -> list[str]:
    return list(dict.fromkeys(line.merchant for line in market.cart.view().lines))


def _codes(given: Sequence[str] | None, merchants: Sequence[str]) -> dict[str, str]:
    """Say which merchant each discount code is for. Raises `UsageError`."""
    codes: dict[str, str] = {}
    for each in given or ():
        merchant, told, code = each.rpartition("=")
        if not told and len(merchants) != 1:
            raise UsageError("Whose discount code is it?", "Write it as --code MERCHANT=CODE.")
        merchant = merchant or merchants[0]
        if merchant in codes:
            raise UsageError(f"{merchant} gets two discount codes.", "An order takes one.")
        codes[merchant] = code
    return codes


def _buy_one(
    shown: Output,
    market: Market,
    line: tuple[str, str, int],
    key: str | None,
    code: str,
    *,
    yes: bool,
    dry_run: bool,
) -> None:
    merchant, sku, quantity = line
    agreed: int | None = None
    total: int | None = None
    if dry_run or not yes:
        quote = market.quote_now(merchant, sku, quantity, code)
        (product,) = quote.lines
        agreed, total = product.unit_price, quote.total
        question = f"{quantity} x {product.title} of {merchant} for {total_of(quote)}"
        if dry_run:
            data = {"dry_run": True, "product": market.show(merchant, sku), "quote": quote, "total": total}
            _show_planned(shown, market, key, quote, data, f"would buy {question}; stock: {product.stock}")
            return
        shown.confirm(f"Buy {question}?", yes=yes)
    # A key of our own finds the order again where it stays open.
    key = key or secrets.token_hex(16)
    try:
        order = market.buy_now(merchant, sku, quantity, key, unit_price=agreed, code=code, total=total)
    except VeilmartError as error:
        placed = [each for each in market.orders() if each.idempotency_key == key]
        raise IncompleteError(error, _purchase_data(key, placed, []), *_order_views(placed)) from error
    shown.show(_purchase_data(key, [order], []), *_order_views([order]))


def _show_planned(
    shown: Output, market: Market, key: str | None, quote: QuoteView, data: object, *views: View
) -> None:
    """Show what would be bought; or with it what is in the way."""
    try:
        # What the key has bought before is not paid again.
        if key is None or not market.reading.purchase(key):
            market.check_purchase(quote)
    except VeilmartError as error:
        raise IncompleteError(error, data, *views) from error
    shown.show(data, *views)


def _buy_cart(
    shown: Output, market: Market, key: str | None, codes: Mapping[str, str], *, yes: bool, dry_run: bool
) -> None:
    filled = bool(market.cart.view().lines)
    totals: dict[str, int] = {}
    if dry_run:
        quote = market.quote(codes)
        _show_planned(shown, market, key, quote, {"dry_run": True, "quote": quote}, *quote_views(quote))
        return
    # An empty cart with a key asks for what that key bought before.
    if filled and not yes:
        quote = market.quote(codes)
        totals = quote.totals
        for view in quote_views(quote):
            shown.note(view if isinstance(view, str) else plain(view))
        shown.confirm(f"Buy for {format_amount(quote.total, quote.currency)}?", yes=yes)
    bought = market.purchase(key, codes=codes, totals=totals)
    _show_purchase(shown, market, bought, codes)


def _show_purchase(shown: Output, market: Market, bought: PurchaseView, codes: Mapping[str, str]) -> None:
    failures = [
        {
            "merchant": each.merchant,
            "order_id": each.order.order_id if each.order else None,
            "error": each.error,
        }
        for each in bought.results
        if each.error is not None
    ]
    data = _purchase_data(bought.idempotency_key, bought.orders, failures)
    views = _order_views(bought.orders)
    if not bought.errors:
        shown.show(data, *views)
        return
    for each in bought.results:
        if each.error is not None:
            shown.note(f"{each.merchant}: {each.error.message}")
    if any(isinstance(error, PriceChangedError) for error in bought.errors):
        quote = _quoted(market, codes)
        if quote is not None:
            data["quote"] = quote
            views += quote_views(quote)
    raise IncompleteError(bought.errors[0], data, *views)


def _quoted(market: Market, codes: Mapping[str, str]) -> QuoteView | None:
    # Only to show more about an error that there is already; what was bought has left the cart.
    left = _merchants(market)
    try:
        return market.quote({merchant: code for merchant, code in codes.items() if merchant in left})
    except VeilmartError:
        return None


def _purchase_data(
    key: str, orders: Sequence[OrderView], failures: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    return {"idempotency_key": key, "orders": list(orders), "failures": list(failures)}


def _order_views(orders: Sequence[OrderView]) -> list[View]:
    return [
        f"order {each.order_id} at {each.merchant}: {each.state}, {format_amount(each.total, each.currency)}"
        for each in orders
    ]
