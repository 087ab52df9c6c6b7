"""`veilmart broker payout`: what merchants want paid out, and what the operator has paid."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from broker_node import payouts
from broker_node.payouts import PayoutView
from common import clock, money
from common.errors import UsageError
from veilmart.cli.broker_store import Desk, act_with_consent, broker_store
from veilmart.cli.consent import DryRun
from veilmart.cli.homes import Csv, Home, Reason, Yes, output
from veilmart.cli.times import minute_of, rfc3339
from veilmart.output import Table

app: Final = typer.Typer(
    add_completion=False, rich_markup_mode=None, help="Payouts that merchants have asked for."
)

PayoutId = Annotated[str, typer.Argument(metavar="PAYOUT", help="Its id, as `list` shows it.")]
_COLUMNS: Final = (
    *("payout_id", "requested", "merchant", "amount", "currency"),
    *("destination", "state", "decided", "reason"),
)


@app.command("list")
def list_payouts(
    context: typer.Context,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Also those that were decided.")] = False,
    as_csv: Csv = False,
    home: Home = None,
) -> None:
    """List payouts that wait, the oldest first."""
    with broker_store(home) as desk:
        found = payouts.listing(desk.tx, None if everything else "requested")
    if as_csv:
        rows = [tuple(_csv_row(each, desk.currency).values()) for each in found]
        output(context).csv(Table(_COLUMNS, rows))
        return
    lines = [
        (
            each.payout_id.hex(),
            minute_of(each.requested),
            each.merchant,
            money.format_amount(each.amount, desk.currency),
            each.destination,
            each.state,
        )
        for each in found
    ]
    table = Table(("payout", "asked", "merchant", "amount", "to", "state"), lines)
    output(context).show([_data(each, desk.currency) for each in found], table)


@app.command("confirm")
def confirm(
    context: typer.Context,
    payout: PayoutId,
    reason: Reason,
    *,
    yes: Yes = False,
    dry_run: DryRun = False,
    home: Home = None,
) -> None:
    """Say that a payout was paid: it leaves the books. The merchant reads the reason, a reference say."""
    _decide(context, payout, "confirmed", reason, home, yes=yes, dry_run=dry_run)


@app.command("reject")
def reject(
    context: typer.Context,
    payout: PayoutId,
    reason: Reason,
    *,
    yes: Yes = False,
    dry_run: DryRun = False,
    home: Home = None,
) -> None:
    """Do not pay: the money is available again. The merchant reads the reason."""
    _decide(context, payout, "rejected", reason, home, yes=yes, dry_run=dry_run)


_DEEDS: Final[dict[payouts.Decision, str]] = {
    "confirmed": "note {amount} to {merchant} ({destination}) as paid out",
    "rejected": "make {amount} available to {merchant} again, and pay nothing",
}


def _decide(
    context: typer.Context,
    payout: str,
    decision: payouts.Decision,
    reason: str,
    home: Path | None,
    *,
    yes: bool,
    dry_run: bool,
) -> None:
    try:
        payout_id = bytes.fromhex(payout)
    except ValueError:
        raise UsageError(
            f"{payout!r} is not a payout's id.", "`veilmart broker payout list` shows them."
        ) from None

    def act(desk: Desk) -> PayoutView:
        now, random = clock.now_ms(), clock.random_bytes
        return payouts.decide(desk.tx, desk.audit, payout_id, decision, reason, now, random)

    def describe(found: PayoutView, currency: str) -> tuple[str, dict[str, Any]]:
        amount = money.format_amount(found.amount, currency)
        deed = _DEEDS[decision].format(amount=amount, merchant=found.merchant, destination=found.destination)
        return deed, _data(found, currency)

    done = act_with_consent(output(context), home, act, describe, yes=yes, dry_run=dry_run)
    if done is not None:
        found, currency = done
        amount = money.format_amount(found.amount, currency)
        output(context).show(_data(found, currency), f"{decision}: {amount} to {found.merchant}")


def _data(payout: PayoutView, currency: str) -> dict[str, Any]:
    return {
        "payout_id": payout.payout_id.hex(),
        "requested": payout.requested,
        "merchant": payout.merchant,
        "amount": payout.amount,
        "currency": currency,
        "destination": payout.destination,
        "state": payout.state,
        "decided": payout.decided,
        "reason": payout.reason,
    }


def _csv_row(payout: PayoutView, currency: str) -> dict[str, Any]:
    decided = "" if payout.decided is None else rfc3339(payout.decided)
    return _data(payout, currency) | {"requested": rfc3339(payout.requested), "decided": decided}
