"""`veilmart merchant`: join a market, run, look at orders; `product` is in a file of its own.

Every command but `run` works on the merchant's store, also while it runs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from common import clock
from common.errors import UsageError
from common.keys import KeyType
from common.market_file import MarketFile
from common.money import format_amount, parse_rate
from merchant_node.home import CERTIFICATE, MARKET, PROFILE, MerchantHome, Profile
from merchant_node.reports import OrderReport, Reports, Sale
from merchant_node.run import run_merchant
from veilmart import ca
from veilmart.cli import discount, merchant_disputes, merchant_money, merchant_refunds, merchant_web, product
from veilmart.cli.homes import (
    Home,
    MerchantId,
    find_market_file,
    home_of,
    merchant_home,
    output,
    read_small_file,
)
from veilmart.cli.running import run_node
from veilmart.cli.times import minute_of
from veilmart.output import Table, View

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="A merchant, in a home of its own.")
app.add_typer(product.app, name="product")
app.add_typer(discount.app, name="discount")
app.add_typer(merchant_money.app)

FOLLOW_SECONDS: Final = 0.5
LARGEST_CERTIFICATE: Final = 16 * 1024

Market = Annotated[Path | None, typer.Option(help="The market file.", show_default="the one that is there")]


@app.command()
def init(
    context: typer.Context,
    merchant: Annotated[str, typer.Argument(metavar="MID", help="1 to 32 of a-z, 0-9 and '-'.")],
    name: Annotated[str, typer.Option(help="The name that customers read.")],
    description: Annotated[str, typer.Option(help="What customers read below it.")] = "",
    market: Market = None,
    tax: Annotated[
        str | None, typer.Option(help="In its prices, in percent, where a product says nothing else.")
    ] = None,
    key_type: Annotated[KeyType, typer.Option(help="Of the merchant's identity.")] = "ed25519",
    home: Home = None,
) -> None:
    """Make a key and a certificate signing request.

    Repeating it changes name and description, and the tax where it is given.
    """
    place = home_of(home, "merchants", merchant)
    source = MarketFile.load(find_market_file(market))
    present = MarketFile.load(place / MARKET) if (place / MARKET).exists() else source
    if present.market_id != source.market_id:
        raise UsageError(f"{place} belongs to another market.", "Make another home for this one.")
    before = Profile.load(place / PROFILE) if (place / PROFILE).exists() else None
    rate = parse_rate(tax) if tax is not None else before.tax_rate if before is not None else 0
    profile = Profile(name=name, description=description, tax_rate=rate)
    request = place / ca.REQUEST_FILE
    if not request.exists():
        ca.make_request(place, merchant, key_type=key_type)
    profile.save(place / PROFILE)
    source.save(place / MARKET)
    output(context).show(
        {"merchant": merchant, "home": place, "request": request},
        f"merchant {merchant} in {place}",
        f"let the market's CA sign {request} (`veilmart ca sign`), then `veilmart merchant install-cert`",
    )


@app.command("install-cert")
def install_certificate(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The certificate that the CA has made.")],
    merchant: MerchantId = None,
    home: Home = None,
) -> None:
    """Take the certificate that the market's CA has made; the same for a renewed one."""
    place = merchant_home(home, merchant)
    market = MerchantHome(place).market()
    pem = read_small_file(file, LARGEST_CERTIFICATE)
    name = ca.install_certificate(place, pem, market.ca(), now_ms=clock.now_ms())
    output(context).show(
        {"merchant": name, "path": place / CERTIFICATE}, f"{name} is certified: {place / CERTIFICATE}"
    )


@app.command()
def run(context: typer.Context, merchant: MerchantId = None, home: Home = None) -> None:
    """Run the merchant until SIGTERM or SIGINT."""
    run_node(context, run_merchant, merchant_home(home, merchant))


@contextmanager
def _reports(home: Path | None, merchant: str | None) -> Iterator[tuple[Reports, str]]:
    """Open the books; gives the currency too."""
    place = MerchantHome(merchant_home(home, merchant))
    currency = place.market().currency
    with place.reports() as reports:
        yield reports, currency


