"""Invoices: a verified receipt as PDF or HTML, with the buyer's own words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.errors import UsageError
from common.keys import replace_file
from customer_node import Buyer, Market
from veilmart.cli.customer_orders import Last, OptionalOrder, chosen_order, receipt_views
from veilmart.cli.profiles import on_profile
from veilmart.output import Output, Table

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@on_profile(app)
def invoice(
    shown: Output,
    market: Market,
    order: OptionalOrder = None,
    pdf: Annotated[Path | None, typer.Option(help="Write a PDF here.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page for browsers here.")] = None,
    name: Annotated[str | None, typer.Option(help="Your name on it; without it, the one kept here.")] = None,
    address: Annotated[list[str] | None, typer.Option(help="A line of your address; repeatable.")] = None,
    *,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep name and address in this profile; empty ones are erased.")
    ] = False,
    last: Last = False,
) -> None:
    """Make an invoice of an order's verified receipt. Name and address never leave this machine."""
    found = chosen_order(market, order, last=last).order_id
    kept = market.buyer
    buyer = Buyer(
        name=kept.name if name is None else name,
        address=kept.address if address is None else "\n".join(address).rstrip("\n"),
    )
    made = market.invoice(found, buyer)
    # Imported here: only who wants a file waits for what draws it.
    if pdf is not None:
        from customer_node.invoices import pdf as drawn  # noqa: PLC0415

        _write(pdf, drawn.render(made))
    if html is not None:
        from customer_node.invoices import page  # noqa: PLC0415

        _write(html, page.render(made))
    if keep:
        market.keep_buyer(buyer)
    own = [("seller", made.merchant_name), ("buyer", buyer.name), ("address", buyer.address)]
    shown.show(
        {"invoice": made, "pdf": pdf, "html": html},
        *receipt_views(made.receipt),
        Table(("on it", "words"), [fact for fact in own if fact[1]]),
        *(f"written to {path}" for path in (pdf, html) if path is not None),
    )


def _write(path: Path, content: bytes) -> None:
    try:
        replace_file(path, content)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
