"""The catalog: what is on sale, and the answers to those who look around.

Rule 1. The signed records are the catalog. They are read into memory, each once, and kept in every order
that can be asked for: a search looks at all of them and sorts none. Stock stands outside them and is read
when asked for.

Rule 2. An answer of a kind has one size, whatever it says, a refusal too: the relay cannot tell a find
from a miss.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa

from common import codec, config, messages
from common.messages import ProductRecord
from common.store import Tx
from merchant_node import schema, stock

PAGE_PRODUCTS: Final = 20
PAGE_CATEGORIES: Final = 64
CATEGORY_ROOM: Final = 4 * config.KIB
PAGE_ROOM: Final = config.PAGE_ANSWER - 256
"""What the products and categories of one page may take, packed."""

_VERSION = sa.select(schema.counters.c.value).where(schema.counters.c.name == "catalog")
_ON_SALE = (
    sa.select(
        schema.product_versions.c.id,
        schema.product_versions.c.record,
        schema.product_versions.c.signature,
        schema.products.c.added,
    )
    .join(schema.products, schema.products.c.current == schema.product_versions.c.id)
    .order_by(schema.products.c.sku)
)
_CURRENT = sa.select(schema.products.c.current, schema.products.c.added)
_OF_VERSIONS = _ON_SALE.where(schema.product_versions.c.id.in_(sa.bindparam("ids", expanding=True)))


@dataclass(frozen=True)
class Product:
    """A product on sale: its record as read, the record's bytes as signed, and what is derived from both."""

    version_id: int
    record: ProductRecord
    packed: bytes
    signature: bytes
    added: int
    record_digest: bytes = field(init=False)
    text: str = field(init=False)

    def __post_init__(self) -> None:
        record = self.record
        names = record.title, record.description, record.category, record.sku, record.group, record.variant
        text = "\n".join((*names, *record.tags))
        object.__setattr__(self, "record_digest", hashlib.sha256(self.packed).digest())
        object.__setattr__(self, "text", text.casefold())


def read_on_sale(tx: Tx) -> list[Product]:
    """Read every product on sale, by SKU."""
    return [_product(*row) for row in tx.tuples(_ON_SALE)]


def read_changed(tx: Tx, known: Iterable[Product]) -> list[Product]:
    """Give every product on sale, in no order; what is among the `known` is not read again."""
    before = {(product.version_id, product.added): product for product in known}
    current: list[tuple[int, int]] = [(version, added) for version, added in tx.tuples(_CURRENT)]
    kept = [before[each] for each in current if each in before]
    if not kept:
        return read_on_sale(tx)
    changed = tx.among(_OF_VERSIONS, [each[0] for each in current if each not in before])
    return kept + [_product(row["id"], row["record"], row["signature"], row["added"]) for row in changed]


def _product(version_id: int, record: bytes, signature: bytes, added: int) -> Product:
    return Product(version_id, codec.PRODUCT_RECORD.unpack(record), record, signature, added)


def catalog_version(tx: Tx) -> int:
    """When the catalog last changed, in milliseconds; it only rises."""
    return int(tx.rows(_VERSION)[0]["value"])


@dataclass(frozen=True)
class Page:
    """A page that is found, before stock is known."""

    total: int
    next_offset: int
    categories: list[str]
    products: list[Product]


class Catalog:
    """What is on sale, in memory: a copy of committed rows, renewed when their version is."""

    def __init__(self) -> None:
        self.version = -1
        self._products: dict[str, Product] = {}
        self._orders: dict[messages.Sort, list[Product]] = {"title": [], "price": [], "newest": []}
        self._categories: list[str] = []

    def refresh(self, tx: Tx) -> None:
        """Read what has changed in the catalog."""
        version = catalog_version(tx)
        if version != self.version:
            self.show(read_changed(tx, self._products.values()))
            self.version = version

    def show(self, products: Sequence[Product]) -> None:
        """Have these on sale, and nothing else."""
        self._products = {product.record.sku: product for product in products}
        by_title = sorted(products, key=lambda product: (product.record.title.casefold(), product.record.sku))
        self._orders = {
            "title": by_title,
            "price": sorted(by_title, key=lambda product: product.record.price),
            "newest": sorted(by_title, key=lambda product: -product.added),
        }
        self._categories = sorted({p.record.category for p in products if p.record.category})

    def get(self, sku: str) -> Product | None:
        """Give what is on sale under this SKU."""
        return self._products.get(sku)

    def find(self, request: messages.ListProducts) -> Page:
        """Search: every word must occur in the texts of a product, in any case."""
        found = self._orders[request.sort]
        if request.category:
            found = [product for product in found if product.record.category == request.category]
        for word in request.search.casefold().split():
            found = [product for product in found if word in product.text]
        categories = _cut(self._categories)
        wanted = found[request.offset : request.offset + PAGE_PRODUCTS]
        room = PAGE_ROOM - len(codec.pack(categories))
        products: list[Product] = []
        for product in wanted:
            room -= len(codec.pack(summary(product, "low")))
            if room < 0:
                break
            products.append(product)
        end = request.offset + len(products)
        return Page(len(found), end if products and end < len(found) else 0, categories, products)


def _cut(categories: Sequence[str]) -> list[str]:
    kept: list[str] = []
    room = CATEGORY_ROOM
    for category in categories[:PAGE_CATEGORIES]:
        room -= len(codec.pack(category))
        if room < 0:
            break
        kept.append(category)
    return kept


def summary(product: Product, stock_level: messages.StockLevel) -> messages.ProductSummary:
    """Give a product as a list shows it."""
    record = product.record
    return messages.ProductSummary(
        sku=record.sku,
        title=record.title,
        category=record.category,
        tags=record.tags,
        variant=record.variant,
        price=record.price,
        stock=stock_level,
        image=bool(record.image_digest),
    )


def page_answer(page: Page, version: int, left: dict[str, int]) -> messages.ProductPage:
    """Make the answer to `ListProducts`; `left` says what remains of what is limited."""
    return messages.ProductPage(
        catalog_version=version,
        total=page.total,
        next_offset=page.next_offset,
        categories=page.categories,
        products=[summary(product, stock.level(left.get(product.record.sku))) for product in page.products],
    )


def detail_answer(product: Product, left: dict[str, int]) -> messages.ProductDetail:
    """Make the answer to `GetProduct`."""
    return messages.ProductDetail(
        record=product.packed,
        signature=product.signature,
        stock=stock.level(left.get(product.record.sku)),
    )
