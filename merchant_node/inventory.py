"""What the merchant offers: products, their versions, stock and files.

Rule 1. Every change makes a new version with a record of its own, signed; old ones stay, for those who
bought them. Stock is no part of the record, so counting it down changes no version.

Rule 2. A file lies in the content folder before any row names it.

Rule 3. It works on the same store as the running node, which reads the catalog again when its version
has risen.

    inventory.add(Path("plan.pdf"), "plan-10k", title="10 km in 8 weeks", price=999, category="Plans")
    inventory.edit("plan-10k", price=899)
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
import sqlalchemy as sa
from msgspec import UNSET, Meta, UnsetType

from common import clock, codec, config, messages
from common.config import Limits
from common.credentials import PRODUCT_RECORD_LABEL
from common.errors import NotFoundError, RejectedError, UsageError
from common.receipts import cells_needed
from common.store import Store, Tx
from merchant_node import buckets, licence_keys, schema, stock
from merchant_node.catalog import Product, catalog_version, read_on_sale
from merchant_node.content import ContentFolder, Source, Upload
from merchant_node.discounts import Discount
from merchant_node.licence_keys import AddedKeys, KeyCounts
from merchant_node.renewal import earlier_record
from merchant_node.shop import Shop

LARGEST_RECORD: Final = 6 * config.KIB
LARGEST_STOCK: Final = 2**31 - 1

_SOLD = (
    sa.select(schema.order_lines.c.version)
    .distinct()
    .join(schema.orders, schema.orders.c.number == schema.order_lines.c.order_number)
    .where(schema.orders.c.state.in_(("accepted", "captured", "delivered")))
)
_LAST_VERSION = sa.select(sa.func.max(schema.product_versions.c.version)).where(
    schema.product_versions.c.sku == sa.bindparam("of")
)
_VERSION_ID = sa.select(schema.product_versions.c.id).where(
    schema.product_versions.c.sku == sa.bindparam("of"),
    schema.product_versions.c.version == sa.bindparam("number"),
)
_OFFER = sa.update(schema.products).where(schema.products.c.sku == sa.bindparam("of"))
_CURRENT = sa.select(schema.products.c.sku, schema.product_versions.c.record).join(
    schema.product_versions, schema.products.c.current == schema.product_versions.c.id
)
_WITHDRAW = sa.delete(schema.products).where(schema.products.c.sku == sa.bindparam("of"))
_UNLIMIT = sa.delete(schema.stock).where(schema.stock.c.sku == sa.bindparam("of"))
_SET_CATALOG = (
    sa.update(schema.counters).where(schema.counters.c.name == "catalog").values(value=sa.bindparam("to"))
)


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A product as the merchant describes it, within the bounds of `messages.ProductRecord`."""

    sku: messages.Sku
    title: messages.Title
    description: messages.LongText
    category: messages.ShortText
    tags: Annotated[list[Annotated[str, Meta(min_length=1, max_length=40)]], Meta(max_length=16)]
    group: messages.ShortText
    variant: messages.ShortText
    price: messages.Amount
    tax_rate: messages.TaxRate
    file_name: Annotated[str, Meta(min_length=1, max_length=120)]
    size: int
    digest: bytes
    image_digest: bytes
    image_alt: messages.ShortText
    keys: bool = False

    @property
    def cells(self) -> int:
        """The bucket that it begins in."""
        return buckets.rung(cells_needed(self.size, keys=self.keys))


@dataclass(frozen=True)
class Listed:
    """A product on sale, as `product list` shows it. `stock` is None where it is unlimited."""

    record: messages.ProductRecord
    stock: int | None


