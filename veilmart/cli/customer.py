"""`veilmart customer`: join a market, look around, buy, download. Thin over `customer_node.Market`."""

from __future__ import annotations

import typer

from veilmart.cli import (
    customer_account,
    customer_browse,
    customer_buy,
    customer_changes,
    customer_invoice,
    customer_orders,
    customer_topup,
    customer_wallet,
    customer_web,
)

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="A customer, in a profile of its own.")
for part in (
    customer_account,
    customer_topup,
    customer_changes,
    customer_browse,
    customer_buy,
    customer_orders,
    customer_invoice,
    customer_wallet,
    customer_web,
):
    app.add_typer(part.app)
