"""The merchant's figures: what a day brought, what is open, what runs low, and orders page by page.

Rule 1. Nothing here writes or holds up a writer: each call is one snapshot.

Rule 2. A million orders are never looked at for one page. Orders and sales are numbered as they come, so
that times rise with numbers: where a day begins is found by halving (`first_number`), and what is read is a
range of numbers. Times may lag behind by the difference of two clocks, which `SLACK_MS` allows for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from common import config
from common.store import Store, Tx
from merchant_node import licence_keys, schema, stock
from merchant_node.reports import OrderReport, Sale, with_lines

PAID: Final = ("captured", "delivered")
STATES: Final = ("accepted", "captured", "delivered", "refunded", "cancelled", "rejected")
OPEN_FOR_MS: Final = 7 * config.DAY_MS
"""How far back open orders are looked for: the broker decides about each of them within a day."""
SLACK_MS: Final = 15 * config.MINUTE_MS
AT_ONCE: Final = 1_000
FEW: Final = 5_000
"""A product with so few lines is looked up by them."""


@dataclass(frozen=True)
class Today:
    """What came in since a moment: paid orders and their amounts in minor units; what is open at all."""

    revenue: int
    paid: int
    open: int
    disputes: int


@dataclass(frozen=True)
class Low:
    """A product of which little is left."""

    sku: str
    left: int


@dataclass(frozen=True)
class Wanted:
    """Which orders are asked for; empty and None mean any. Times in milliseconds, `until` not included.

    `order` is the beginning of an order's id in hex.
    """

    state: str = ""
    sku: str = ""
    order: str = ""
    since: int | None = None
    until: int | None = None


@dataclass(frozen=True)
class OrderPage:
    """Orders, the newest first; `before` gives the next page, 0 where there is none."""

    orders: Sequence[OrderReport]
    before: int


class Figures:
    """Reads the merchant's store, beside the running node."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def today(self, since: int, now: int) -> Today:
        """Sum up what came in since `since`, and count what is open."""
        orders = schema.orders.c
        with self._store.snapshot() as tx:
            sums = tx.one(
                sa.select(
                    sa.func.count().label("paid"),
                    sa.func.coalesce(sa.func.sum(orders.amount), 0).label("revenue"),
                ).where(
                    orders.number >= first_number(tx, schema.orders, since),
                    orders.at >= since,
                    orders.state.in_(PAID),
                )
            )
            open_ones = sa.select(sa.func.count()).where(
                orders.number >= first_number(tx, schema.orders, now - OPEN_FOR_MS),
                orders.state == "accepted",
            )
            disputes = sa.select(sa.func.count()).where(schema.disputes.c.state == "open")
            paid, revenue = (sums["paid"], sums["revenue"]) if sums is not None else (0, 0)
            return Today(int(revenue), int(paid), int(tx.scalar(open_ones)), int(tx.scalar(disputes)))

    def low(self, limit: int) -> list[Low]:
        """Give what is on sale and runs low or is out, the least first."""
        query = (
            sa.select(schema.stock.c.sku, schema.stock.c.available)
            .join(schema.products, schema.products.c.sku == schema.stock.c.sku)
            .where(
                sa.or_(
                    schema.stock.c.available <= stock.LOW,
                    sa.and_(
                        schema.stock.c.available <= licence_keys.LOW,
                        sa.exists().where(schema.licence_keys.c.sku == schema.stock.c.sku),
                    ),
                )
            )
            .order_by(schema.stock.c.available, schema.stock.c.sku)
            .limit(limit)
        )
        with self._store.snapshot() as tx:
            return [Low(row["sku"], row["available"]) for row in tx.all(query)]

    def products(self) -> int:
        """Count what is on sale."""
        with self._store.snapshot() as tx:
            return int(tx.scalar(sa.select(sa.func.count()).select_from(schema.products)))

    def recent_sales(self, limit: int) -> list[Sale]:
        """Give the newest sales, the newest first."""
        newest = sa.select(schema.sales).order_by(schema.sales.c.number.desc()).limit(limit).subquery()
        query = (
            sa.select(newest.c.number.label("sale"), newest.c.at.label("sold_at"), schema.orders)
            .join(schema.orders, schema.orders.c.number == newest.c.order_number)
            .order_by(newest.c.number.desc())
        )
        with self._store.snapshot() as tx:
            rows = tx.all(query)
            reports = with_lines(tx, rows)
        return [Sale(row["sale"], row["sold_at"], report) for row, report in zip(rows, reports, strict=True)]

    def orders(self, wanted: Wanted, *, before: int = 0, limit: int = 50) -> OrderPage:
        """Give a page of orders, the newest first, from the one before number `before`."""
        with self._store.snapshot() as tx:
            query = _filtered(tx, wanted).order_by(schema.orders.c.number.desc()).limit(limit + 1)
            if before:
                query = query.where(schema.orders.c.number < before)
            rows = tx.all(query)
            more = rows[limit - 1]["number"] if len(rows) > limit else 0
            return OrderPage(with_lines(tx, rows[:limit]), more)

    def all_orders(self, wanted: Wanted) -> Iterator[Sequence[OrderReport]]:
        """Give every order that is wanted, the newest first, in parts: each part is a snapshot of its own."""
        before = 0
        while True:
            page = self.orders(wanted, before=before, limit=AT_ONCE)
            yield page.orders
            before = page.before
            if not before:
                return


def _filtered(tx: Tx, wanted: Wanted) -> sa.Select[tuple[object, ...]]:
    orders = schema.orders.c
    query = sa.select(schema.orders)
    if wanted.state:
        query = query.where(orders.state == wanted.state)
    if wanted.since is not None:
        first = first_number(tx, schema.orders, wanted.since)
        query = query.where(orders.number >= first, orders.at >= wanted.since)
    if wanted.until is not None:
        end = first_number(tx, schema.orders, wanted.until + 2 * SLACK_MS)
        query = query.where(orders.number < end, orders.at < wanted.until)
    if wanted.order:
        least, most = (bytes.fromhex(wanted.order.ljust(32, digit)) for digit in "0f")
        query = query.where(orders.order_id.between(least, most))
    if wanted.sku:
        query = query.where(_of_product(tx, wanted.sku))
    return query


def _of_product(tx: Tx, sku: str) -> sa.ColumnElement[bool]:
    """Give what holds for orders of a product: for a rare one by its lines, else by looking at each order."""
    lines, versions = schema.order_lines.c, schema.product_versions.c
    its_lines = sa.select(lines.order_number).where(
        lines.version.in_(sa.select(versions.id).where(versions.sku == sku))
    )
    some = its_lines.limit(FEW + 1).subquery()
    if int(tx.scalar(sa.select(sa.func.count()).select_from(some))) <= FEW:
        return schema.orders.c.number.in_(its_lines)
    return sa.exists().where(lines.order_number == schema.orders.c.number, lines.sku == sku)


def first_number(tx: Tx, table: sa.Table, at: int) -> int:
    """Give a number at or before the first row of `at` or later."""
    number, time = table.c.number, table.c.at
    low = int(tx.scalar(sa.select(sa.func.min(number))) or 0)
    high = int(tx.scalar(sa.select(sa.func.max(number))) or 0) + 1
    at_middle = sa.select(number, time).where(number >= sa.bindparam("least")).order_by(number).limit(1)
    while low < high:
        middle = (low + high) // 2
        row = tx.one(at_middle, {"least": middle})
        if row is None or row["at"] >= at - SLACK_MS:
            high = middle
        else:
            low = row["number"] + 1
    return low
