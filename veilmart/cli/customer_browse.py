"""Looking around: merchants, search, products, images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from common.keys import replace_file
from common.messages import Sort
from common.money import format_amount, format_rate
from customer_node import Market, TicketsNeededError
from customer_node.browse import MAXIMUM_TICKETS
from customer_node.views import SearchView
from veilmart.cli.profiles import on_profile
from veilmart.output import Output, Table

app = typer.Typer(add_completion=False, rich_markup_mode=None)

Merchant = Annotated[str, typer.Argument(help="The merchant's id.")]
Sku = Annotated[str, typer.Argument(help="The product's SKU.")]


@on_profile(app)
def merchants(shown: Output, market: Market) -> None:
    """List the market's merchants. Takes no ticket."""
    found = market.merchants()
    words = {True: "online", False: "away", None: "unknown"}
    rows = [(each.id, words[each.online], each.name, each.description, each.fingerprint) for each in found]
    shown.show(found, Table(("merchant", "presence", "name", "description", "identity"), rows))


@on_profile(app)
def search(
    shown: Output,
    market: Market,
    text: Annotated[str, typer.Argument(help="Words to look for; none for everything.")] = "",
    merchant: Annotated[str | None, typer.Option(help="Ask this merchant alone.")] = None,
    category: Annotated[str, typer.Option(help="Only what stands under this category.")] = "",
    sort: Annotated[Sort, typer.Option(help="By what the list is ordered.")] = "title",
    limit: Annotated[int, typer.Option(min=1, help="At most so many products.")] = 50,
    max_tickets: Annotated[
        int, typer.Option(min=0, help="Each merchant that is asked for the first time takes a ticket.")
    ] = MAXIMUM_TICKETS,
) -> None:
    """Search the products of all merchants, or of one."""

    def ask(tickets: int) -> SearchView:
        return market.search(
            text, merchant=merchant, category=category, sort=sort, limit=limit, max_tickets=tickets
        )

    try:
        found = ask(max_tickets)
    except TicketsNeededError as many:
        # In a pipe nobody can be asked: the hint names the option.
        if not sys.stdin.isatty():
            raise
        shown.confirm(f"{many.message} Use them?", yes=False)
        found = ask(many.needed)
    rows = [
        (
            each.merchant,
            each.sku,
            f"{each.title} ({each.variant})" if each.variant else each.title,
            each.category,
            format_amount(each.price, each.currency),
            each.stock,
        )
        for each in found.products
    ]
    for failed, error in found.failures.items():
        shown.note(f"warning: {failed} could not be asked: {error.message}")
    shown.show(found, Table(("merchant", "sku", "title", "category", "price", "stock"), rows))


@on_profile(app)
def show(shown: Output, market: Market, merchant: Merchant, sku: Sku) -> None:
    """Show a product, its record verified."""
    found = market.show(merchant, sku)
    facts = [
        ("merchant", found.merchant),
        ("sku", found.sku),
        ("title", found.title),
        ("variant", found.variant),
        ("price", format_amount(found.price, found.currency)),
        ("tax in it", format_rate(found.tax_rate) if found.tax_rate else ""),
        ("stock", found.stock),
        ("category", found.category),
        ("tags", ", ".join(found.tags)),
        ("file", f"{found.file_name}, {found.size} bytes" if found.size or not found.keys else ""),
        ("licence", "a key of its own with each copy" if found.keys else ""),
        ("SHA-256", found.digest),
        ("image", found.image_alt or "yes" if found.image else ""),
    ]
    table = Table(("field", "value"), [fact for fact in facts if fact[1]])
    shown.show(found, table, *([found.description] if found.description else []))


@on_profile(app)
def image(
    shown: Output,
    market: Market,
    merchant: Merchant,
    sku: Sku,
    out: Annotated[Path, typer.Option(help="Write the image here.")],
) -> None:
    """Fetch a product's image, checked against its signed record."""
    found = market.image(merchant, sku)
    replace_file(out, found.data)
    shown.show(
        {"path": out, "media_type": found.media_type, "size": len(found.data), "alt": found.alt},
        f"{out}: {found.media_type}, {len(found.data)} bytes; {found.alt}",
    )
