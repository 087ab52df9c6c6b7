"""The merchant's books: its orders, its sales as they happen, and what they bring in.

Nobody appears here as a buyer: all that is known of one is an order's id.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from common.amounts import LineAmounts, line_amounts
from common.errors import NotFoundError
from common.store import Store, Tx
from merchant_node import schema

_LINES = (
    sa.select(schema.order_lines)
    .where(schema.order_lines.c.order_number.in_(sa.bindparam("numbers", expanding=True)))
    .order_by(schema.order_lines.c.order_number, schema.order_lines.c.position)
)
_SALES = sa.select(
    schema.sales.c.number.label("sale"), schema.sales.c.at.label("sold_at"), schema.orders
).join(schema.orders, schema.orders.c.number == schema.sales.c.order_number)
_REVENUE = (
    sa.select(
        schema.order_lines.c.sku,
        schema.sales.c.at,
        schema.order_lines.c.quantity,
        schema.order_lines.c.unit_price,
        schema.order_lines.c.discount,
        schema.order_lines.c.tax_rate,
    )
    .join(schema.sales, schema.sales.c.order_number == schema.order_lines.c.order_number)
    .where(schema.sales.c.at >= sa.bindparam("since"))
)


@dataclass(frozen=True)
class OrderLineReport:
    """One line of an order, in minor units; `tax`, at `tax_rate` basis points, is in `amount`."""

    sku: str
    quantity: int
    unit_price: int
    discount: int
    amount: int
    tax_rate: int
    tax: int
    cells: int


@dataclass(frozen=True)
class OrderReport:
    """One order. `at` is when it came in, in milliseconds, cut to the minute."""

    order_id: bytes
    state: str
    amount: int
    at: int
    lines: Sequence[OrderLineReport]


@dataclass(frozen=True)
class Sale:
    """An order that is paid for. `number` rises: `sales_since(number)` gives what came after it."""

    number: int
    at: int
    order: OrderReport


@dataclass(frozen=True)
class Takings:
    """What one product brought in on one day (YYYY-MM-DD, UTC): how many licences, how much, taxed how."""

    day: str
    sku: str
    quantity: int
    revenue: int
    tax: int


class Reports:
    """Reads the store; each call is one transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def orders(self, *, limit: int = 100, state: str | None = None) -> list[OrderReport]:
        """Give the newest orders first."""
        query = sa.select(schema.orders).order_by(schema.orders.c.number.desc()).limit(limit)
        if state is not None:
            query = query.where(schema.orders.c.state == state)
        with self._store.immediate() as tx:
            return with_lines(tx, tx.all(query))

    def order(self, order_id: bytes) -> OrderReport:
        """Give one order. Raises `NotFoundError`."""
        with self._store.immediate() as tx:
            rows = tx.all(sa.select(schema.orders).where(schema.orders.c.order_id == order_id))
            if not rows:
                raise NotFoundError("no such order")
            return with_lines(tx, rows)[0]

    def find(self, text: str) -> bytes:
        """Give the id of the order whose hex id begins with `text`. Raises `NotFoundError`."""
        wanted = text.strip().lower()
        with self._store.immediate() as tx:
            ids: list[bytes] = [row["order_id"] for row in tx.all(sa.select(schema.orders.c.order_id))]
        found = [order_id for order_id in ids if wanted and order_id.hex().startswith(wanted)]
        if len(found) != 1:
            raise NotFoundError(f"no order {text!r}", "`veilmart merchant orders` lists them.")
        return found[0]

    def last_sale(self) -> int:
        """Give the number of the newest sale, 0 where there is none: where to follow from."""
        with self._store.immediate() as tx:
            return int(tx.scalar(sa.select(sa.func.max(schema.sales.c.number))) or 0)

    def sales_since(self, number: int, *, limit: int = 100) -> list[Sale]:
        """Give the sales after sale `number`, oldest first."""
        query = _SALES.where(schema.sales.c.number > number).order_by(schema.sales.c.number).limit(limit)
        with self._store.immediate() as tx:
            rows = tx.all(query)
            reports = with_lines(tx, rows)
        return [Sale(row["sale"], row["sold_at"], report) for row, report in zip(rows, reports, strict=True)]

    def takings(self, *, since: int = 0) -> list[Takings]:
        """Give what each product brought in on each day, newest day first."""
        sums: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
        with self._store.immediate() as tx:
            for row in tx.execute(_REVENUE, {"since": since}):
                entry = sums[_day(row.at), row.sku]
                figures = _figures(row)
                entry[0] += row.quantity
                entry[1] += figures.amount
                entry[2] += figures.tax.amount
        takings = [Takings(day, sku, *entry) for (day, sku), entry in sums.items()]
        by_sku = sorted(takings, key=lambda each: each.sku)
        return sorted(by_sku, key=lambda each: each.day, reverse=True)


def _day(at: int) -> str:
    return datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d")


def _figures(row: Any) -> LineAmounts:
    return line_amounts(row.unit_price, row.quantity, row.discount, row.tax_rate)


def _line(row: Any) -> OrderLineReport:
    figures = _figures(row)
    return OrderLineReport(
        sku=row.sku,
        quantity=row.quantity,
        unit_price=row.unit_price,
        discount=figures.discount,
        amount=figures.amount,
        tax_rate=figures.tax.rate,
        tax=figures.tax.amount,
        cells=row.cells,
    )


def with_lines(tx: Tx, rows: Sequence[Any]) -> list[OrderReport]:
    """Make reports of rows of `orders`, in their order."""
    lines: defaultdict[int, list[OrderLineReport]] = defaultdict(list)
    numbers = [row["number"] for row in rows]
    for row in tx.execute(_LINES, {"numbers": numbers}) if numbers else ():
        lines[row.order_number].append(_line(row))
    return [
        OrderReport(row["order_id"], row["state"], row["amount"], row["at"], lines[row["number"]])
        for row in rows
    ]
