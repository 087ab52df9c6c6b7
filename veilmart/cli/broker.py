"""`veilmart broker`: run the broker, look after accounts and books.

Every command but `run` works on the broker's store, also while it runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from broker_node import accounts, ledger, run
from common import clock, money
from common.errors import UsageError, VeilmartError
from common.market_file import MarketFile
from common.store import Tx
from veilmart import ca
from veilmart.cli.homes import MARKET_FILE, Home, PasswordFile, home_of, output
from veilmart.cli.lists import install_list
from veilmart.cli.passwords import read_password
from veilmart.cli.running import run_node
from veilmart.output import IncompleteError, Table

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, help="The broker, in the home that `veilmart init` made."
)
account_app = typer.Typer(
    add_completion=False, rich_markup_mode=None, help="Accounts, and the balances that the operator grants."
)
ledger_app = typer.Typer(add_completion=False, rich_markup_mode=None, help="The books.")
app.add_typer(account_app, name="account")
app.add_typer(ledger_app, name="ledger")

Name = Annotated[str, typer.Argument(help="The account's name.")]


@contextmanager
def _store(given: Path | None) -> Iterator[tuple[Tx, str]]:
    """Open one transaction on the broker's store; gives the market's currency too."""
    home = home_of(given, "broker")
    if not (home / ca.IDENTITY_KEY_FILE).exists():
        raise UsageError(
            f"There is no broker in {home}.", "Make one with `veilmart init`, or name its --home."
        )
    currency = MarketFile.load(home / MARKET_FILE).currency
    store = run.open_store(home)
    try:
        with store.immediate() as tx:
            yield tx, currency
    finally:
        store.close()


@app.command("run")
def run_broker(context: typer.Context, home: Home = None) -> None:
    """Run the broker until SIGTERM or SIGINT."""
    run_node(context, run.run_broker, home_of(home, "broker"))


@app.command("install-crl")
def install_crl(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The CA's list (crl.pem).")],
    home: Home = None,
) -> None:
    """Install the CA's revocation list; a running broker reads it by itself."""
    place = home_of(home, "broker")
    output(context).show(*install_list(place, ca.CRL_FILE, ca.CA_CERTIFICATE_FILE, file))


@account_app.command("add")
def add_account(
    context: typer.Context, name: Name, password_file: PasswordFile = None, home: Home = None
) -> None:
    """Open an account with a balance of zero. The password is asked for."""
    password = read_password(password_file, new=True)
    with _store(home) as (tx, currency):
        accounts.add(tx, name, password, clock.now_ms())
    data = {"name": name, "state": "enabled", "balance": 0, "currency": currency}
    output(context).show(data, f"opened the account {name}")


@account_app.command("list")
def list_accounts(context: typer.Context, home: Home = None) -> None:
    """List accounts with their balances."""
    with _store(home) as (tx, currency):
        found = accounts.listing(tx)
    data = [
        {"name": each.name, "state": each.state, "balance": each.balance, "currency": currency}
        for each in found
    ]
    rows = [(each.name, each.state, money.format_amount(each.balance, currency)) for each in found]
    output(context).show(data, Table(("name", "state", "balance"), rows))


@account_app.command("credit")
def credit_account(
    context: typer.Context,
    name: Name,
    amount: Annotated[str, typer.Argument(help="In the market's currency, such as 50.00.")],
    home: Home = None,
) -> None:
    """Grant an account some balance."""
    with _store(home) as (tx, currency):
        units = money.parse_amount(amount, currency)
        if not units:
            raise UsageError("There is nothing to credit.", "Give an amount above zero.")
        balance = accounts.credit(tx, name, units, clock.now_ms(), clock.random_bytes)
    credited, now_has = money.format_amount(units, currency), money.format_amount(balance, currency)
    data = {"name": name, "credited": units, "balance": balance, "currency": currency}
    output(context).show(data, f"credited {credited} to {name}, who now has {now_has}")


@account_app.command("disable")
def disable_account(context: typer.Context, name: Name, home: Home = None) -> None:
    """Refuse an account's logins and end its sessions."""
    _set_state(context, name, home, "disabled")


@account_app.command("enable")
def enable_account(context: typer.Context, name: Name, home: Home = None) -> None:
    """Let a disabled account in again."""
    _set_state(context, name, home, "enabled")


def _set_state(context: typer.Context, name: str, home: Path | None, state: str) -> None:
    with _store(home) as (tx, _currency):
        accounts.set_state(tx, name, state)
    output(context).show({"name": name, "state": state}, f"{name} is {state}")


@ledger_app.command("check")
def check_ledger(context: typer.Context, home: Home = None) -> None:
    """Recompute every book from its entries. Exit 1 if anything is wrong."""
    with _store(home) as (tx, currency):
        report = ledger.check(tx)
    data = {"books": dict(report.books), "faults": list(report.faults), "currency": currency}
    rows = [(book, money.format_amount(total, currency)) for book, total in report.books.items()]
    table = Table(("book", "sum"), rows)
    if report.faults:
        faults = VeilmartError(
            f"The books are wrong in {len(report.faults)} places.", "Stop the broker and keep a copy."
        )
        raise IncompleteError(faults, data, table, *report.faults)
    output(context).show(data, table, "the books are right")
