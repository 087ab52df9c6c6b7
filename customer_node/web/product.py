"""A product: its picture, what the file is, its variants, and the way into the cart."""

from __future__ import annotations

from pathlib import PurePath

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

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
            kind=PurePath(product.file_name).suffix.lstrip(".").upper() or "Data",
        )

    async def _variants(self, product: ProductView) -> tuple[ProductSummaryView, ...]:
        """Give the products that differ from this one in their variant alone."""
        if not product.variant:
            return ()
        found = await self._desk.ask(
            lambda market: market.search(product.title, merchant=product.merchant, limit=MOST_VARIANTS)
        )
        alike = tuple(each for each in found.products if each.title == product.title and each.variant)
        return alike if len(alike) > 1 else ()
