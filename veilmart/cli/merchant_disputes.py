"""`veilmart merchant dispute`: orders that customers dispute, and this merchant's word on them."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from merchant_node.disputes import DisputeReport, Disputes
from merchant_node.home import MerchantHome
from merchant_node.reports import Reports
from veilmart.cli import arrived
from veilmart.cli.homes import Home, MerchantId, merchant_home, output
from veilmart.cli.times import minute_of
from veilmart.output import Table

app: Final = typer.Typer(
    add_completion=False, rich_markup_mode=None, help="Disputed orders, whose money is frozen."
)

OrderId = Annotated[str, typer.Argument(help="The order's id, or the beginning of it.")]


@app.command("list")
def list_disputes(
    context: typer.Context,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Also those that were decided.")] = False,
    merchant: MerchantId = None,
    home: Home = None,
) -> None:
    """List open disputes, the oldest first."""
    store = MerchantHome(merchant_home(home, merchant)).store()
    try:
        found = Disputes(store).listing(everything=everything)
    finally:
        store.close()
    rows = [
        (
            each.order_id.hex(),
            each.kind,
            each.state,
            minute_of(each.opened),
            minute_of(each.decide_by),
            "; ".join(arrived.told(each.arrived)),
            each.answer or "",
        )
        for each in found
    ]
    table = Table(("order", "because", "state", "opened", "decided by", arrived.CLAIMED, "your answer"), rows)
    output(context).show([_data(each) for each in found], table)


@app.command("answer")
def answer_dispute(
    context: typer.Context,
    order: OrderId,
    statement: Annotated[str, typer.Option(help="What the market's operator shall read. Said once.")],
    merchant: MerchantId = None,
    home: Home = None,
) -> None:
    """Say this merchant's part; works off line too. To give the money back, use `merchant refund`."""
    store = MerchantHome(merchant_home(home, merchant)).store()
    try:
        answered = Disputes(store).answer(Reports(store).find(order), statement)
    finally:
        store.close()
    output(context).show(_data(answered), f"the running merchant says so of order {answered.order_id.hex()}")


def _data(dispute: DisputeReport) -> dict[str, Any]:
    return {
        "order_id": dispute.order_id.hex(),
        "kind": dispute.kind,
        "state": dispute.state,
        "opened": dispute.opened,
        "decide_by": dispute.decide_by,
        "arrived": arrived.data_of(dispute.arrived),
        "answer": dispute.answer,
        "sent": dispute.sent,
    }
