"""A customer's account itself: its password, its second factor, its end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final

import typer

from common.errors import UsageError
from common.money import format_amount
from customer_node import Market
from veilmart.cli.consent import DryRun, agreed
from veilmart.cli.homes import Code, PasswordFile, Yes, read_small_file
from veilmart.cli.passwords import read_password
from veilmart.cli.profiles import on_profile, warn_of_a_visit
from veilmart.output import Output, View

app: Final = typer.Typer(add_completion=False, rich_markup_mode=None)
totp_app: Final = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    help="A second factor: one-time codes of an authenticator app (RFC 6238).",
)
account_app: Final = typer.Typer(add_completion=False, rich_markup_mode=None, help="The account as a whole.")
app.add_typer(totp_app, name="totp")
app.add_typer(account_app, name="account")

NewPasswordFile = Annotated[
    Path | None, typer.Option(help="Read the new password from this file instead of asking for it.")
]
SecretFile = Annotated[
    Path | None, typer.Option(help="The secret that `veilmart totp secret` printed.", show_default=False)
]
MAXIMUM_SECRET_FILE: Final = 256


@on_profile(app, "passwd")
def change_password(
    shown: Output,
    market: Market,
    password_file: PasswordFile = None,
    new_password_file: NewPasswordFile = None,
    code: Code = "",
) -> None:
    """Change the password. Every session of the account ends."""
    warn_of_a_visit(shown, market)
    shown.note("the present password")
    old = read_password(password_file, new=False)
    shown.note("the new password")
    market.account.change_password(old, read_password(new_password_file, new=True), code)
    shown.show(
        {"logged_in": False},
        "the password is changed, and every session of the account has ended: log in again",
    )


@on_profile(totp_app, "secret")
def make_secret(shown: Output, market: Market) -> None:
    """Make a secret for an authenticator app. Asks nobody, and changes nothing yet."""
    made = market.account.new_secret()
    shown.show(made, f"secret  {made.secret}", f"address {made.address}")


@on_profile(totp_app, "enable")
def enable_totp(
    shown: Output,
    market: Market,
    password_file: PasswordFile = None,
    secret_file: SecretFile = None,
    code: Code = "",
) -> None:
    """Demand a code at each login from now on. Without --secret-file it makes the secret and asks."""
    warn_of_a_visit(shown, market)
    if secret_file is not None:
        secret = read_small_file(secret_file, MAXIMUM_SECRET_FILE).decode("ascii", "replace").strip()
    elif sys.stdin.isatty():
        made = market.account.new_secret()
        secret = made.secret
        shown.note(f"enter this secret in your app: {made.secret}")
        shown.note(f"or this address: {made.address}")
        code = typer.prompt("Code", err=True)
    else:
        raise UsageError(
            "Nobody is there to be asked for a code.",
            "Make a secret with `veilmart totp secret`, then give --secret-file and --code.",
        )
    market.account.enable_totp(read_password(password_file, new=False), secret, code)
    shown.show(
        {"totp": True}, "each login asks for a code from now on; whoever loses the app asks the operator"
    )


@on_profile(totp_app, "disable")
def disable_totp(shown: Output, market: Market, password_file: PasswordFile = None, code: Code = "") -> None:
    """Demand no code any more."""
    warn_of_a_visit(shown, market)
    market.account.disable_totp(read_password(password_file, new=False), code)
    shown.show({"totp": False}, "no login asks for a code any more")


_STILL_THERE = (
    "until the end of the month after the last withdrawal words restore what was drawn from it, and another "
    "device gets what it drew and was never given (`veilmart login`, `veilmart resume`)"
)


@on_profile(account_app, "close")
def close_account(
    shown: Output,
    market: Market,
    *,
    password_file: PasswordFile = None,
    code: Code = "",
    yes: Yes = False,
    dry_run: DryRun = False,
) -> None:
    """Close your account for good. What is left on it is drawn into the wallet first.

    Not next to a visit to a shop: that waits for the market's minimum age.
    Until the end of the month after the last withdrawal the backup words restore what was drawn from it, and
    another device gets what it drew and was never given (`login`, then `resume`). Afterwards nothing does.
    """
    if dry_run:
        left = market.balance()
        deed = f"draw the rest, {format_amount(left.amount, left.currency)}, and close the account for good"
        data = {"closed": False, "amount": left.amount, "currency": left.currency}
        agreed(shown, deed, data, yes=yes, dry_run=dry_run)
        return
    password = read_password(password_file, new=False)
    shown.confirm(
        "Close the account for good? Its name stays taken. What was drawn from it can be restored from words "
        "until the end of the month after the last withdrawal.",
        yes=yes,
    )
    drawn = market.account.close(password, code)
    views: list[View] = [
        "the account is closed for good; the wallet stays yours",
        _STILL_THERE,
    ]
    if drawn is not None:
        views.append(
            f"drew the rest, {drawn.coins} coins of {format_amount(drawn.amount, drawn.currency)}, "
            f"and {drawn.tickets} tickets"
        )
    shown.show({"closed": True, "drawn": drawn}, *views)
