"""`veilmart merchant product`: what is on sale. A running merchant shows every change at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from common import clock, messages
from common.errors import UsageError
from common.money import format_amount, format_rate, parse_amount, parse_rate
from merchant_node.home import MerchantHome
from merchant_node.inventory import Inventory, Listed
from merchant_node.licence_keys import LOW
from veilmart.cli.homes import Home, MerchantId, merchant_home, output
from veilmart.output import Table

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="What is on sale.")
keys_app = typer.Typer(add_completion=False, rich_markup_mode=None)
app.add_typer(keys_app, name="keys", help="Licence keys: add some, count them.")
UNLIMITED: Final = "unlimited"

Sku = Annotated[str, typer.Argument(help="The product's SKU.")]
Image = Annotated[Path | None, typer.Option(help="PNG, JPEG or WebP, at most 47 KiB.")]
Tax = Annotated[str | None, typer.Option(help="In its price, in percent; without it, the shop's.")]
Stock = Annotated[str | None, typer.Option(help="How many can be sold, or `unlimited`.", metavar="N")]


@contextmanager
def _inventory(home: Path | None, merchant: str | None) -> Iterator[tuple[Inventory, str]]:
    """Open the inventory; gives the currency too."""
    place = MerchantHome(merchant_home(home, merchant))
    currency = place.market().currency
    with place.inventory(clock.now_ms()) as inventory:
        yield inventory, currency


@app.command()
def add(
    context: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(help="The file that is sold; none where keys are all.", show_default=False),
    ] = None,
    *,
    sku: Annotated[str, typer.Option(help="Letters, digits, '.', '_' and '-'.")],
    title: Annotated[str, typer.Option(help="What customers read in lists.")],
    price: Annotated[str, typer.Option(help="With tax, in the market's currency, such as 9.99.")],
    category: Annotated[str, typer.Option(help="What it is found under.")] = "",
    tag: Annotated[list[str] | None, typer.Option(help="Repeatable.")] = None,
    description: Annotated[str, typer.Option(help="What customers read on its page.")] = "",
    image: Image = None,
    image_alt: Annotated[str, typer.Option(help="The text that stands in for the image.")] = "",
    stock: Stock = None,
    group: Annotated[str, typer.Option(help="What ties variants of one product together.")] = "",
    variant: Annotated[str, typer.Option(help="This one's name among the variants.")] = "",
    tax: Tax = None,
    keys: Annotated[Path | None, typer.Option(help="Licence keys, one per line, each for one copy.")] = None,
    merchant: MerchantId = None,
    home: Home = None,
) -> None:
    """Put a file on sale, or a list of licence keys, or both."""
    with _inventory(home, merchant) as (inventory, currency):
        record = inventory.add(
            file,
            sku,
            title=title,
            price=parse_amount(price, currency),
            category=category,
            tags=tag or (),
            description=description,
            image=image,
            image_alt=image_alt,
            stock=_number(stock),
            group=group,
            variant=variant,
            tax_rate=_rate(tax),
            keys=keys,
        )
    _show(context, record, f"{sku} is on sale for {format_amount(record.price, currency)}")


@app.command()
def edit(
    context: typer.Context,
    sku: Sku,
    file: Annotated[Path | None, typer.Option(help="Another file under the same SKU.")] = None,
    title: Annotated[str | None, typer.Option(help="What customers read in lists.")] = None,
    price: Annotated[
        str | None, typer.Option(help="With tax, in the market's currency, such as 9.99.")
    ] = None,
    category: Annotated[str | None, typer.Option(help="What it is found under.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Repeatable; these replace all others.")] = None,
    description: Annotated[str | None, typer.Option(help="What customers read on its page.")] = None,
    image: Image = None,
    image_alt: Annotated[str | None, typer.Option(help="The text that stands in for the image.")] = None,
    stock: Stock = None,
    group: Annotated[str | None, typer.Option(help="What ties variants of one product together.")] = None,
    variant: Annotated[str | None, typer.Option(help="This one's name among the variants.")] = None,
    tax: Tax = None,
    merchant: MerchantId = None,
    home: Home = None,
) -> None:
    """Change what is given, and nothing else. Those who bought it keep what they bought."""
    with _inventory(home, merchant) as (inventory, currency):
        record = inventory.edit(
            sku,
            file=file,
            title=title,
            price=None if price is None else parse_amount(price, currency),
            category=category,
            tags=tag,
            description=description,
            image=image,
            image_alt=image_alt,
            stock=msgspec.UNSET if stock is None else _number(stock),
            group=group,
            variant=variant,
            tax_rate=_rate(tax),
        )
    _show(context, record, f"{sku} is at version {record.version}")


@app.command()
def remove(context: typer.Context, sku: Sku, merchant: MerchantId = None, home: Home = None) -> None:
    """Take a product off sale; those who bought it can still fetch it."""
    with _inventory(home, merchant) as (inventory, _currency):
        inventory.remove(sku)
    output(context).show({"sku": sku, "removed": True}, f"{sku} is no longer on sale")


@app.command("list")
def list_products(context: typer.Context, merchant: MerchantId = None, home: Home = None) -> None:
    """List what is on sale."""
    with _inventory(home, merchant) as (inventory, currency):
        found = inventory.products()
    rows = [
        (
            each.record.sku,
            each.record.title,
            each.record.category,
            format_amount(each.record.price, currency),
            format_rate(each.record.tax_rate),
            _left(each),
        )
        for each in found
    ]
    for each in found:
        if each.record.keys and (each.stock or 0) <= LOW:
            output(context).note(
                f"warning: {_left(each)} of {each.record.sku} are left: `product keys add` adds some"
            )
    data = [_fields(each.record) | {"stock": each.stock} for each in found]
    output(context).show(data, Table(("sku", "title", "category", "price", "tax in it", "stock"), rows))


@keys_app.command("add")
def add_keys(
    context: typer.Context,
    sku: Sku,
    file: Annotated[Path, typer.Argument(help="One key per line; those known already are skipped.")],
    merchant: MerchantId = None,
    home: Home = None,
) -> None:
    """Add licence keys to a product: each is given to one sale."""
    with _inventory(home, merchant) as (inventory, _currency):
        added = inventory.add_keys(sku, file)
    noun = "1 key" if added.added == 1 else f"{added.added} keys"
    known = f", {added.known} known already" if added.known else ""
    output(context).show(added, f"{noun} added to {sku}{known}; {added.left} left")


@keys_app.command("count")
def count_keys(context: typer.Context, sku: Sku, merchant: MerchantId = None, home: Home = None) -> None:
    """Count a product's licence keys: left, and given to orders."""
    with _inventory(home, merchant) as (inventory, _currency):
        counts = inventory.key_counts(sku)
    output(context).show(counts, Table(("left", "given"), [(counts.left, counts.given)]))


def _left(listed: Listed) -> str:
    if listed.stock is None:
        return UNLIMITED
    return f"{listed.stock} keys" if listed.record.keys else str(listed.stock)


def _number(stock: str | None) -> int | None:
    if stock is None or stock == UNLIMITED:
        return None
    if not (stock.isascii() and stock.isdigit()):
        raise UsageError(f"{stock!r} is no number of copies.", f"Write a number, or `{UNLIMITED}`.")
    return int(stock)


def _rate(tax: str | None) -> int | None:
    return None if tax is None else parse_rate(tax)


def _show(context: typer.Context, record: messages.ProductRecord, text: str) -> None:
    output(context).show(_fields(record), text)


def _fields(record: messages.ProductRecord) -> dict[str, Any]:
    fields = msgspec.structs.asdict(record)
    return fields | {"digest": record.digest.hex(), "image_digest": record.image_digest.hex()}
