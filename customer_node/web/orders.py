"""Orders: where each stands, whose turn it is, how much of it has come, live; and its files."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from common.errors import NotFoundError
from common.money import format_amount
from common.web import events, forms
from common.web.events import Piece
from common.web.site import moment
from customer_node.disputes import DISPUTABLE
from customer_node.views import OrderView
from customer_node.web.desk import Delivery, Desk
from customer_node.web.modes import shopping
from customer_node.web.words import explain

StepState: TypeAlias = Literal["done", "now", "later", "bad"]

PAGE: Final = 50
MOST_PAGES: Final = 100_000
OPEN: Final = ("draft", "placed", "refundable", "disputed")
MERCHANTS_TURN: Final = 2
FILES_TURN: Final = 3
_REACHED: Final = {
    "draft": 0,
    "accepted": FILES_TURN,
    "downloading": FILES_TURN,
    "disputed": FILES_TURN,
    "complete": 5,
}
"""At which stop of the road an order is, by its state."""


@dataclass(frozen=True)
class Step:
    """One stop of an order's road."""

    hop: str
    title: str
    text: str
    state: StepState


class OrderPages:
    """`/orders`, `/orders/ID`, its events and files."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[Route]:
        """Give the routes."""
        return [
            Route("/orders", self.orders, methods=["GET"]),
            Route("/orders/{order_id}", self.order, methods=["GET"]),
            Route("/orders/{order_id}/events", self.events, methods=["GET"]),
            Route("/orders/{order_id}/files/{number:int}", self.file, methods=["GET"]),
            Route("/orders/{order_id}/receipt.json", self.receipt, methods=["GET"]),
            Route("/orders/{order_id}/deliver", shopping(self._desk, self.deliver), methods=["POST"]),
            Route("/orders/{order_id}/cancel", shopping(self._desk, self.cancel), methods=["POST"]),
            Route("/orders/{order_id}/ask", shopping(self._desk, self.ask), methods=["POST"]),
            Route("/orders/resume", shopping(self._desk, self.resume), methods=["POST"]),
        ]

    async def orders(self, request: Request) -> Response:
        """List the orders, newest first."""
        page = forms.asked_number(request, "page", default=1, most=MOST_PAGES)
        found, count = self._desk.reading.newest(limit=PAGE, offset=(page - 1) * PAGE)
        pages = max(1, -(-count // PAGE))
        _, open_ones = self._desk.reading.newest(OPEN, limit=0)
        return self._desk.page(
            request, "orders.html", orders=found, page_number=page, page_count=pages, open_ones=open_ones
        )

    async def order(self, request: Request) -> Response:
        """Show an order."""
        order = self._desk.reading.order(request.path_params["order_id"])
        return self._desk.page(request, "order.html", **self._state(order))

    async def events(self, request: Request) -> Response:
        """Send the moving part of the page whenever it changes."""
        order_id = self._desk.reading.order(request.path_params["order_id"]).order_id

        async def piece() -> Piece:
            state = self._state(self._desk.reading.order(order_id))
            html = self._desk.site.piece("order_state.html", request, **state)
            return Piece(html, last=not state["is_moving"])

        return events.stream(self._desk.site, piece)

    def _state(self, stored: OrderView) -> dict[str, Any]:
        order = as_it_comes(self._desk, stored)
        delivery = self._desk.delivery(order.order_id)
        purchase = self._desk.purchase(order.idempotency_key)
        # A purchase that ends begins its deliveries.
        running = any(each is not None and each.running for each in (purchase, delivery))
        failed = delivery is not None and not running and delivery.error is not None
        dispute = self._desk.reading.dispute(order.order_id)
        files = [(path.name, path.is_file(), _size(path)) for path in order.files]
        return {
            "order": order,
            "steps": timeline(order, delivery, self._desk.reading.now()),
            "files": files,
            "running": running,
            "trouble": explain(delivery.error) if failed and delivery and delivery.error else None,
            "is_moving": running or order.state in OPEN,
            "dispute": dispute,
            "disputable": order.state in DISPUTABLE and order.cells is not None and dispute is None,
        }

    async def file(self, request: Request) -> Response:
        """Send a file that was verified, by its number."""
        order = self._desk.reading.order(request.path_params["order_id"])
        number = request.path_params["number"]
        if not 1 <= number <= len(order.files) or not order.files[number - 1].is_file():
            raise NotFoundError("This file is not on this machine.", "Open the order and fetch it again.")
        path = order.files[number - 1]
        return FileResponse(path, filename=path.name, media_type="application/octet-stream")

    async def receipt(self, request: Request) -> Response:
        """Send the signed receipt, verified."""
        order = self._desk.reading.order(request.path_params["order_id"])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "receipt.json"
            await self._desk.ask(lambda market: market.export_receipt(order.order_id, path))
            content = await asyncio.to_thread(path.read_bytes)
        name = f"receipt-{order.order_id[:12]}.json"
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return Response(content, media_type="application/json", headers=headers)

    async def deliver(self, request: Request) -> Response:
        """Fetch the files, or fetch them again where they are gone."""
        await forms.read(request)
        order = self._desk.reading.order(request.path_params["order_id"])
        self._desk.deliver(order.order_id, again=order.state == "complete")
        return self._desk.site.redirect(f"/orders/{order.order_id}")

    async def cancel(self, request: Request) -> Response:
        """Call an order off that its merchant has not answered."""
        await forms.read(request)
        order = self._desk.reading.order(request.path_params["order_id"])
        await self._desk.ask(lambda market: market.cancel(order.order_id))
        self._desk.site.notice(request, "The order was called off. The money is back in the wallet.", "good")
        return self._desk.site.redirect(f"/orders/{order.order_id}")

    async def ask(self, request: Request) -> Response:
        """Ask the broker where an order stands; what was given back of it comes into the wallet."""
        await forms.read(request)
        order = self._desk.reading.order(request.path_params["order_id"])
        after = await self._desk.ask(lambda market: market.ask(order.order_id))
        if after.claimed > order.claimed:
            amount = format_amount(after.claimed - order.claimed, after.currency)
            self._desk.site.notice(request, f"{amount} came back into your wallet.", "good")
        else:
            self._desk.site.notice(request, "The broker was asked; this is how the order stands.", "info")
        return self._desk.site.redirect(f"/orders/{order.order_id}")

    async def resume(self, request: Request) -> Response:
        """Ask about every open order, and take it on."""
        form = await forms.read(request)
        await self._desk.carry_on()
        return self._desk.site.redirect(form.text("onward") or "/orders")


def as_it_comes(desk: Desk, order: OrderView) -> OrderView:
    """Give an order with the chunks that have come until now: what is written down lags behind."""
    delivery = desk.delivery(order.order_id)
    if delivery is None or delivery.progress is None:
        return order
    return replace(order, cells_done=max(order.cells_done, delivery.progress.cells_done))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def timeline(order: OrderView, delivery: Delivery | None = None, now: int = 0) -> list[Step]:
    """Give the stops of an order's road, as far as it has come at `now`."""
    road = [
        ("You", "Order written down", "It is stored here with its coins before the first byte is sent."),
        ("Broker", "Money held", "The broker holds the coins, and cannot read what you buy."),
        ("Merchant", _merchants_word(order), "The merchant checks price and stock, and signs a receipt."),
        ("Merchant", "Files on their way", _chunks(order)),
        ("You", "Verified", "Each file has the digest that the merchant signed."),
    ]
    if order.state in ("refused", "refundable", "refunded"):
        return _given_back(order, road)
    failed = delivery is not None and delivery.error is not None
    reached = MERCHANTS_TURN if order.state == "placed" else _REACHED.get(order.state, 0)
    steps = [
        Step(hop, title, text, _step_state(number, reached, failed=failed))
        for number, (hop, title, text) in enumerate(road)
    ]
    if order.state == "disputed":
        steps.append(Step("Operator", "Disputed", _frozen(order, now), "now"))
    return steps


