"""The cart: plus, minus, remove; for any number of merchants, each of which will be an order of its own."""

from __future__ import annotations

from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.errors import NotFoundError
from common.web import forms
from customer_node.views import CartView
from customer_node.web.desk import Desk
from customer_node.web.modes import shopping

MOST = 999


class CartPages:
    """`/cart`, and what changes it."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[Route]:
        """Give the routes."""
        return [
            Route("/cart", self.cart, methods=["GET"]),
            Route("/cart/add", shopping(self._desk, self.add), methods=["POST"]),
            Route("/cart/change", self.change, methods=["POST"]),
        ]

    async def cart(self, request: Request) -> Response:
        """Show the cart as it lies here; asks nobody."""
        return self._desk.page(request, "cart.html", cart=self._desk.reading.cart())

    async def add(self, request: Request) -> Response:
        """Look a product up and put it into the cart."""
        form = await forms.read(request)
        merchant, sku = form.text("merchant", longest=64), form.text("sku", longest=64)
        quantity = form.number("quantity", least=1, most=MOST)
        cart = await self._desk.ask(lambda market: market.cart.add(merchant, sku, quantity))
        if form.ticked("now"):
            return self._desk.site.redirect("/review")
        title = next((each.title for each in cart.lines if (each.merchant, each.sku) == (merchant, sku)), sku)
        self._desk.site.notice(request, f"{title} is in your cart.", "good")
        return self._desk.site.redirect(f"/products/{quote(merchant, safe='')}/{quote(sku, safe='')}")

    async def change(self, request: Request) -> Response:
        """Set a line's quantity; 0 removes it. A line that is gone already stays gone."""
        form = await forms.read(request)
        merchant, sku = form.text("merchant", longest=64), form.text("sku", longest=64)
        quantity = form.number("quantity", least=0, most=MOST)
        try:
            await self._desk.ask(lambda market: market.cart.set(merchant, sku, quantity))
        except NotFoundError:
            if quantity:
                self._desk.site.notice(request, "That is no longer in the cart.", "info")
        return self._desk.site.redirect("/cart")


def is_same(cart: CartView, lines: object) -> bool:
    """Tell whether the cart still holds the lines of a quote, in these quantities."""
    if not isinstance(lines, tuple):
        return False
    present = {(each.merchant, each.sku): each.quantity for each in cart.lines}
    return present == {(each.merchant, each.sku): each.quantity for each in lines}
