"""`veilmart merchant refund` and `refunds`: money back to a customer, asked for at any time.

A refund is a row of the merchant's store; the running merchant sends it until the broker has answered.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from common import clock
from common.money import format_amount, parse_amount
from merchant_node.home import MerchantHome
from merchant_node.refunds import RefundReport, Refunds
from merchant_node.reports import Reports
from veilmart.cli.consent import DryRun, agreed
from veilmart.cli.homes import Home, MerchantId, Yes, merchant_home, output
from veilmart.cli.times import minute_of
from veilmart.output import Table

OrderId = Annotated[str, typer.Argument(help="The order's id, or the beginning of it.")]


@contextmanager
def books(home: Path | None, merchant: str | None) -> Iterator[tuple[Refunds, Reports, str]]:
    """Open refunds and reports, also beside the running merchant; gives the currency too."""
    place = MerchantHome(merchant_home(home, merchant))
    currency, store = place.market().currency, place.store()
    try:
        yield Refunds(store), Reports(store), currency
    finally:
        store.close()


def refund(
    context: typer.Context,
    order: OrderId,
    reason: Annotated[str, typer.Option(help="Why, for your own books; nobody else reads it.")],
    amount: Annotated[str | None, typer.Option(help="Such as 5.00.", show_default="all that is left")] = None,
    *,
    yes: Yes = False,
    dry_run: DryRun = False,
    merchant: MerchantId = None,
    home: Home = None,
) -> None:
    """Give money of a paid order back to its customer; works off line too. Asks first."""
    with books(home, merchant) as (refunds, reports, currency):
        units = None if amount is None else parse_amount(amount, currency)
        wanted = "all that is left" if units is None else format_amount(units, currency)
        asked = (reports.find(order), units, reason, clock.now_ms(), clock.random_bytes)
        planned = refunds.rehearse(*asked)
        deed = f"give {wanted} of order {planned.order_id.hex()} back to its customer"
        if not agreed(output(context), deed, as_data(planned, currency), yes=yes, dry_run=dry_run):
            return
        made = refunds.ask(*asked)
    output(context).show(
        as_data(made, currency),
        f"{wanted} of order {made.order_id.hex()} is to be given back",
        "the running merchant asks the broker; `veilmart merchant refunds` shows its answer",
    )


def refunds(
    context: typer.Context,
    merchant: MerchantId = None,
    home: Home = None,
) -> None:
    """List refunds, newest first."""
    with books(home, merchant) as (found, _, currency):
        listed = found.listing()
    rows = [
        (
            each.order_id.hex(),
            each.state,
            format_amount(each.amount, currency) if each.amount else "all that is left",
            format_amount(each.given, currency),
            each.code or "",
            minute_of(each.at),
            each.reason,
        )
        for each in listed
    ]
    table = Table(("order", "state", "asked for", "given back", "refused", "at", "reason"), rows)
    output(context).show([as_data(each, currency) for each in listed], table)


def as_data(refund: RefundReport, currency: str) -> dict[str, Any]:
    """Give a refund as JSON shows it."""
    return {
        "refund_id": refund.refund.hex(),
        "order_id": refund.order_id.hex(),
        "state": refund.state,
        "amount": refund.amount or None,
        "given": refund.given,
        "currency": currency,
        "reason": refund.reason,
        "code": refund.code,
        "at": refund.at,
    }
