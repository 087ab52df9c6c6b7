"""The cart, and what it would cost now."""

from __future__ import annotations

import msgspec

from common import messages
from common.errors import NotFoundError
from common.messages import MerchantId, Sku
from common.web.endpoints import Endpoint
from customer_node.market import Market
from customer_node.views import CartView, QuoteView
from customer_node.web.api.sides import Sides


class Quantity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many."""

    quantity: messages.Quantity


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """So many of one product, past the cart."""

    merchant: MerchantId
    sku: Sku
    quantity: messages.Quantity = 1


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to quote: `line`, or without it the cart. `codes` are discount codes by merchant."""

    line: Line | None = None
    codes: dict[MerchantId, messages.DiscountCode] = {}


class CartEndpoints:
    """`/cart` and `/quote`."""

    def __init__(self, sides: Sides) -> None:
        self._sides = sides

    def endpoints(self) -> list[Endpoint]:
        """Give the endpoints."""
        return [
            Endpoint("GET", "/cart", self.cart),
            Endpoint("DELETE", "/cart", self.clear),
            Endpoint("PUT", "/cart/{merchant}/{sku}", self.put),
            Endpoint("DELETE", "/cart/{merchant}/{sku}", self.remove),
            Endpoint("POST", "/quote", self.quote),
        ]

    async def cart(self) -> CartView:
        """Show the cart as it lies here; asks nobody."""
        return self._sides.reading.cart()

    async def clear(self) -> CartView:
        """Remove every line."""
        await self._sides.here(lambda market: market.cart.clear())
        return self._sides.reading.cart()

    async def put(self, merchant: MerchantId, sku: Sku, body: Quantity) -> CartView:
        """Have so many of a product in the cart.

        What is not in it yet is looked up at its merchant.
        """
        lines = self._sides.reading.cart().lines
        if any((line.merchant, line.sku) == (merchant, sku) for line in lines):
            return await self._sides.here(lambda market: market.cart.set(merchant, sku, body.quantity))

        def put(market: Market) -> CartView:
            market.cart.add(merchant, sku, 1)
            return market.cart.set(merchant, sku, body.quantity)

        return await self._sides.shops(put)

    async def remove(self, merchant: MerchantId, sku: Sku) -> CartView:
        """Remove a line. One that is gone already stays gone."""
        try:
            return await self._sides.here(lambda market: market.cart.remove(merchant, sku))
        except NotFoundError:
            return self._sides.reading.cart()

    async def quote(self, body: Question) -> QuoteView:
        """Ask what the cart, or one line past it, costs now.

        Its totals are what an order then agrees to.
        """
        line = body.line
        if line is None:
            return await self._sides.shops(lambda market: market.quote(body.codes))
        return await self._sides.shops(
            lambda market: market.quote_now(
                line.merchant, line.sku, line.quantity, body.codes.get(line.merchant, "")
            )
        )
