"""`veilmart broker`: run the broker, look after accounts and books.

Every command but `run` works on the broker's store, also while it runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from broker_node import ledger, operator_actions, payments, run
from broker_node.postings import payments_state
from common import clock, money
from common.errors import LedgerBrokenError
from veilmart import ca
from veilmart.cli import broker_accounts, broker_disputes, broker_gateway, broker_invites, broker_payouts
from veilmart.cli.broker_store import broker_snapshot, broker_store, demand_broker
from veilmart.cli.homes import Home, home_of, output
from veilmart.cli.lists import install_list
from veilmart.cli.running import run_node
from veilmart.cli.times import minute_of
from veilmart.output import IncompleteError, Table

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, help="The broker, in the home that `veilmart init` made."
)
ledger_app = typer.Typer(add_completion=False, rich_markup_mode=None, help="The books.")
app.add_typer(broker_accounts.app, name="account")
app.add_typer(broker_invites.app, name="invite")
app.add_typer(broker_gateway.app, name="gateway")
app.add_typer(ledger_app, name="ledger")
app.add_typer(broker_payouts.app, name="payout")
app.add_typer(broker_disputes.app, name="dispute")


@app.command("run")
def run_broker(context: typer.Context, home: Home = None) -> None:
    """Run the broker until SIGTERM or SIGINT."""
    run_node(context, run.run_broker, demand_broker(home_of(home, "broker")))


@app.command("install-crl")
def install_crl(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The CA's list (crl.pem).")],
    home: Home = None,
) -> None:
    """Install the CA's revocation list; a running broker reads it by itself."""
    place = home_of(home, "broker")
    output(context).show(*install_list(place, ca.CRL_FILE, ca.CA_CERTIFICATE_FILE, file))


@app.command("actions")
def list_actions(
    context: typer.Context,
    about: Annotated[str | None, typer.Option(help="Those about this account, order or merchant.")] = None,
    home: Home = None,
) -> None:
    """List what the operator did, and why."""
    with broker_store(home) as desk:
        found = operator_actions.listing(desk.tx, about)
    data = [
        {
            "id": each.id.hex(),
            "at": each.at,
            "action": each.action,
            "subject": each.subject,
            "reason": each.reason,
        }
        for each in found
    ]
    rows = [(minute_of(each.at), each.action, each.subject, each.reason) for each in found]
    output(context).show(data, Table(("at", "action", "about", "reason"), rows))


@ledger_app.command("check")
def check_ledger(context: typer.Context, home: Home = None) -> None:
    """Recompute every book from its entries. Exit 1 and stop payments if anything is wrong.

    Payments that were stopped go on once this finds nothing wrong.
    """
    with broker_snapshot(home) as desk:
        report, before = ledger.check(desk.tx), payments_state(desk.tx)
    with broker_store(home) as desk:
        after = payments.act_on(desk.tx, report, desk.audit, clock.now_ms(), clock.random_bytes)
    currency = desk.currency
    data = {
        "books": dict(report.books),
        "faults": list(report.faults),
        "postings": report.walked,
        "payments": after,
        "currency": currency,
    }
    rows = [(book, money.format_amount(total, currency)) for book, total in report.books.items()]
    table = Table(("book", "sum"), rows)
    if report.faults:
        raise IncompleteError(_broken(report), data, table, *report.faults)
    resumed = ["payments go on"] if before != after else []
    output(context).show(data, table, f"the books are right: {report.walked} postings", *resumed)


def _broken(report: ledger.Report) -> LedgerBrokenError:
    return LedgerBrokenError(
        f"The books are wrong in {len(report.faults)} places. Payments are stopped: nothing is withdrawn, "
        "ordered, refunded, settled or paid out until a check finds nothing wrong.",
        "Keep a copy of broker.db and of the log, find out what changed it, put it right (from a backup, "
        'say), and check again: docs/operating.md, "When the books are wrong".',
    )
