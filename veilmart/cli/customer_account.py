"""A customer's account and wallet. Nothing here shops."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.clock import now_ms
from common.money import format_amount
from customer_node import Market
from customer_node.views import CoinStockView
from veilmart.cli.homes import PasswordFile, output
from veilmart.cli.passwords import read_password
from veilmart.cli.profiles import ProfileHome, on_profile, profile_home
from veilmart.cli.times import minute_of
from veilmart.output import Output, Table, View

app = typer.Typer(add_completion=False, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(help="The account's name.")]


@app.command()
def join(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The market file, from the market's operator.")],
    profile: ProfileHome = None,
) -> None:
    """Join a market. Joining it again changes nothing but its addresses."""
    place = profile_home(profile)
    joined = Market.join(place, file)
    output(context).show(
        {"profile": place, "market": joined},
        f"joined market {joined.market_id} in {joined.currency}, at {joined.host}:{joined.port}",
        f"broker's key {joined.broker_fingerprint}",
        f"coins and tickets rest {joined.minimum_age_seconds} seconds before they are used",
    )


@on_profile(app, "signup")
def sign_up(shown: Output, market: Market, name: Name, password_file: PasswordFile = None) -> None:
    """Open an account and log in. The password is asked for."""
    market.sign_up(name, read_password(password_file, new=True))
    shown.show({"logged_in": True}, "the account is open, and you are logged in")


@on_profile(app, "login")
def log_in(shown: Output, market: Market, name: Name, password_file: PasswordFile = None) -> None:
    """Log in to your account. The password is asked for."""
    market.log_in(name, read_password(password_file, new=False))
    shown.show({"logged_in": True}, "you are logged in")


@on_profile(app, "logout")
def log_out(shown: Output, market: Market) -> None:
    """End the account session and erase its keys, here and at the broker."""
    market.log_out()
    shown.show({"logged_in": False}, "you are logged out")


@on_profile(app)
def balance(shown: Output, market: Market) -> None:
    """Show the account's balance."""
    found = market.balance()
    shown.show(
        found,
        f"{format_amount(found.amount, found.currency)}, and {found.tickets_left} tickets left for today",
    )


@on_profile(app)
def withdraw(
    shown: Output,
    market: Market,
    bundles: Annotated[int, typer.Option(min=1, help="A bundle is always the same coins and tickets.")] = 1,
) -> None:
    """Draw coins and tickets from the account into the wallet."""
    drawn = market.withdraw(bundles)
    views: list[View] = [
        f"drew {drawn.coins} coins of {format_amount(drawn.amount, drawn.currency)}, {drawn.tickets} tickets",
        f"the account now has {format_amount(drawn.balance, drawn.currency)}",
    ]
    if drawn.usable_from > now_ms():
        views.append(f"usable from {minute_of(drawn.usable_from)}")
    shown.show(drawn, *views)


@on_profile(app)
def wallet(shown: Output, market: Market) -> None:
    """Show what the wallet holds. Asks nobody."""
    held = market.wallet()
    rows = [
        (format_amount(coin.value, held.currency), coin.usable, coin.young, coin.expired, _crowd(coin))
        for coin in held.coins
    ]
    sums = {"usable": held.usable, "young": held.young, "in orders": held.reserved}
    views: list[View] = [
        Table(("coin", "usable", "young", "expired", "among at most"), rows),
        ", ".join(f"{name} {format_amount(amount, held.currency)}" for name, amount in sums.items()),
        f"tickets {held.tickets}, young {held.young_tickets}",
    ]
    if held.crowd_at:
        views.append(
            "among at most: that many coins of that value and month were out (drawn, not spent) at "
            f"{minute_of(held.crowd_at)}; the people who hold them are fewer"
        )
    elif held.coins:
        views.append(
            "how many coins yours hide among is unknown: the broker has not counted them in public yet, "
            "or was not asked since (it counts at full hours, when enough orders have come)"
        )
    if held.young_until > now_ms():
        views.append(f"all usable from {minute_of(held.young_until)}")
    if held.open_operations:
        views.append(f"{held.open_operations} operations are open: `veilmart resume`")
    shown.show(held, *views)


def _crowd(coin: CoinStockView) -> str:
    if not coin.usable + coin.young:
        return ""
    return "unknown" if coin.crowd is None else str(coin.crowd)
