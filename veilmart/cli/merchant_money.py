"""`veilmart merchant balance, statement, payout, payouts`: what a merchant earns, and has paid out.

What is shown is what the node has read from the broker: a running one reads it now, otherwise it is what
was read last. A payout is asked for by the running node; this waits for the answer, and says who was
waited for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from common import clock
from common.config import DAY_MS
from common.errors import (
    BrokerUnreachableError,
    DeadlineError,
    InsufficientFundsError,
    PaymentsStoppedError,
    RejectedError,
    UsageError,
    VeilmartError,
)
from common.money import format_amount, parse_amount
from merchant_node.home import MerchantHome
from merchant_node.treasury import Line, Payout, Treasury
from veilmart.cli.consent import DryRun, agreed
from veilmart.cli.homes import Csv, Home, MerchantId, Timeout, Yes, merchant_home, output
from veilmart.cli.times import day_start, minute_of, rfc3339
from veilmart.output import Table

app: Final = typer.Typer(add_completion=False, rich_markup_mode=None)

DEFAULT_WAIT_S: Final = 15.0
REFRESH_S: Final = 3.0


@contextmanager
def _treasury(
    home: Path | None, merchant: str | None, patience_s: float
) -> Iterator[tuple[MerchantHome, Treasury, str]]:
    place = MerchantHome(merchant_home(home, merchant))
    currency = place.market().currency
    with place.treasury() as treasury:
        if place.is_running():
            # Where the broker does not answer, what was read last is shown, and when that was.
            treasury.refresh(patience_s)
        yield place, treasury, currency


@app.command()
def balance(
    context: typer.Context, timeout: Timeout = REFRESH_S, merchant: MerchantId = None, home: Home = None
) -> None:
    """Show what is pending, available, and reserved for payouts."""
    with _treasury(home, merchant, timeout) as (_, treasury, currency):
        found = treasury.balance()
    data = {
        "pending": found.pending,
        "available": found.available,
        "reserved": found.reserved,
        "commission_basis_points": found.commission_basis_points,
        "currency": currency,
        "as_of": found.read,
    }
    rows = [(name, format_amount(getattr(found, name), currency)) for name in _BOOKS]
    never = "the broker was not asked yet: run the merchant"
    as_of = f"as of {minute_of(found.read)}" if found.read else never
    commission = f"the operator's commission is {_percent(found.commission_basis_points)}"
    output(context).show(data, Table(("money", "amount"), rows), commission, as_of)


@app.command()
def statement(
    context: typer.Context,
    *,
    since: Annotated[str | None, typer.Option("--from", help="First day, YYYY-MM-DD, UTC.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Last day.")] = None,
    as_csv: Csv = False,
    timeout: Timeout = REFRESH_S,
    merchant: MerchantId = None,
    home: Home = None,
) -> None:
    """List what came in, was settled, given back and paid out, with the sums after each."""
    first = 0 if since is None else day_start(since)
    end = 2**62 if until is None else day_start(until) + DAY_MS
    with _treasury(home, merchant, timeout) as (_, treasury, currency):
        lines = treasury.statement(since=first, until=end)
        found = treasury.balance()
    if as_csv:
        output(context).csv(Table(_COLUMNS, [_csv_line(line, currency) for line in lines]))
        return
    data = {
        "lines": [_line(line) for line in lines],
        "commission_basis_points": found.commission_basis_points,
        "currency": currency,
        "as_of": found.read,
    }
    amounts = ("amount", "pending", "available", "reserved")
    rows = [
        (
            minute_of(line.at),
            line.kind.replace("_", " "),
            line.reference.hex(),
            *(format_amount(getattr(line, name), currency) for name in amounts),
        )
        for line in lines
    ]
    table = Table(("at", "what", "order or payout", *amounts), rows)
    output(context).show(data, table, f"commission now: {_percent(found.commission_basis_points)}")


_BOOKS: Final = ("pending", "available", "reserved")
_COLUMNS: Final = (
    *("line", "at", "kind", "reference", "amount", "pending", "available", "reserved", "currency"),
)


def _line(line: Line) -> dict[str, Any]:
    return {name: getattr(line, name) for name in _COLUMNS[:-1]} | {"reference": line.reference.hex()}


def _csv_line(line: Line, currency: str) -> tuple[object, ...]:
    return (*(_line(line) | {"at": rfc3339(line.at)}).values(), currency)


@app.command()
def payout(
    context: typer.Context,
    *,
    amount: Annotated[str | None, typer.Argument(help="In the market's currency, such as 50.00.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that is available.")] = False,
    destination: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="Where to: an IBAN, say. The operator reads it.",
            show_default="where the last one went",
        ),
    ] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the broker.")] = DEFAULT_WAIT_S,
    merchant: MerchantId = None,
    home: Home = None,
) -> None:
    """Ask the operator to pay out what is available. The operator confirms it when it is paid.

    Shows how much goes where, and asks.
    """
    if (amount is None) != everything:
        raise UsageError("Give either an amount or --all.")
    with _treasury(home, merchant, min(REFRESH_S, timeout)) as (place, treasury, currency):
        units = None if amount is None else parse_amount(amount, currency)
        planned = treasury.rehearse(units, destination, clock.now_ms(), clock.random_bytes)
        deed = f"ask for a payout of {format_amount(planned.amount, currency)} to {planned.destination}"
        if not agreed(output(context), deed, _payout(planned, currency), yes=yes, dry_run=dry_run):
            return
        asked = treasury.ask(units, destination, clock.now_ms(), clock.random_bytes)
        found = treasury.wait(
            asked.payout_id,
            timeout if place.is_running() else 0.0,
            until=lambda each: each.state != "asked" or bool(each.code),
        )
        problem = _problem(place, found, timeout)
    if problem is not None:
        raise problem
    text = f"asked for a payout of {format_amount(found.amount, currency)}: {found.payout_id.hex()}"
    output(context).show(
        _payout(found, currency), text, "it is reserved; `veilmart merchant payouts` shows when it is paid"
    )


def _problem(place: MerchantHome, payout: Payout, timeout: float) -> VeilmartError | None:
    if payout.state == "refused":
        kinds = {"insufficient_funds": InsufficientFundsError}
        kind = kinds.get(payout.code, RejectedError)
        return kind(f"The broker refused the payout: {payout.code}.", "Nothing was reserved.")
    if payout.state != "asked":
        return None
    kept = f"Payout {payout.payout_id.hex()} is stored and goes on being asked for."
    if payout.code == "payments_stopped":
        return PaymentsStoppedError("The broker has stopped payments for now.", kept)
    if payout.code:
        return BrokerUnreachableError("The broker is too busy.", kept)
    if not place.is_running():
        return DeadlineError(
            "The merchant's node does not run, and it is what asks the broker.",
            f"{kept} Start it with `veilmart merchant run`.",
            hop="merchant",
        )
    return DeadlineError(f"The broker has not answered in {timeout:g} s.", kept, hop="broker")


@app.command()
def payouts(
    context: typer.Context,
    *,
    as_csv: Csv = False,
    timeout: Timeout = REFRESH_S,
    merchant: MerchantId = None,
    home: Home = None,
) -> None:
    """List payouts, and what became of them."""
    with _treasury(home, merchant, timeout) as (_, treasury, currency):
        found = treasury.payouts()
    data = [_payout(each, currency) for each in found]
    if as_csv:
        rows = [tuple((_payout(each, currency) | {"asked": rfc3339(each.asked)}).values()) for each in found]
        output(context).csv(Table(_PAYOUT_COLUMNS, rows))
        return
    lines = [
        (
            each.payout_id.hex(),
            minute_of(each.asked),
            format_amount(each.amount, currency),
            each.destination,
            each.state,
            each.reason or each.code,
        )
        for each in found
    ]
    output(context).show(data, Table(("payout", "asked", "amount", "to", "state", "why"), lines))


_PAYOUT_COLUMNS: Final = (
    *("payout_id", "asked", "amount", "currency", "destination", "state", "code", "reason"),
)


def _payout(payout: Payout, currency: str) -> dict[str, Any]:
    return {
        "payout_id": payout.payout_id.hex(),
        "asked": payout.asked,
        "amount": payout.amount,
        "currency": currency,
        "destination": payout.destination,
        "state": payout.state,
        "code": payout.code,
        "reason": payout.reason,
    }


def _percent(basis_points: int) -> str:
    return f"{basis_points // 100}.{basis_points % 100:02} %"
