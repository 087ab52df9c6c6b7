"""Stock: how many can still be sold, set or changed by so many."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from common.messages import Sku
from common.web.endpoints import Endpoint, Limit, Offset
from merchant_node.inventory import LARGEST_STOCK
from merchant_node.web.desk import Books, Desk

Number = Annotated[int, Meta(ge=0, le=LARGEST_STOCK)]


class Stock(msgspec.Struct, frozen=True):
    """What is left of a product; null is no limit. With `keys` it is what is left of its licence keys."""

    sku: str
    stock: int | None
    keys: bool


class Stocks(msgspec.Struct, frozen=True):
    """A page of what is on sale, by SKU, `total` in all."""

    products: tuple[Stock, ...]
    total: int
    offset: int
    limit: int


class Page(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which part of a list."""

    offset: Offset = 0
    limit: Limit = 50


class NewStock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many can be sold from now on; null is no limit."""

    stock: Number | None


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """By how many it changes."""

    change: Annotated[int, Meta(ge=-LARGEST_STOCK, le=LARGEST_STOCK)]


class StockEndpoints:
    """`/stock`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def endpoints(self) -> list[Endpoint]:
        """Give the endpoints."""
        return [
            Endpoint("GET", "/stock", self.listing),
            Endpoint("GET", "/stock/{sku}", self.stock),
            Endpoint("PUT", "/stock/{sku}", self.put),
            Endpoint("PATCH", "/stock/{sku}", self.change),
        ]

    async def listing(self, query: Page) -> Stocks:
        """List what is left of each product, by SKU."""
        shown = await self._desk.ask(lambda books: books.shelf.find("", "", "SKU", query.offset, query.limit))
        products = tuple(
            Stock(each.record.sku, shown.left.get(each.record.sku), each.record.keys)
            for each in shown.products
        )
        return Stocks(products, shown.total, query.offset, query.limit)

    async def stock(self, sku: Sku) -> Stock:
        """Tell what is left of a product."""
        return await self._desk.ask(lambda books: _stock(books, sku))

    async def put(self, sku: Sku, body: NewStock) -> Stock:
        """Set how many can be sold from now on."""

        def put(books: Books) -> Stock:
            books.inventory.edit(sku, stock=body.stock)
            return _stock(books, sku)

        return await self._desk.ask(put)

    async def change(self, sku: Sku, body: Change) -> Stock:
        """Add to what is left, or take some away, whatever is sold meanwhile.

        A product without a limit has nothing to add to, nor has one with licence keys.
        """

        def change(books: Books) -> Stock:
            books.inventory.change_stock(sku, body.change)
            return _stock(books, sku)

        return await self._desk.ask(change)


def _stock(books: Books, sku: str) -> Stock:
    record, left = books.shelf.get(sku)
    return Stock(sku, left, record.keys)