def _frozen(order: OrderView, now: int) -> str:
    text = "The money is frozen until the dispute is decided."
    if order.waits_until is None:
        return text
    by = moment(order.waits_until)
    return (
        f"{text} It is overdue since {by}." if order.overdue(now) else f"{text} The operator decides by {by}."
    )


def _step_state(number: int, now: int, *, failed: bool) -> StepState:
    if number == now:
        return "bad" if failed and number == FILES_TURN else "now"
    return "done" if number < now else "later"


def _merchants_word(order: OrderView) -> str:
    return "Waiting for the merchant" if order.state in ("draft", "placed") else "Accepted"


def _given_back(order: OrderView, road: list[tuple[str, str, str]]) -> list[Step]:
    hop, title, text = road[0]
    steps = [Step(hop, title, text, "done")]
    if order.state == "refused":
        return [*steps, Step("Broker", "Refused", "Nothing was paid: the coins are free again.", "bad")]
    hop, title, text = road[1]
    steps.append(Step(hop, title, text, "done"))
    steps.append(Step("Merchant", "Not delivered", _reason(order), "bad"))
    back: StepState = "done" if order.state == "refunded" else "now"
    return [*steps, Step("Broker", "Money back", "The coins come back into your wallet.", back)]


def _reason(order: OrderView) -> str:
    reasons = {
        "cancelled": "You called it off.",
        "price_changed": "The price had changed.",
        "out_of_stock": "There was not enough in stock.",
        "unanswered": "The merchant did not answer before the deadline.",
        "deadline": "The merchant did not answer before the deadline.",
    }
    return reasons.get(order.failure or "", "The order came to nothing, or was given back.")


def _chunks(order: OrderView) -> str:
    if order.cells is None:
        return "They come in encrypted chunks of one size."
    return f"{min(order.cells_done, order.cells)} of {order.cells} encrypted chunks are here."