class Inventory:
    """Adds, edits and removes products. Each call is one transaction."""

    def __init__(
        self,
        shop: Shop,
        store: Store,
        content: ContentFolder,
        limits: Limits,
        now: Callable[[], int] = clock.now_ms,
    ) -> None:
        self._shop = shop
        self._store = store
        self._content = content
        self._limits = limits
        self._now = now

    def add(
        self,
        file: Source | None,
        sku: str,
        *,
        title: str,
        price: int,
        category: str = "",
        tags: Sequence[str] = (),
        description: str = "",
        image: Source | None = None,
        image_alt: str = "",
        stock: int | None = None,
        group: str = "",
        variant: str = "",
        tax_rate: int | None = None,
        keys: Source | None = None,
    ) -> messages.ProductRecord:
        """Put a file on sale; `price` is in minor units, tax included, `stock` None is unlimited.

        `tax_rate` is in basis points, None is the shop's own. `keys` is a list of licence keys, one for each
        copy: the stock is what is left of them, and `file` may be None.

        Raises `UsageError` for a value out of bounds and for a SKU that is on sale already.
        """
        if keys is not None and stock is not None:
            raise UsageError("the stock of a product with keys is what is left of them")
        if keys is None and file is None:
            raise UsageError("a product is a file, or a list of keys, or both")
        given = licence_keys.read_file(keys) if keys is not None else []
        file = file or Upload(sku + licence_keys.KEYS_FILE, io.BytesIO())
        stored = self._content.add(file)
        draft = make_draft(
            {
                "sku": sku,
                "title": title,
                "description": description,
                "category": category,
                "tags": list(tags),
                "group": group,
                "variant": variant,
                "price": price,
                "tax_rate": self._shop.tax_rate if tax_rate is None else tax_rate,
                "file_name": file.name,
                "size": stored.size,
                "digest": stored.digest,
                "keys": keys is not None,
                "image_digest": self._content.add_image(image) if image is not None else b"",
                "image_alt": image_alt,
            }
        )
        with self._store.immediate() as tx:
            if sku in by_sku(tx):
                raise UsageError(f"{sku} is on sale already", "Change it with `product edit`.")
            version = self._write_version(tx, draft, draft.cells)
            tx.execute(sa.insert(schema.products), {"sku": sku, "current": version, "added": self._now()})
            _set_stock(tx, sku, licence_keys.add(tx, sku, given).left if keys is not None else stock)
            return self._changed(tx)[sku].record

    def add_keys(self, sku: str, keys: Source) -> AddedKeys:
        """Add licence keys to a product, which has keys from then on.

        Raises `NotFoundError` for an unknown SKU, `UsageError` for a file that is no list of keys, or where a
        product without keys would get none.
        """
        given = licence_keys.read_file(keys)
        with self._store.immediate() as tx:
            product = _find(tx, sku)
            added = licence_keys.add(tx, sku, given)
            if not product.record.keys and not added.left:
                raise UsageError(
                    f"none of the keys is new, and {sku} has been sold without",
                    "Nothing was changed. A key is sold once, in whichever product.",
                )
            _set_stock(tx, sku, added.left)
            if not product.record.keys:
                draft = msgspec.structs.replace(draft_of(product.record), keys=True)
                tx.changed(_OFFER.values(current=self._write_version(tx, draft, draft.cells)), {"of": sku})
                self._changed(tx)
        return added

    def key_counts(self, sku: str) -> KeyCounts:
        """Count a product's licence keys. Raises `NotFoundError` for one that is not on sale."""
        with self._store.immediate() as tx:
            _find(tx, sku)
            return licence_keys.counts(tx, sku)

    def edit(
        self,
        sku: str,
        *,
        file: Source | None = None,
        title: str | None = None,
        price: int | None = None,
        category: str | None = None,
        tags: Sequence[str] | None = None,
        description: str | None = None,
        image: Source | None = None,
        image_alt: str | None = None,
        stock: int | UnsetType | None = UNSET,
        group: str | None = None,
        variant: str | None = None,
        tax_rate: int | None = None,
    ) -> messages.ProductRecord:
        """Change what is given, and nothing else. A new version is made only where the record changes.

        Raises `NotFoundError` for an unknown SKU, `UsageError` for a value out of bounds.
        """
        changes: dict[str, Any] = {
            "title": title,
            "description": description,
            "category": category,
            "tags": list(tags) if tags is not None else None,
            "group": group,
            "variant": variant,
            "price": price,
            "tax_rate": tax_rate,
            "image_alt": image_alt,
        }
        if file is not None:
            stored = self._content.add(file)
            changes |= {"file_name": file.name, "size": stored.size, "digest": stored.digest}
        if image is not None:
            changes["image_digest"] = self._content.add_image(image)
        with self._store.immediate() as tx:
            product = _find(tx, sku)
            before = draft_of(product.record)
            draft = make_draft(
                msgspec.structs.asdict(before) | {k: v for k, v in changes.items() if v is not None}
            )
            if draft != before:
                version = self._write_version(tx, draft, draft.cells)
                tx.changed(_OFFER.values(current=version), {"of": sku})
            if not isinstance(stock, UnsetType):
                if draft.keys:
                    raise UsageError(
                        f"the stock of {sku} is what is left of its keys", "`product keys add` adds some."
                    )
                _set_stock(tx, sku, stock)
            return self._changed(tx)[sku].record

    def change_stock(self, sku: str, by: int) -> None:
        """Add `by` to what is left, or take some away, in one step beside the node that sells.

        Raises `NotFoundError`, `RejectedError` where less is left, `UsageError` where there is no limit.
        """
        with self._store.immediate() as tx:
            product = _find(tx, sku)
            left = stock.available(tx, [sku]).get(sku)
            if product.record.keys or left is None:
                raise UsageError(
                    f"the stock of {sku} is no number that can be changed",
                    "Set one first; that of a product with keys is what is left of them.",
                )
            if left + by < 0:
                raise RejectedError(f"Only {left} of {sku} are left.", "Nothing was changed.")
            _set_stock(tx, sku, left + by)

    def remove(self, sku: str) -> None:
        """Take a product off sale; those who bought it can still fetch it. Raises `NotFoundError`."""
        with self._store.immediate() as tx:
            _find(tx, sku)
            tx.changed(_WITHDRAW, {"of": sku})
            tx.changed(_UNLIMIT, {"of": sku})
            self._changed(tx)

    def products(self) -> list[Listed]:
        """Give what is on sale, by SKU."""
        with self._store.immediate() as tx:
            products = read_on_sale(tx)
            left = stock.available(tx, (product.record.sku for product in products))
        return [Listed(product.record, left.get(product.record.sku)) for product in products]

    def privacy(self) -> list[buckets.Privacy]:
        """Say for each product, and each price that a discount makes of it, among how many it hides."""
        with self._store.immediate() as tx:
            products = read_on_sale(tx)
            sized = sized_of(tx, products)
            discounts = [Discount.of(row) for row in tx.all(sa.select(schema.discounts))]
        present = {product.record.sku: product.record.cells for product in products}
        group = self._limits.privacy_group
        reduced = {
            each.code: each.reduced([product.record for product in products])
            for each in discounts
            if each.lasts(self._now())
        }
        return [
            *buckets.privacy(sized, present, group, self._limits.privacy_overhead, self._shop.currency),
            *buckets.discounted_privacy(sized, present, reduced, group),
        ]

    def renew(self) -> None:
        """Bring what is on sale up to date; a node and a command do so before anything else.

        Raises `UsageError` where it is priced in another currency than the market's.
        """
        with self._store.immediate() as tx:
            earlier = {row["sku"]: earlier_record(row["record"]) for row in tx.all(_CURRENT)}
            for sku, fields in earlier.items():
                if fields is None:
                    continue
                draft = make_draft({**fields, "tax_rate": self._shop.tax_rate})
                version = self._write_version(tx, draft, fields["cells"])
                tx.changed(_OFFER.values(current=version), {"of": sku})
            if any(fields is not None for fields in earlier.values()):
                self._changed(tx)
            currencies = {product.record.currency for product in read_on_sale(tx)} - {self._shop.currency}
        if currencies:
            raise UsageError(
                f"this shop's prices are in {', '.join(sorted(currencies))}, "
                f"the market's currency is {self._shop.currency}",
                "Prices are in the market's currency alone: open a shop of its own for this market.",
            )

    # --- versions --------------------------------------------------------------------------------------

    def _changed(self, tx: Tx) -> dict[str, Product]:
        """Bring the buckets up to date, raise the catalog version, and give what is on sale."""
        products = by_sku(tx)
        sized = sized_of(tx, list(products.values()))
        assigned = buckets.assign(sized, self._limits.privacy_group, self._limits.privacy_overhead)
        for sku, cells in assigned.items():
            if products[sku].record.cells != cells:
                version = self._write_version(tx, draft_of(products[sku].record), cells)
                tx.changed(_OFFER.values(current=version), {"of": sku})
        tx.changed(_SET_CATALOG, {"to": max(self._now(), catalog_version(tx) + 1)})
        return by_sku(tx)

    def _write_version(self, tx: Tx, draft: Draft, cells: int) -> int:
        number = int(tx.scalar(_LAST_VERSION, {"of": draft.sku}) or 0) + 1
        tx.execute(sa.insert(schema.product_versions), version_row(self._shop, draft, number, cells))
        return int(tx.scalar(_VERSION_ID, {"of": draft.sku, "number": number}))


