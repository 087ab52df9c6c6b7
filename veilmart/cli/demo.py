"""`veilmart demo`: a whole market on this machine."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from common.errors import VeilmartError
from common.money import format_amount
from veilmart.cli.homes import output
from veilmart.demo.market import DemoMarket
from veilmart.demo.pages import Pages
from veilmart.demo.run import GUEST, GUEST_BALANCE, Result, run_demo
from veilmart.output import Table

app = typer.Typer(rich_markup_mode=None)

STATE = Path(".state/demo")


@app.callback()
def group() -> None:
    """Leaves of the root command."""


@app.command()
def demo(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="End after the purchases.")] = False,  # noqa: FBT002 - an option
    state: Annotated[Path, typer.Option(help="Where everything is kept.")] = STATE,
) -> None:
    """Start Mosquitto, a broker and two merchants, buy from them, and show who saw what."""
    shown = output(context)

    def report(result: Result, market: DemoMarket, pages: Pages | None) -> None:
        shown.show(result.data, *_views(result, market, pages))
        if leaks := [text for saw in result.saw.values() for text in saw.found]:
            raise VeilmartError(f"A party holds what it must not know: {leaks[0]}", "This is a bug.")

    with _ended_like_ctrl_c():
        run_demo(state.resolve(), shown.note, report, stay=not once)


@contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does: everything that was started is ended in order."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _views(result: Result, market: DemoMarket, pages: Pages | None) -> list[str | Table]:
    currency = market.report.market.currency
    rows = [
        [
            item.order_id[:12],
            item.merchant,
            ", ".join(f"{line['quantity']} x {line['sku']}" for line in item.lines),
            format_amount(item.total, currency),
            item.state,
            f"{item.seconds:.1f} s",
            "same bytes",
        ]
        for item in result.bought
    ]
    views: list[str | Table] = [
        Table(("order", "merchant", "what", "total", "state", "time", "compared"), rows)
    ]
    for party, saw in result.saw.items():
        views.append(f"\nWhat {'the ' if party in {'broker', 'bus', 'auditor'} else ''}{party} saw:")
        views += [f"  {line}" for line in saw.learned]
        views.append(
            f"  ... and in all that it received, stored and logged, {len(saw.found)} of the "
            f"{saw.searched_for} values that it must not know"
        )
    return views if pages is None else [*views, *_invitation(market, pages)]


def _invitation(market: DemoMarket, pages: Pages) -> list[str | Table]:
    state, command = _shown(market.state), _shown(Path(sys.executable).with_name("veilmart"))
    balance = format_amount(GUEST_BALANCE, market.report.market.currency)
    return [
        f"\nThe market is up, and {GUEST} has an account with {balance}. In another terminal:",
        f"  export VEILMART_PROFILE={state}/customers/{GUEST}",
        f"  {command} customer login {GUEST} --password-file {state}/passwords/{GUEST}",
        f"  {command} customer withdraw",
        f"  {command} customer search ridge",
        f"  {command} customer cart add sports GPX-RIDGE",
        f"  {command} customer buy",
        f"  {command} customer download --last --to {state}/bought/{GUEST}",
        "\nWhat everybody may see of it, in a third terminal, before you buy:",
        f"  {command} audit watch --market {state}/market/market.json",
        "\nOr in a browser (each link opens once), as a customer with coins in hand, and as the merchant:",
        pages.shop,
        pages.dashboard,
        "Ctrl-C ends it.",
    ]


def _shown(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
