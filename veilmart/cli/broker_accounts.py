"""`veilmart broker account`: what the operator does with accounts, each time with a reason."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from broker_node import accounts, administration
from common import clock, money
from common.errors import UsageError
from veilmart.cli.broker_store import broker_store
from veilmart.cli.homes import Home, PasswordFile, Reason, output
from veilmart.cli.passwords import read_password
from veilmart.output import Table

app: Final = typer.Typer(
    add_completion=False, rich_markup_mode=None, help="Accounts, and the balances that the operator grants."
)

Name = Annotated[str, typer.Argument(help="The account's name.")]


@app.command("add")
def add_account(
    context: typer.Context, name: Name, reason: Reason, password_file: PasswordFile = None, home: Home = None
) -> None:
    """Open an account with a balance of zero. The password is asked for."""
    password = read_password(password_file, new=True)
    with broker_store(home) as desk:
        administration.add(desk.tx, desk.audit, name, password, reason, clock.now_ms(), clock.random_bytes)
    data = {"name": name, "state": "enabled", "balance": 0, "currency": desk.currency}
    output(context).show(data, f"opened the account {name}")


@app.command("list")
def list_accounts(context: typer.Context, home: Home = None) -> None:
    """List accounts with their balances."""
    with broker_store(home) as desk:
        found = accounts.listing(desk.tx)
    data = [
        {"name": each.name, "state": each.state, "balance": each.balance, "currency": desk.currency}
        for each in found
    ]
    rows = [(each.name, each.state, money.format_amount(each.balance, desk.currency)) for each in found]
    output(context).show(data, Table(("name", "state", "balance"), rows))


@app.command("credit")
def credit_account(
    context: typer.Context,
    name: Name,
    amount: Annotated[str, typer.Argument(help="In the market's currency, such as 50.00.")],
    reason: Reason,
    home: Home = None,
) -> None:
    """Grant an account some balance."""
    with broker_store(home) as desk:
        units = money.parse_amount(amount, desk.currency)
        if not units:
            raise UsageError("There is nothing to credit.", "Give an amount above zero.")
        balance = administration.credit(
            desk.tx, desk.audit, name, units, reason, clock.now_ms(), clock.random_bytes
        )
    credited, now_has = (money.format_amount(each, desk.currency) for each in (units, balance))
    data = {"name": name, "credited": units, "balance": balance, "currency": desk.currency}
    output(context).show(data, f"credited {credited} to {name}, who now has {now_has}")


@app.command("disable")
def disable_account(context: typer.Context, name: Name, reason: Reason, home: Home = None) -> None:
    """Refuse an account's logins and end its sessions."""
    with broker_store(home) as desk:
        administration.disable(desk.tx, desk.audit, name, reason, clock.now_ms(), clock.random_bytes)
    output(context).show({"name": name, "state": "disabled"}, f"{name} is disabled")


@app.command("enable")
def enable_account(context: typer.Context, name: Name, reason: Reason, home: Home = None) -> None:
    """Let a disabled account in again."""
    with broker_store(home) as desk:
        administration.enable(desk.tx, desk.audit, name, reason, clock.now_ms(), clock.random_bytes)
    output(context).show({"name": name, "state": "enabled"}, f"{name} is enabled")


@app.command("close")
def close_account(
    context: typer.Context,
    name: Name,
    reason: Reason,
    *,
    settle: Annotated[
        bool, typer.Option("--settle", help="Take back what is left on it; you have paid it out elsewhere.")
    ] = False,
    home: Home = None,
) -> None:
    """Close an account for good. Its name stays taken."""
    with broker_store(home) as desk:
        now, random = clock.now_ms(), clock.random_bytes
        rest = administration.close(desk.tx, desk.audit, name, reason, now, random, settle=settle)
    data = {"name": name, "state": "closed", "settled": rest, "currency": desk.currency}
    output(context).show(data, f"{name} is closed; settled {money.format_amount(rest, desk.currency)}")


@app.command("reset-totp")
def reset_totp(context: typer.Context, name: Name, reason: Reason, home: Home = None) -> None:
    """Take the second factor from an account whose owner has lost it. Make sure that it is the owner."""
    with broker_store(home) as desk:
        administration.reset_totp(desk.tx, desk.audit, name, reason, clock.now_ms(), clock.random_bytes)
    output(context).show({"name": name, "totp": False}, f"{name} logs in without a code again")
