"""`veilmart broker dispute`: what customers dispute, what both sides say, and what the operator decides."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from broker_node import disputes
from broker_node.disputes import DisputeView
from common import clock, codec, messages, money
from common.receipts import digest_of
from veilmart.cli import arrived
from veilmart.cli.broker_store import Desk, act_with_consent, broker_store
from veilmart.cli.consent import DryRun
from veilmart.cli.homes import Home, Reason, Yes, output
from veilmart.cli.times import minute_of
from veilmart.output import Table, View

app: Final = typer.Typer(
    add_completion=False, rich_markup_mode=None, help="Disputed orders, whose money is frozen."
)

OrderId = Annotated[str, typer.Argument(help="The order's id, or the beginning of it.")]


@app.command("list")
def list_disputes(
    context: typer.Context,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Also those that were decided.")] = False,
    home: Home = None,
) -> None:
    """List disputes that wait for a decision, the oldest first."""
    with broker_store(home) as desk:
        found = disputes.listing(desk.tx, everything=everything)
    now = clock.now_ms()
    rows = [
        (
            each.order_id.hex(),
            each.merchant,
            each.kind,
            money.format_amount(each.left, desk.currency),
            each.state,
            minute_of(each.decide_by) + (" (overdue)" if _overdue(each, now) else ""),
            "yes" if each.answer is not None else "no",
        )
        for each in found
    ]
    table = Table(("order", "merchant", "because", "about", "state", "decide by", "answered"), rows)
    output(context).show([_data(each, desk.currency) for each in found], table)


@app.command("show")
def show_dispute(context: typer.Context, order: OrderId, home: Home = None) -> None:
    """Show what both sides say, and the evidence. It tells what was bought: show it to nobody."""
    with broker_store(home) as desk:
        found = disputes.find(desk.tx, order)
    _show(context, found, desk.currency)


@app.command("refund")
def refund_dispute(
    context: typer.Context,
    order: OrderId,
    reason: Reason,
    *,
    yes: Yes = False,
    dry_run: DryRun = False,
    home: Home = None,
) -> None:
    """Give the customer the money back. Both sides are told; the customer reads the reason."""
    _decide(context, order, "refunded", reason, home, yes=yes, dry_run=dry_run)


@app.command("settle")
def settle_dispute(
    context: typer.Context,
    order: OrderId,
    reason: Reason,
    *,
    yes: Yes = False,
    dry_run: DryRun = False,
    home: Home = None,
) -> None:
    """Pay the merchant. Both sides are told; the customer reads the reason."""
    _decide(context, order, "settled", reason, home, yes=yes, dry_run=dry_run)


def _decide(
    context: typer.Context,
    order: str,
    decision: disputes.Decision,
    reason: str,
    home: Path | None,
    *,
    yes: bool,
    dry_run: bool,
) -> None:
    disputed: list[DisputeView] = []

    def act(desk: Desk) -> DisputeView:
        found = disputes.find(desk.tx, order)
        disputed.append(found)
        now, random = clock.now_ms(), clock.random_bytes
        return disputes.decide(
            desk.tx, desk.audit, desk.limits, found.order_id, decision, reason, now, random
        )

    def describe(decided: DisputeView, currency: str) -> tuple[str, dict[str, Any]]:
        left = money.format_amount(disputed[-1].left, currency)
        deed = {
            "refunded": f"give the customer {left} back, and {decided.merchant} nothing",
            "settled": f"pay {decided.merchant} {left}, and give the customer nothing back",
        }[decision]
        return f"{deed}, for order {decided.order_id.hex()}", _data(decided, currency)

    done = act_with_consent(output(context), home, act, describe, yes=yes, dry_run=dry_run)
    if done is not None:
        _show(context, *done)


def _overdue(dispute: DisputeView, now: int) -> bool:
    return dispute.state == "open" and dispute.decide_by <= now


def _show(context: typer.Context, dispute: DisputeView, currency: str) -> None:
    facts: list[tuple[str, object]] = [
        ("order", dispute.order_id.hex()),
        ("merchant", dispute.merchant),
        ("because", dispute.kind),
        ("state", dispute.state),
        ("paid", money.format_amount(dispute.amount, currency)),
        ("about", money.format_amount(dispute.left, currency)),
        ("opened", minute_of(dispute.opened)),
        ("decide by", minute_of(dispute.decide_by)),
        ("the customer says", dispute.statement or "nothing"),
        ("the merchant says", dispute.answer or "nothing yet"),
        ("the evidence says", dispute.finding),
        *((arrived.CLAIMED, text) for text in arrived.told(dispute.arrived)),
        ("decided because", dispute.reason or ""),
    ]
    views: list[View] = [Table(("field", "value"), [fact for fact in facts if fact[1] != ""])]
    if dispute.evidence is not None:
        views += _signed(dispute.evidence, currency)
    output(context).show(_data(dispute, currency), *views)


def _signed(evidence: messages.Evidence, currency: str) -> list[View]:
    """Show receipt and records: both say what was promised, and both are signed.

    A record that no line of the receipt names is the merchant's too, of another product or version.
    """
    lines = [
        (
            line.sku,
            line.title,
            line.quantity,
            money.format_amount(line.amount, currency),
            line.file_name,
            line.size,
            line.digest.hex(),
        )
        for line in codec.RECEIPT.unpack(evidence.receipt).lines
    ]
    records = [
        (
            record.sku,
            record.version,
            record.title,
            record.variant,
            money.format_amount(record.price, record.currency),
            "yes" if record.keys else "no",
            record.file_name,
            record.size,
            record.digest.hex(),
            "yes" if named else "no",
            record.description,
        )
        for record, named in _records(evidence)
    ]
    promised = (
        "record of",
        "version",
        "title",
        "variant",
        "price",
        "keys",
        "file",
        "size",
        "SHA-256",
        "in the receipt",
    )
    return [
        Table(("sku", "title", "quantity", "amount", "file", "size", "SHA-256"), lines),
        Table((*promised, "description"), records),
    ]


def _records(evidence: messages.Evidence) -> list[tuple[messages.ProductRecord, bool]]:
    """Give the records, and whether the receipt names each."""
    named = {line.record for line in codec.RECEIPT.unpack(evidence.receipt).lines}
    return [
        (codec.PRODUCT_RECORD.unpack(each.record), digest_of(each.record) in named)
        for each in evidence.records
    ]


def _data(dispute: DisputeView, currency: str) -> dict[str, Any]:
    return {
        "order_id": dispute.order_id.hex(),
        "merchant": dispute.merchant,
        "kind": dispute.kind,
        "state": dispute.state,
        "amount": dispute.amount,
        "left": dispute.left,
        "currency": currency,
        "opened": dispute.opened,
        "decide_by": dispute.decide_by,
        "overdue": _overdue(dispute, clock.now_ms()),
        "statement": dispute.statement,
        "answer": dispute.answer,
        "finding": dispute.finding,
        "reason": dispute.reason,
        "decided": dispute.decided,
        "arrived": arrived.data_of(dispute.arrived),
        **_evidence_data(dispute.evidence),
    }


def _evidence_data(evidence: messages.Evidence | None) -> dict[str, Any]:
    """Give what is signed: as fields, and as the bytes that anybody can verify (base64)."""
    if evidence is None:
        return {"receipt": None, "records": None, "evidence": None}
    return {
        "receipt": [
            {
                "sku": line.sku,
                "title": line.title,
                "quantity": line.quantity,
                "amount": line.amount,
                "file_name": line.file_name,
                "size": line.size,
                "sha256": line.digest.hex(),
            }
            for line in codec.RECEIPT.unpack(evidence.receipt).lines
        ],
        "records": [
            {
                "sku": record.sku,
                "version": record.version,
                "title": record.title,
                "description": record.description,
                "category": record.category,
                "tags": record.tags,
                "variant": record.variant,
                "price": record.price,
                "currency": record.currency,
                "keys": record.keys,
                "file_name": record.file_name,
                "size": record.size,
                "sha256": record.digest.hex(),
                "in_receipt": named,
            }
            for record, named in _records(evidence)
        ],
        "evidence": {
            "certificate": _base64(evidence.certificate),
            "receipt": _base64(evidence.receipt),
            "signature": _base64(evidence.signature),
            "records": [
                {"record": _base64(each.record), "signature": _base64(each.signature)}
                for each in evidence.records
            ],
        },
    }


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
