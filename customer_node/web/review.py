"""Review and pay: every line at its price now, a quote that expires, payment from the wallet.

    GET /review  --quote-->  POST /pay  -->  /purchases/KEY  -->  /orders/ID

Rule. What is paid is what was shown: another price, another cart or an expired quote leads back to a new
review, and nothing is taken.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.errors import DiscountRefusedError, UsageError
from common.web import events, forms
from common.web.events import Piece
from customer_node.views import CartView, OrderView, QuoteView
from customer_node.web.cart import is_same
from customer_node.web.desk import Desk, Purchase
from customer_node.web.modes import shopping
from customer_node.web.orders import as_it_comes
from customer_node.web.words import explain

PATIENCE_S: Final = 3.0
GLANCE_S: Final = 0.05
LONGEST_CODE: Final = 64


class ReviewPages:
    """`/review`, `/pay`, `/purchases/KEY`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[Route]:
        """Give the routes."""
        return [
            Route("/review", shopping(self._desk, self.review), methods=["GET"]),
            Route("/pay", shopping(self._desk, self.pay), methods=["POST"]),
            Route("/purchases/{key}", self.purchase, methods=["GET"]),
            Route("/purchases/{key}/events", self.events, methods=["GET"]),
        ]

    async def review(self, request: Request) -> Response:
        """Ask every merchant what its lines cost now."""
        cart = self._desk.reading.cart()
        if not cart.lines:
            return self._desk.site.redirect("/cart")
        codes = {
            merchant: code
            for merchant in cart.totals
            if (code := forms.asked(request, f"code.{merchant}", longest=LONGEST_CODE))
        }
        try:
            quote = await self._desk.ask(lambda market: market.quote(codes))
        except (DiscountRefusedError, UsageError) as refused:
            if not codes:
                raise
            quote = await self._desk.ask(lambda market: market.quote({}))
            return self._shown(request, cart, quote, codes, fault=refused.message)
        return self._shown(request, cart, quote, codes)

    def _shown(
        self, request: Request, cart: CartView, quote: QuoteView, codes: dict[str, str], fault: str = ""
    ) -> Response:
        wallet = self._desk.reading.wallet()
        return self._desk.page(
            request,
            "review.html",
            cart=cart,
            quote=quote,
            key=self._desk.offer(quote, quote.codes),
            codes=codes,
            code_fault=fault,
            wallet=wallet,
            missing=max(0, quote.total - wallet.usable),
            sold_out=any(line.stock == "out" for line in quote.lines),
        )

    async def pay(self, request: Request) -> Response:
        """Buy what was shown, once."""
        form = await forms.read(request)
        key = form.text("key", longest=64)
        purchase = self._desk.purchase(key)
        if purchase is None:
            offer = self._desk.offered(key)
            if offer is None:
                return self._again(
                    request, "These prices have expired. Nothing was paid; here they are anew."
                )
            if not is_same(self._desk.reading.cart(), offer.quote.lines):
                return self._again(request, "The cart has changed since. Nothing was paid; look at it again.")
            purchase = self._desk.buy(key, offer)
        return self._desk.site.redirect(await self._place_of(key, purchase))

    def _again(self, request: Request, text: str) -> Response:
        self._desk.site.notice(request, text, "info")
        return self._desk.site.redirect("/review")

    async def _place_of(self, key: str, purchase: Purchase) -> str:
        """Give the page to watch: that of the order, where there is but one."""
        waited = 0.0
        while waited < PATIENCE_S:
            placed = self._desk.reading.purchase(key)
            failed = purchase.error or (purchase.result and purchase.result.errors)
            offer = self._desk.offered(key)
            if len(placed) == 1 and not failed and (offer is None or len(offer.quote.totals) == 1):
                return f"/orders/{placed[0].order_id}"
            if not purchase.running or len(placed) > 1:
                break
            await asyncio.sleep(GLANCE_S)
            waited += GLANCE_S
        return f"/purchases/{key}"

    async def purchase(self, request: Request) -> Response:
        """Show how each merchant's order stands."""
        key = request.path_params["key"]
        purchase = self._desk.purchase(key)
        if purchase is None:
            return self._again(request, "This purchase is not known here. Nothing was paid for it.")
        return self._desk.page(request, "purchase.html", key=key, **self._state(key, purchase))

    async def events(self, request: Request) -> Response:
        """Send the state whenever it changes."""
        key = request.path_params["key"]

        async def piece() -> Piece:
            purchase = self._desk.purchase(key) or Purchase()
            state = self._state(key, purchase)
            html = self._desk.site.piece("purchase_state.html", request, **state)
            return Piece(html, last=not state["running"])

        return events.stream(self._desk.site, piece)

    def _state(self, key: str, purchase: Purchase) -> dict[str, Any]:
        placed = [as_it_comes(self._desk, order) for order in self._desk.reading.purchase(key)]
        results = purchase.result.results if purchase.result else ()
        errors = [(each.merchant, explain(each.error)) for each in results if each.error is not None]
        return {
            "orders": placed,
            "errors": errors,
            "error": explain(purchase.error) if purchase.error else None,
            "running": purchase.running or any(_is_moving(self._desk, order) for order in placed),
        }


def _is_moving(desk: Desk, order: OrderView) -> bool:
    delivery = desk.delivery(order.order_id)
    return delivery is not None and delivery.running
