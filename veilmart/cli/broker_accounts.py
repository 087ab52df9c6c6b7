"""`veilmart broker account`: what the operator does with accounts, each time with a reason."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from broker_node import accounts, administration
from common import clock, money
from common.errors import UsageError
from veilmart.cli.broker_store import Desk, act_with_consent, broker_store
from veilmart.cli.consent import DryRun
from veilmart.cli.homes import Home, PasswordFile, Reason, Yes, output
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
    *,
    yes: Yes = False,
    dry_run: DryRun = False,
    home: Home = None,
) -> None:
    """Grant an account some balance. Shows what it then has, and asks."""

    def act(desk: Desk) -> tuple[int, int]:
        units = money.parse_amount(amount, desk.currency)
        if not units:
            raise UsageError("There is nothing to credit.", "Give an amount above zero.")
        now, random = clock.now_ms(), clock.random_bytes
        return units, administration.credit(desk.tx, desk.audit, name, units, reason, now, random)

    def describe(outcome: tuple[int, int], currency: str) -> tuple[str, dict[str, Any]]:
        credited, then_has = (money.format_amount(each, currency) for each in outcome)
        data = {"name": name, "credited": outcome[0], "balance": outcome[1], "currency": currency}
        return f"credit {credited} to {name}, who then has {then_has}", data

    done = act_with_consent(output(context), home, act, describe, yes=yes, dry_run=dry_run)
    if done is not None:
        (units, balance), currency = done
        credited, now_has = (money.format_amount(each, currency) for each in (units, balance))
        data = {"name": name, "credited": units, "balance": balance, "currency": currency}
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
    yes: Yes = False,
    dry_run: DryRun = False,
    home: Home = None,
) -> None:
    """Close an account for good. Its name stays taken. Shows what is left on it, and asks.

    While something counts that was drawn from it, its owner can log in to fetch that, and to nothing else.
    """

    def act(desk: Desk) -> int:
        now, random = clock.now_ms(), clock.random_bytes
        return administration.close(desk.tx, desk.audit, name, reason, now, random, settle=settle)

    def describe(rest: int, currency: str) -> tuple[str, dict[str, Any]]:
        data = {"name": name, "state": "closed", "settled": rest, "currency": currency}
        return f"close {name} for good and settle {money.format_amount(rest, currency)}", data

    done = act_with_consent(output(context), home, act, describe, yes=yes, dry_run=dry_run)
    if done is not None:
        rest, currency = done
        data = {"name": name, "state": "closed", "settled": rest, "currency": currency}
        output(context).show(data, f"{name} is closed; settled {money.format_amount(rest, currency)}")


@app.command("reset-totp")
def reset_totp(context: typer.Context, name: Name, reason: Reason, home: Home = None) -> None:
    """Take the second factor from an account whose owner has lost it. Make sure that it is the owner."""
    with broker_store(home) as desk:
        administration.reset_totp(desk.tx, desk.audit, name, reason, clock.now_ms(), clock.random_bytes)
    output(context).show({"name": name, "totp": False}, f"{name} logs in without a code again")
