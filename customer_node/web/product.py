"""A product: its picture, what the file is, its variants, and the way into the cart."""

from __future__ import annotations

from pathlib import PurePath

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.errors import NotFoundError
from customer_node.market import Market
from customer_node.views import ProductSummaryView, ProductView
from customer_node.web.desk import Desk
from customer_node.web.modes import shopping

MOST_VARIANTS = 20


class ProductPages:
    """`/products/MERCHANT/SKU`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[Route]:
        """Give the routes."""
        return [Route("/products/{merchant}/{sku}", shopping(self._desk, self.product), methods=["GET"])]

    async def product(self, request: Request) -> Response:
        """Show a product."""
        merchant, sku = request.path_params["merchant"], request.path_params["sku"]
        product = await self._desk.ask(lambda market: market.show(merchant, sku))
        await self._desk.merchants()
        return self._desk.page(
            request,
            "product.html",
            product=product,
            variants=await self._variants(product),
            here=sum(
                each.quantity
                for each in self._desk.reading.cart().lines
                if (each.merchant, each.sku) == (merchant, sku)
            ),
            kind=PurePath(product.file_name).suffix.lstrip(".").upper() or "Data",
        )

    async def _variants(self, product: ProductView) -> tuple[ProductSummaryView, ...]:
        """Give the products that are variants of the same one, where there are several.

        A list does not say which group its products are of: the records that were signed do.
        """
        if not product.variant:
            return ()

        def asked(market: Market) -> tuple[ProductSummaryView, ...]:
            words = product.group or product.title
            found = market.search(words, merchant=product.merchant, limit=MOST_VARIANTS).products
            named = [each for each in found if each.variant]
            if not product.group:
                return tuple(each for each in named if each.title == product.title)
            return tuple(each for each in named if _group(market, each) == product.group)

        alike = await self._desk.ask(asked)
        return alike if len(alike) > 1 else ()


def _group(market: Market, product: ProductSummaryView) -> str:
    try:
        return market.show(product.merchant, product.sku).group
    except NotFoundError:
        # It was taken off sale in between.
        return ""
