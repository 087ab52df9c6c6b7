"""Topping up a customer's account with a card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common import payment_cards
from common.errors import UsageError
from common.money import format_amount, parse_amount
from customer_node import Market
from customer_node.views import TopUpView
from veilmart.cli.card_entry import read_card
from veilmart.cli.consent import DryRun, agreed
from veilmart.cli.homes import Yes
from veilmart.cli.profiles import on_profile, warn_of_a_visit
from veilmart.cli.times import minute_of, wait_of
from veilmart.output import Output, Table, View

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@on_profile(app, "topup")
def top_up(
    shown: Output,
    market: Market,
    amount: Annotated[str, typer.Argument(help="How much, such as 50.00.")],
    card_file: Annotated[
        Path | None,
        typer.Option(help="Read the card from this file ('-' for stdin) instead of asking for it."),
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key charges once, however often it is called.")
    ] = None,
    *,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Pay money into the account with a card, which is asked for and stored nowhere.

    The card is checked here first; then it shows what is charged, and asks. A dry run ends there.
    """
    currency = market.market.currency
    units = parse_amount(amount, currency)
    if units < 1:
        raise UsageError("The amount must be more than nothing.")
    warn_of_a_visit(shown, market)
    card = read_card(card_file)
    market.check_top_up(units, card, idempotency_key)
    brand, last_four = payment_cards.brand_of(card.number).name, payment_cards.last_four(card)
    deed = f"charge {format_amount(units, currency)} to {brand} ...{last_four}"
    data = {"amount": units, "currency": currency, "brand": brand, "last_four": last_four}
    if not agreed(shown, deed, data, yes=yes, dry_run=dry_run):
        return
    view = market.top_up(units, card, idempotency_key)
    what = f"{format_amount(view.amount, view.currency)} to {_card(view)}"
    views: list[View] = [f"charged {what}, charge {view.charge}"]
    if view.resumed:
        views = [f"charged before, and not again now: {what}, charge {view.charge}"]
    if view.balance is not None:
        views.append(f"the account now has {format_amount(view.balance, view.currency)}")
    shown.show(view, *views)


@on_profile(app, "topups")
def list_top_ups(shown: Output, market: Market) -> None:
    """List this profile's charges. Asks nobody."""
    found = market.top_ups()
    rows = [
        (
            minute_of(each.created),
            format_amount(each.amount, each.currency),
            _card(each),
            each.state,
            wait_of(each.waits_for, each.waits_until) if each.waits_for else "",
            each.charge,
        )
        for each in found
    ]
    views: list[View] = [Table(("at", "amount", "card", "state", "waits for", "charge"), rows)]
    if any(each.state == "open" for each in found):
        views.append("what became of the open ones `veilmart resume` finds out")
    shown.show(found, *views)


def _card(view: TopUpView) -> str:
    return f"{view.brand} ...{view.last_four}"
