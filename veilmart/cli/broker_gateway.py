"""`veilmart broker gateway`: through whom cards are charged, and how the charges stand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from broker_node import charges
from broker_node.gateways import configuration
from common.money import format_amount
from common.states import BROKER_TOP_UP
from veilmart.cli.broker_store import broker_store
from veilmart.cli.homes import Home, home_of, output, read_small_file
from veilmart.cli.times import minute_of
from veilmart.output import Table, View

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, help="The payment gateway that charges customers' cards."
)

LONGEST_KEY: Final = 1024
SANDBOX_WARNING: Final = (
    "WARNING: the sandbox takes test cards and moves no money: whoever tops up gets a balance for nothing. "
    "For a market in which anything costs something: `veilmart broker gateway use stripe`."
)


@app.command("show")
def show(context: typer.Context, home: Home = None) -> None:
    """Show which gateway the broker uses, and how its charges stand."""
    settings = configuration.load(home_of(home, "broker"))
    with broker_store(home) as desk:
        found = charges.counted(desk.tx)
    data = {
        "kind": settings.kind,
        "api_base": settings.api_base or None,
        "currency": desk.currency,
        "charges": [
            {"state": each.state, "count": each.count, "amount": each.amount, "oldest": each.oldest}
            for each in found
        ],
    }
    rows = [
        (each.state, each.count, format_amount(each.amount, desk.currency), minute_of(each.oldest))
        for each in found
    ]
    views: list[View] = [f"gateway: {settings.kind}", Table(("state", "charges", "amount", "oldest"), rows)]
    shown = output(context)
    shown.show(data, *views)
    if settings.kind == "sandbox":
        shown.note(SANDBOX_WARNING)


@app.command("use")
def use(
    context: typer.Context,
    kind: Annotated[Literal["none", "sandbox", "stripe"], typer.Argument(help="Which one.")],
    key_file: Annotated[
        Path | None, typer.Option(help="Stripe's secret key is copied from this file into the broker's home.")
    ] = None,
    home: Home = None,
) -> None:
    """Choose the gateway; a broker that runs has to be started anew."""
    key = (
        None if key_file is None else read_small_file(key_file, LONGEST_KEY).decode(errors="replace").strip()
    )
    place = home_of(home, "broker")
    with broker_store(home) as desk:
        configuration.check_currency(kind, desk.currency)
        before = configuration.load(place).kind
        open_ones = sum(each.count for each in charges.counted(desk.tx) if BROKER_TOP_UP[each.state])
        configuration.save(place, kind, key)
    shown = output(context)
    shown.show({"kind": kind}, f"gateway: {kind}")
    if open_ones and before != kind:
        shown.note(
            f"warning: charges under way at the gateway of before ({before}): {open_ones}. It alone knows "
            "how they end; until the broker has run with it again, nobody is credited for them"
        )
    if kind == "sandbox":
        shown.note(SANDBOX_WARNING)
