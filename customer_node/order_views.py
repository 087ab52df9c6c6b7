"""Orders as they are shown: by the API, the command line and the pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from common.amounts import line_amounts, total_of
from common.store import Row, Tx
from customer_node import orders
from customer_node.earlier import read_receipt
from customer_node.figures import tax_views
from customer_node.schema import deliveries, delivery_files, order_lines, receipts
from customer_node.schema import orders as order_rows
from customer_node.views import Hop, LicenceKeysView, OrderLineView, OrderView

_VIEWS: Final = (
    sa.select(
        order_rows,
        receipts.c.receipt,
        deliveries.c.folder,
        sa.func.coalesce(deliveries.c.done, 0).label("done"),
    )
    .outerjoin(receipts, receipts.c.order_id == order_rows.c.order_id)
    .outerjoin(deliveries, deliveries.c.order_id == order_rows.c.order_id)
)


def views(tx: Tx, *, order_id: bytes | None = None) -> list[OrderView]:
    """Show one order, or all, oldest first."""
    query = _VIEWS.order_by(order_rows.c.created, order_rows.c.order_id)
    if order_id is not None:
        query = query.where(order_rows.c.order_id == order_id)
    return [_view(tx, row) for row in tx.all(query)]


def of_purchase(tx: Tx, key: str) -> list[OrderView]:
    """Show the orders of one purchase, oldest first."""
    query = _VIEWS.where(order_rows.c.purchase == key).order_by(order_rows.c.created, order_rows.c.order_id)
    return [_view(tx, row) for row in tx.all(query)]


def newest(tx: Tx, states_wanted: Sequence[str], limit: int, offset: int) -> tuple[list[OrderView], int]:
    """Show so many orders in these states, newest first, and count all of them."""
    wanted = order_rows.c.state.in_(states_wanted)
    query = (
        _VIEWS.where(wanted)
        .order_by(order_rows.c.created.desc(), order_rows.c.order_id)
        .limit(limit)
        .offset(offset)
    )
    count: int = tx.scalar(sa.select(sa.func.count()).select_from(order_rows).where(wanted))
    return [_view(tx, row) for row in tx.all(query)], count


def _view(tx: Tx, row: Row) -> OrderView:
    lines = tx.all(
        sa.select(order_lines)
        .where(order_lines.c.order_id == row["order_id"])
        .order_by(order_lines.c.position)
    )
    names = tx.all(
        sa.select(delivery_files.c.name)
        .where(delivery_files.c.order_id == row["order_id"])
        .order_by(delivery_files.c.position)
    )
    waits_for, waits_until = _wait(row)
    cells = None
    if row["receipt"] is not None:
        cells = sum(line.cells for line in read_receipt(row["receipt"]).lines)
    figures = [
        line_amounts(line["unit_price"], line["quantity"], line["discount"], line["tax_rate"])
        for line in lines
    ]
    sums = total_of(figures)
    return OrderView(
        order_id=row["order_id"].hex(),
        merchant=row["merchant"],
        state=row["state"],
        lines=tuple(
            OrderLineView(
                sku=line["sku"],
                title=line["title"],
                quantity=line["quantity"],
                unit_price=line["unit_price"],
                discount=each.discount,
                amount=each.amount,
                tax_rate=each.tax.rate,
                tax=each.tax.amount,
            )
            for line, each in zip(lines, figures, strict=True)
        ),
        code=row["code"],
        subtotal=sums.subtotal,
        discount=sums.discount,
        taxes=tax_views(sums.taxes),
        total=row["amount"],
        currency=row["currency"],
        created=row["created"],
        deadline=row["deadline"],
        idempotency_key=row["purchase"],
        audit=row["audit"].hex() if row["audit"] else None,
        failure=row["failure"],
        refunded=row["refunded"],
        claimed=row["claimed"],
        finding=row["finding"],
        decision=row["decision"],
        waits_for=waits_for,
        waits_until=waits_until,
        cells_done=row["done"],
        cells=cells,
        files=tuple(Path(row["folder"]) / name["name"] for name in names)
        if row["state"] == "complete" and row["done"] == cells
        else (),
        keys=tuple(
            LicenceKeysView(sku, tuple(line for line in text.split("\n") if line.strip()))
            for sku, text in orders.key_texts(tx, row["order_id"]).items()
        ),
    )


def _wait(row: Row) -> tuple[Hop | None, int | None]:
    """Tell for whom an order waits, and until when it may."""
    wait: tuple[Hop | None, int | None] = (None, None)
    match row["state"]:
        case "draft":
            wait = "broker", row["deadline"]
        case "placed" if row["standing"] in (None, "held"):
            wait = "merchant", row["deadline"]
        case _ if row["refunded"] > row["claimed"]:
            wait = "broker", None
        case "disputed":
            wait = "operator", row["decide_by"] or None
        case "placed" | "accepted" | "downloading":
            wait = "customer", row["settles"] or None
        case "complete" if row["standing"] == "captured":
            wait = "broker", row["settles"] or None
        case _:
            pass
    return wait