@app.command()
def orders(
    context: typer.Context,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Announce each sale as it happens.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 100,
    state: Annotated[str | None, typer.Option(help="Only orders in this state.")] = None,
    merchant: MerchantId = None,
    home: Home = None,
) -> None:
    """List orders, newest first; or follow the sales until interrupted."""
    with _reports(home, merchant) as (reports, currency):
        if follow:
            _follow(context, reports, currency)
            return
        found = reports.orders(limit=limit, state=state)
    rows = [
        (
            each.order_id.hex(),
            each.state,
            format_amount(each.amount, currency),
            minute_of(each.at),
            _lines(each),
        )
        for each in found
    ]
    table = Table(("order", "state", "amount", "at", "products"), rows)
    output(context).show([_order(each, currency) for each in found], table)


def _follow(context: typer.Context, reports: Reports, currency: str) -> None:
    shown = output(context)
    last = reports.last_sale()
    shown.note("waiting for sales")
    while True:
        for sale in reports.sales_since(last):
            last = sale.number
            amount = format_amount(sale.order.amount, currency)
            shown.show(_sale(sale, currency), f"{minute_of(sale.at)} sold for {amount}: {_lines(sale.order)}")
        # Another process writes the sale; a store has no way of telling us.
        time.sleep(FOLLOW_SECONDS)


@app.command()
def sales(
    context: typer.Context,
    days: Annotated[int | None, typer.Option(min=1, help="Only the last so many days.")] = None,
    merchant: MerchantId = None,
    home: Home = None,
) -> None:
    """Show what each product brought in on each day."""
    since = 0 if days is None else clock.now_ms() - days * 24 * 3600 * 1000
    with _reports(home, merchant) as (reports, currency):
        found = reports.takings(since=since)
    total = sum(each.revenue for each in found)
    rows = [
        (
            each.day,
            each.sku,
            each.quantity,
            format_amount(each.revenue, currency),
            format_amount(each.tax, currency),
        )
        for each in found
    ]
    data = {
        "takings": found,
        "total": total,
        "tax": sum(each.tax for each in found),
        "currency": currency,
    }
    table = Table(("day", "product", "sold", "revenue", "tax in it"), rows)
    output(context).show(data, table, f"together {format_amount(total, currency)}")


app.command()(merchant_refunds.refund)
app.command()(merchant_refunds.refunds)
app.add_typer(merchant_disputes.app, name="dispute")
app.command()(merchant_web.web)


@app.command()
def privacy(context: typer.Context, merchant: MerchantId = None, home: Home = None) -> None:
    """Show among how many each product hides, also with each discount code, and what to change."""
    place = MerchantHome(merchant_home(home, merchant))
    currency = place.market().currency
    with place.inventory(clock.now_ms()) as inventory:
        found = inventory.privacy()
    rows = [
        (
            each.sku,
            each.code,
            format_amount(each.price, currency),
            each.cells,
            each.others,
            each.advice or "enough",
        )
        for each in found
    ]
    names = ("product", "code", "price", "cells", "others", "advice")
    views: list[View] = [Table(names, rows)]
    if any(each.code for each in found):
        views.append(
            "a total that only a code gives narrows down who may have used it, the more so the fewer know it"
        )
    output(context).show(found, *views)


def _lines(order: OrderReport) -> str:
    return ", ".join(f"{line.quantity} x {line.sku}" for line in order.lines)


def _order(order: OrderReport, currency: str) -> dict[str, Any]:
    return {
        "order_id": order.order_id.hex(),
        "state": order.state,
        "amount": order.amount,
        "currency": currency,
        "at": order.at,
        "lines": list(order.lines),
    }


def _sale(sale: Sale, currency: str) -> dict[str, Any]:
    return {"number": sale.number, "sold_at": sale.at, "order": _order(sale.order, currency)}