def version_row(shop: Shop, draft: Draft, number: int, cells: int) -> dict[str, Any]:
    """Sign a version of a product. Raises `UsageError` where its texts are too long together."""
    record = codec.pack(
        messages.ProductRecord(
            merchant=shop.merchant,
            version=number,
            currency=shop.currency,
            cells=cells,
            **msgspec.structs.asdict(draft),
        )
    )
    if len(record) > LARGEST_RECORD:
        raise UsageError(
            f"the description of {draft.sku} takes {len(record)} bytes, more than {LARGEST_RECORD}",
            "Shorten its texts.",
        )
    return {
        "sku": draft.sku,
        "version": number,
        "record": record,
        "signature": shop.identity.sign(PRODUCT_RECORD_LABEL, record),
    }


def make_draft(fields: dict[str, Any]) -> Draft:
    """Check a description. Raises `UsageError` for a value out of bounds."""
    try:
        return msgspec.convert(fields, Draft)
    except msgspec.ValidationError as error:
        raise UsageError(f"the product cannot be described so: {error}") from error


def draft_of(record: messages.ProductRecord) -> Draft:
    """Give what a record was made of."""
    return msgspec.convert(record, Draft, from_attributes=True)


def by_sku(tx: Tx) -> dict[str, Product]:
    """Read what is on sale."""
    return {product.record.sku: product for product in read_on_sale(tx)}


def _find(tx: Tx, sku: str) -> Product:
    product = by_sku(tx).get(sku)
    if product is None:
        raise NotFoundError(f"no product {sku} is on sale", "`product list` shows them all.")
    return product


def sold_versions(tx: Tx) -> set[int]:
    """Give the ids of versions that somebody has bought: their buckets stay as they are."""
    return set(tx.execute(_SOLD).scalars())


def sized_of(tx: Tx, products: Sequence[Product]) -> list[buckets.Sized]:
    """Give what is on sale as far as buckets go."""
    sold = sold_versions(tx)
    return [
        buckets.Sized(
            sku=product.record.sku,
            price=product.record.price,
            needs=cells_needed(product.record.size, keys=product.record.keys),
            fixed=product.record.cells if product.version_id in sold else None,
        )
        for product in products
    ]


def _set_stock(tx: Tx, sku: str, left: int | None) -> None:
    if left is not None and not 0 <= left <= LARGEST_STOCK:
        raise UsageError("stock is a number from 0 on", "Leave it out where it is unlimited.")
    tx.changed(_UNLIMIT, {"of": sku})
    if left is not None:
        tx.execute(sa.insert(schema.stock), {"sku": sku, "available": left})
