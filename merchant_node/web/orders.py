"""Orders: a list with filters, and each one with its lines and what became of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from typing import Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.web import forms
from merchant_node.disputes import DisputeReport
from merchant_node.figures import STATES, Wanted
from merchant_node.web.desk import Desk, day_start, order_id_of
from merchant_node.web.refunds import left_of

PER_PAGE: Final = 50
FILTERS: Final = ("state", "sku", "order", "from", "to")
HEX: Final = frozenset("0123456789abcdef")
LONGEST_ID: Final = 32


class OrderPages:
    """`/orders` and `/orders/ID`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[Route]:
        """Give the routes."""
        return [
            Route("/orders", self.orders, methods=["GET"]),
            Route("/orders/{order}", self.order, methods=["GET"]),
        ]

    async def orders(self, request: Request) -> Response:
        """List orders, the newest first."""
        entered, faults, wanted = filters_of(request)
        before = forms.asked_number(request, "before", default=2**40, most=2**40)
        page = await self._desk.read(
            lambda books: books.figures.orders(wanted, before=before, limit=PER_PAGE)
        )
        asked = {name: value for name, value in entered.items() if value}
        return self._desk.page(
            request,
            "orders.html",
            status=422 if faults else 200,
            orders=page.orders,
            states=STATES,
            entered=entered,
            faults=faults,
            query=urlencode(asked),
            older=urlencode({**asked, "before": page.before}) if page.before else "",
        )

    async def order(self, request: Request) -> Response:
        """Show an order."""
        order_id = order_id_of(request)
        order = await self._desk.ask(lambda books: books.reports.order(order_id))
        refunds = await self._desk.ask(lambda books: books.refunds.listing(order_id))
        disputes = await self._desk.ask(lambda books: books.disputes.listing(everything=True))
        return self._desk.page(
            request,
            "order.html",
            order=order,
            refunds=refunds,
            left=left_of(order, refunds),
            dispute=_dispute(disputes, order_id),
        )


def _dispute(listed: list[DisputeReport], order_id: bytes) -> DisputeReport | None:
    return next((each for each in listed if each.order_id == order_id), None)


def filters_of(request: Request) -> tuple[dict[str, str], dict[str, str], Wanted]:
    """Read the filters of an address: as written, what is wrong with them, and what they ask for."""
    entered = {name: forms.asked(request, name, longest=64) for name in FILTERS}
    faults: dict[str, str] = {}
    wanted = Wanted(sku=entered["sku"], state=entered["state"] if entered["state"] in STATES else "")
    order = entered["order"].lower()
    if len(order) <= LONGEST_ID and set(order) <= HEX:
        wanted = replace(wanted, order=order)
    else:
        faults["order"] = "An order's id is written with 0 to 9 and a to f."
    for name, days in (("from", 0), ("to", 1)):
        if not entered[name]:
            continue
        try:
            moment = day_start(date.fromisoformat(entered[name]) + timedelta(days=days))
        except (ValueError, OverflowError):
            faults[name] = "Write a day like 2027-06-30."
            continue
        wanted = replace(wanted, since=moment) if name == "from" else replace(wanted, until=moment)
    return entered, faults, wanted
