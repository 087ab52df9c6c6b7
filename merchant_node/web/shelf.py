"""What is on sale, in memory, for the pages. What has changed is read when the catalog's version rises.

The node's own catalog answers customers; this one also knows what is left of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from common.errors import NotFoundError
from common.messages import ProductRecord
from common.store import Store
from merchant_node import stock
from merchant_node.catalog import Product, catalog_version, read_changed

SORTS: Final[dict[str, Callable[[Product], Any]]] = {
    "newest": lambda product: (-product.added, product.record.sku),
    "title": lambda product: (product.record.title.casefold(), product.record.sku),
    "price": lambda product: (product.record.price, product.record.sku),
    "SKU": lambda product: product.record.sku,
}


@dataclass(frozen=True)
class Shown:
    """A page of products, with what is left of those that are limited."""

    total: int
    products: Sequence[Product]
    left: dict[str, int]


class Shelf:
    """Belongs to one thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._version = -1
        self._products: dict[str, Product] = {}
        self.categories: Sequence[str] = ()

    def refresh(self) -> None:
        """Read those products again that have changed."""
        with self._store.snapshot() as tx:
            version = catalog_version(tx)
            if version != self._version:
                found = read_changed(tx, self._products.values())
                self._products = {product.record.sku: product for product in found}
                names = {product.record.category for product in self._products.values()}
                self.categories = sorted(names - {""})
                self._version = version

    def find(self, search: str, category: str, sort: str, start: int, count: int) -> Shown:
        """Give some of the products in which every word occurs, in any case."""
        self.refresh()
        words = search.casefold().split()
        found = [
            product
            for product in self._products.values()
            if (not category or product.record.category == category)
            and all(word in product.text for word in words)
        ]
        shown = sorted(found, key=SORTS[sort])[start : start + count]
        with self._store.snapshot() as tx:
            left = stock.available(tx, (product.record.sku for product in shown))
        return Shown(len(found), shown, left)

    def get(self, sku: str) -> tuple[ProductRecord, int | None]:
        """Give a product and what is left of it. Raises `NotFoundError`."""
        self.refresh()
        product = self._products.get(sku)
        if product is None:
            raise NotFoundError(f"No product {sku} is on sale.")
        with self._store.snapshot() as tx:
            return product.record, stock.available(tx, [sku]).get(sku)
