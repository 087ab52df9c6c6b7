"""Merchants and their products. Asking a merchant for the first time takes a ticket, as on the pages."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from common import messages
from common.messages import MerchantId, Sku
from common.web.endpoints import Endpoint, File, Limit, Offset
from common.web.statuses import Failure, failure
from customer_node.browse import MAXIMUM_TICKETS
from customer_node.views import MerchantView, ProductSummaryView, ProductView
from customer_node.web.api.sides import Sides

MOST_TICKETS: Final = 50
ENDINGS: Final = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}


class Search(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is looked for. Without `merchant` at all of them, for at most `max_tickets` new visits."""

    text: messages.ShortText = ""
    merchant: MerchantId | None = None
    category: messages.ShortText = ""
    sort: messages.Sort = "title"
    offset: Offset = 0
    limit: Limit = 50
    max_tickets: Annotated[int, Meta(ge=0, le=MOST_TICKETS)] = MAXIMUM_TICKETS


class Merchants(msgspec.Struct, frozen=True):
    """The market's merchants."""

    merchants: tuple[MerchantView, ...]


class Products(msgspec.Struct, frozen=True):
    """A page of what was found, `total` in all. `failures` are the merchants that could not be asked."""

    products: tuple[ProductSummaryView, ...]
    categories: tuple[str, ...]
    total: int
    offset: int
    limit: int
    failures: dict[str, Failure]


class ProductEndpoints:
    """`/merchants` and `/products`."""

    def __init__(self, sides: Sides) -> None:
        self._sides = sides

    def endpoints(self) -> list[Endpoint]:
        """Give the endpoints."""
        return [
            Endpoint("GET", "/merchants", self.merchants),
            Endpoint("GET", "/products", self.search),
            Endpoint("GET", "/products/{merchant}/{sku}", self.product),
            Endpoint("GET", "/products/{merchant}/{sku}/image", self.image),
        ]

    async def merchants(self) -> Merchants:
        """List the merchants. Takes no ticket."""
        self._sides.enter_shops()
        return Merchants(await self._sides.desk.merchants(fresh=True))

    async def search(self, query: Search) -> Products:
        """Search the products of one merchant, or of all.

        All merchants together show their first 1000 products.
        """
        found = await self._sides.shops(
            lambda market: market.search(
                query.text,
                merchant=query.merchant,
                category=query.category,
                sort=query.sort,
                limit=query.limit,
                max_tickets=query.max_tickets,
                offset=query.offset,
            )
        )
        failures = {merchant: failure(error) for merchant, error in found.failures.items()}
        return Products(found.products, found.categories, found.total, query.offset, query.limit, failures)

    async def product(self, merchant: MerchantId, sku: Sku) -> ProductView:
        """Give a product, its record verified."""
        return await self._sides.shops(lambda market: market.show(merchant, sku))

    async def image(self, merchant: MerchantId, sku: Sku) -> Annotated[File, "image/*"]:
        """Give a product's image, verified."""
        found = await self._sides.shops(lambda market: market.image(merchant, sku))
        return File(found.data, found.media_type, sku + ENDINGS[found.media_type])
