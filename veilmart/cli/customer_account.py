"""A customer's account. Nothing here shops."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from common.clock import now_ms
from common.money import format_amount
from customer_node import Market
from customer_node.profile import MARKET_FILE, Profile
from customer_node.seed_file import Protection
from veilmart.cli.consent import DryRun, agreed
from veilmart.cli.homes import Code, PasswordFile, Yes, output
from veilmart.cli.passwords import read_password
from veilmart.cli.profiles import ProfileHome, on_profile, profile_home, warn_of_a_visit
from veilmart.cli.times import minute_of
from veilmart.cli.unlocking import KeyFilePath, NoPassphrase, PassphraseFile, new_unlock
from veilmart.output import Output, View

app = typer.Typer(add_completion=False, rich_markup_mode=None)

_PROTECTED: Final[dict[Protection, str]] = {
    "none": "whoever can read this folder has the wallet's money: `veilmart wallet passphrase` seals it",
    "passphrase": "the wallet opens with its passphrase",
    "key_file": "the wallet opens with its key file",
}

Name = Annotated[str, typer.Argument(help="The account's name.")]


@app.command()
def join(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The market file, from the market's operator.")],
    profile: ProfileHome = None,
    passphrase_file: PassphraseFile = None,
    key_file: KeyFilePath = None,
    *,
    no_passphrase: NoPassphrase = False,
) -> None:
    """Join a market, with a new wallet. Joining it again changes nothing but its addresses."""
    place, shown = profile_home(profile), output(context)
    if (place / MARKET_FILE).exists():
        joined = Market.join(place, file)
    else:
        joined = Market.join(place, file, new_unlock(passphrase_file, key_file, no_passphrase=no_passphrase))
    protection = Profile.protection(place)
    shown.show(
        {"profile": place, "market": joined, "protection": protection},
        f"joined market {joined.market_id} in {joined.currency}, at {joined.host}:{joined.port}",
        f"broker's key {joined.broker_fingerprint}",
        f"coins and tickets rest {joined.minimum_age_seconds} seconds before they are used",
        _PROTECTED[protection],
    )


@on_profile(app, "signup")
def sign_up(
    shown: Output,
    market: Market,
    name: Name,
    password_file: PasswordFile = None,
    invite: Annotated[str, typer.Option(help="The invite code, where the market asks for one.")] = "",
) -> None:
    """Open an account and log in. The password is asked for."""
    warn_of_a_visit(shown, market)
    market.sign_up(name, read_password(password_file, new=True), invite=invite)
    shown.show({"logged_in": True}, "the account is open, and you are logged in")


@on_profile(app, "login")
def log_in(
    shown: Output, market: Market, name: Name, password_file: PasswordFile = None, code: Code = ""
) -> None:
    """Log in to your account. The password is asked for."""
    warn_of_a_visit(shown, market)
    market.log_in(name, read_password(password_file, new=False), code=code)
    shown.show({"logged_in": True}, "you are logged in")


@on_profile(app, "logout")
def log_out(shown: Output, market: Market) -> None:
    """End the account session and erase its keys, here and at the broker."""
    market.log_out()
    shown.show({"logged_in": False}, "you are logged out")


@on_profile(app)
def balance(shown: Output, market: Market) -> None:
    """Show the account's balance."""
    warn_of_a_visit(shown, market)
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
    *,
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Draw coins and tickets from the account into the wallet. Shows how much, and asks.

    Not next to a visit to a shop: that waits for the market's minimum age.
    """
    if dry_run or not yes:
        planned = market.plan_withdrawal(bundles)
        left, amount = (format_amount(each, planned.currency) for each in (planned.balance, planned.amount))
        deed = f"draw {amount} in coins, and {planned.tickets} tickets; the account then has {left}"
        if not agreed(shown, deed, msgspec.to_builtins(planned), yes=yes, dry_run=dry_run):
            return
    drawn = market.withdraw(bundles)
    views: list[View] = [
        f"drew {drawn.coins} coins of {format_amount(drawn.amount, drawn.currency)}, {drawn.tickets} tickets",
        f"the account now has {format_amount(drawn.balance, drawn.currency)}",
    ]
    if drawn.usable_from > now_ms():
        views.append(f"usable from {minute_of(drawn.usable_from)}")
    shown.show(drawn, *views)
