"""Orders: page by page with filters, and each one with its lines."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from common.messages import Sku
from common.web.endpoints import Endpoint, Limit, OrderId
from merchant_node.figures import Wanted
from merchant_node.reports import OrderLineReport, OrderReport
from merchant_node.web.desk import Desk, id_of

State = Literal["accepted", "captured", "delivered", "refunded", "cancelled", "rejected"]
Moment = Annotated[int, Meta(ge=0, le=2**52)]
Before = Annotated[int, Meta(ge=0, le=2**52)]


class Filter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which orders. `order` is the beginning of an id; times are milliseconds, `until` not included.

    `before` goes on where an earlier page ended.
    """

    state: State | None = None
    sku: Sku | None = None
    order: Annotated[str, Meta(pattern=r"\A[0-9a-f]{0,32}\Z")] = ""
    since: Moment | None = None
    until: Moment | None = None
    before: Before = 0
    limit: Limit = 50


class Order(msgspec.Struct, frozen=True):
    """An order. `at` is when it came in, cut to the minute; nobody appears in it."""

    order: str
    state: str
    amount: int
    currency: str
    at: int
    lines: tuple[OrderLineReport, ...]


class Orders(msgspec.Struct, frozen=True):
    """A page of orders, the newest first. `before` gives the next page, null where there is none."""

    orders: tuple[Order, ...]
    before: int | None


class OrderEndpoints:
    """`/orders`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def endpoints(self) -> list[Endpoint]:
        """Give the endpoints."""
        return [
            Endpoint("GET", "/orders", self.orders),
            Endpoint("GET", "/orders/{order}", self.order),
        ]

    async def orders(self, query: Filter) -> Orders:
        """List orders, the newest first."""
        wanted = Wanted(query.state or "", query.sku or "", query.order, query.since, query.until)
        page = await self._desk.read(
            lambda books: books.figures.orders(wanted, before=query.before, limit=query.limit)
        )
        orders = tuple(shown(each, self._desk.currency) for each in page.orders)
        return Orders(orders, page.before or None)

    async def order(self, order: OrderId) -> Order:
        """Show an order."""
        found = await self._desk.ask(lambda books: books.reports.order(id_of(order)))
        return shown(found, self._desk.currency)


def shown(order: OrderReport, currency: str) -> Order:
    """Give an order as the interface shows it."""
    return Order(order.order_id.hex(), order.state, order.amount, currency, order.at, tuple(order.lines))
