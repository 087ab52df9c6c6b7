"""Orders: where each stands, what is done about it, and its files by number: no path comes from a request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from common.errors import NotFoundError, RejectedError
from common.web.endpoints import OCTETS, Endpoint, File, Limit, Offset, OrderId
from common.web.statuses import Failure, failure
from customer_node.disputes import LONGEST_STATEMENT, Kind
from customer_node.market import Market
from customer_node.reading import ORDER_STATES
from customer_node.views import OrderState, OrderView
from customer_node.web.api.shown import Order, shown
from customer_node.web.api.sides import Sides
from customer_node.web.desk import DELIVERABLE

LONGEST_WAIT_S: Final = 60


class Filter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which orders: in one state or in any, and which part of them."""

    state: OrderState | None = None
    offset: Offset = 0
    limit: Limit = 50


class Orders(msgspec.Struct, frozen=True):
    """A page of orders, the newest first, `total` in all."""

    orders: tuple[Order, ...]
    total: int
    offset: int
    limit: int


class Patience(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many seconds the answer may wait for the last byte."""

    wait: Annotated[int, Meta(ge=0, le=LONGEST_WAIT_S)] = 0


class Complaint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is wrong with an order. `reveal` shows the market's operator what was bought, as evidence."""

    kind: Kind
    reveal: bool
    statement: Annotated[str, Meta(max_length=LONGEST_STATEMENT)] = ""


class Resumed(msgspec.Struct, frozen=True):
    """What was taken up again, and its state now; `failure` is why it goes no further."""

    kind: str
    id: str
    outcome: str
    failure: Failure | None


class AllResumed(msgspec.Struct, frozen=True):
    """Everything that was open."""

    resumed: tuple[Resumed, ...]


class OrderEndpoints:
    """`/orders`, and `/resume`."""

    def __init__(self, sides: Sides) -> None:
        self._sides = sides

    def endpoints(self) -> list[Endpoint]:
        """Give the endpoints."""
        return [
            Endpoint("GET", "/orders", self.orders),
            Endpoint("GET", "/orders/{order}", self.order),
            Endpoint("POST", "/orders/{order}/ask", self.ask),
            Endpoint("POST", "/orders/{order}/cancel", self.cancel),
            Endpoint("POST", "/orders/{order}/dispute", self.dispute),
            Endpoint("POST", "/orders/{order}/download", self.download),
            Endpoint("GET", "/orders/{order}/files/{number}", self.file),
            Endpoint("POST", "/resume", self.resume),
        ]

    async def orders(self, query: Filter) -> Orders:
        """List the orders, the newest first."""
        states = ORDER_STATES if query.state is None else (query.state,)
        found, total = self._sides.reading.newest(states, query.limit, query.offset)
        return Orders(tuple(self._shown(each) for each in found), total, query.offset, query.limit)

    async def order(self, order: OrderId) -> Order:
        """Show an order as it stands here; asks nobody."""
        return self._shown(self._sides.reading.order(order))

    async def ask(self, order: OrderId) -> Order:
        """Ask the broker where an order stands. What was given back of it comes into the wallet."""
        return await self._changed(order, lambda market: market.ask(order))

    async def cancel(self, order: OrderId) -> Order:
        """Call an order off that its merchant has not answered. The coins come back."""
        return await self._changed(order, lambda market: market.cancel(order))

    async def dispute(self, order: OrderId, body: Complaint) -> Order:
        """Freeze the money of a paid order that has not arrived, or is not what was signed.

        A download that is under way stops.
        """
        self._sides.reading.order(order)
        self._sides.enter_shops()
        await self._sides.desk.pause(order)
        return await self._changed(
            order, lambda market: market.dispute(order, body.kind, body.statement, reveal=body.reveal)
        )

    async def download(self, order: OrderId, query: Patience) -> Order:
        """Fetch an order's files, or fetch them again where they are gone.

        It goes on after the answer, which waits for its end no longer than `wait` seconds.
        """
        present = self._sides.reading.order(order)
        if present.state not in (*DELIVERABLE, "complete"):
            raise RejectedError(f"This order is {present.state}: there is nothing to fetch.")
        self._sides.enter_shops()
        if present.state in DELIVERABLE or not all(path.is_file() for path in present.files):
            self._sides.desk.deliver(order, again=present.state == "complete")
        delivery = self._sides.desk.delivery(order)
        if delivery is not None and delivery.task is not None and query.wait:
            await asyncio.wait({delivery.task}, timeout=query.wait)
        return await self.order(order)

    async def file(
        self, order: OrderId, number: Annotated[int, Meta(ge=1, le=10_000)]
    ) -> Annotated[File, OCTETS]:
        """Send a file that was verified, by its number. It takes ranges."""
        files = self._sides.reading.order(order).files
        if number > len(files) or not files[number - 1].is_file():
            raise NotFoundError("This file is not on this machine.", "Download the order first.")
        path = files[number - 1]
        return File(path, OCTETS, path.name)

    async def resume(self) -> AllResumed:
        """Take every open order on to its end, and the money that was given back."""
        results = await self._sides.shops(lambda market: market.resume(part="orders"))
        return AllResumed(
            tuple(
                Resumed(each.kind, each.id, each.outcome, failure(each.error) if each.error else None)
                for each in results
            )
        )

    async def _changed(self, order: str, action: Callable[[Market], OrderView]) -> Order:
        self._sides.reading.order(order)
        return self._shown(await self._sides.shops(action))

    def _shown(self, order: OrderView) -> Order:
        return shown(order, self._sides.desk.delivery(order.order_id))
