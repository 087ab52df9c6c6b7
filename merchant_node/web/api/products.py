"""Products: put on sale with their files, changed, taken off sale.

Rule. A file's name is a text of the signed record, cut and without folders; no path is made of it.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.datastructures import UploadFile

from common import messages
from common.errors import NotFoundError
from common.messages import ProductRecord, Sku
from common.web.endpoints import OCTETS, Endpoint, File, Limit, Named, Offset, Parts, Raw, Takes
from common.web.forms import FieldErrors
from common.web.statuses import ExistsError
from merchant_node.content import LARGEST_FILE, Upload, media_type
from merchant_node.licence_keys import LARGEST_FILE as LARGEST_KEYS
from merchant_node.licence_keys import AddedKeys, KeyCounts
from merchant_node.web import product_form
from merchant_node.web.api.stock import Number
from merchant_node.web.desk import Books, Desk
from merchant_node.web.product_form import LARGEST_PICTURE, plain_name, upload

ENDINGS: Final = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}
PICTURES: Final = (*ENDINGS, OCTETS)

Tag = Annotated[str, Meta(min_length=1, max_length=40)]
Tags = Annotated[tuple[Tag, ...], Meta(max_length=16)]
LicenceKey = Annotated[str, Meta(pattern=r"\A[^\x00-\x1f\x7f]{1,1024}\Z")]
LicenceKeys = Annotated[tuple[LicenceKey, ...], Meta(min_length=1, max_length=10_000)]


class Search(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is looked for: every word of `text` has to occur."""

    text: messages.ShortText = ""
    category: messages.ShortText = ""
    sort: Literal["newest", "title", "price", "SKU"] = "newest"
    offset: Offset = 0
    limit: Limit = 50


class Product(msgspec.Struct, frozen=True):
    """A product on sale. `stock` null is no limit; with `keys` it is what is left of its licence keys."""

    sku: str
    version: int
    title: str
    description: str
    category: str
    tags: tuple[str, ...]
    group: str
    variant: str
    price: int
    currency: str
    tax_rate: int
    file_name: str
    size: int
    sha256: str
    cells: int
    image: bool
    image_alt: str
    keys: bool
    stock: int | None


class Products(msgspec.Struct, frozen=True):
    """A page of what is on sale, `total` in all."""

    products: tuple[Product, ...]
    categories: tuple[str, ...]
    total: int
    offset: int
    limit: int


class NewProduct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A product to put on sale; `price` has the tax in it, at `tax_rate` basis points or the shop's own.

    `stock` null is no limit. `keys` are licence keys, one for each copy, in place of a file of them.
    """

    sku: Sku
    title: messages.Title
    price: messages.Amount
    currency: messages.Currency | None = None
    description: messages.LongText = ""
    category: messages.ShortText = ""
    tags: Tags = ()
    group: messages.ShortText = ""
    variant: messages.ShortText = ""
    tax_rate: messages.TaxRate | None = None
    image_alt: messages.ShortText = ""
    stock: Number | None = None
    keys: LicenceKeys | None = None


class Changes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What changes; what is left out stays as it is."""

    title: messages.Title | UnsetType = UNSET
    price: messages.Amount | UnsetType = UNSET
    currency: messages.Currency | UnsetType = UNSET
    description: messages.LongText | UnsetType = UNSET
    category: messages.ShortText | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    group: messages.ShortText | UnsetType = UNSET
    variant: messages.ShortText | UnsetType = UNSET
    tax_rate: messages.TaxRate | UnsetType = UNSET
    image_alt: messages.ShortText | UnsetType = UNSET
    stock: Number | UnsetType | None = UNSET


class Removed(msgspec.Struct, frozen=True):
    """What is no longer on sale. Whoever bought it can still fetch it."""

    sku: str
    removed: bool


class NameOfFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the file is called."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]


class ProductEndpoints:
    """`/products`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def endpoints(self) -> list[Endpoint]:
        """Give the endpoints."""
        return [
            Endpoint("GET", "/products", self.products),
            Endpoint("POST", "/products", self.add, status=201),
            Endpoint("GET", "/products/{sku}", self.product),
            Endpoint("PATCH", "/products/{sku}", self.edit),
            Endpoint("DELETE", "/products/{sku}", self.remove),
            Endpoint("PUT", "/products/{sku}/file", self.put_file),
            Endpoint("GET", "/products/{sku}/image", self.image),
            Endpoint("PUT", "/products/{sku}/image", self.put_image),
            Endpoint("GET", "/products/{sku}/keys", self.keys),
            Endpoint("POST", "/products/{sku}/keys", self.add_keys),
        ]

    async def products(self, query: Search) -> Products:
        """List what is on sale."""

        def find(books: Books) -> Products:
            found = books.shelf.find(query.text, query.category, query.sort, query.offset, query.limit)
            products = tuple(_shown(each.record, found.left.get(each.record.sku)) for each in found.products)
            categories = tuple(books.shelf.categories)
            return Products(products, categories, found.total, query.offset, query.limit)

        return await self._desk.ask(find)

    async def product(self, sku: Sku) -> Product:
        """Show a product."""
        return await self._desk.ask(lambda books: _shown(*books.shelf.get(sku)))

    async def add(
        self, body: Annotated[Parts[NewProduct], Named("product", ("file", "image", "keys"))]
    ) -> Product:
        """Put a file on sale, or licence keys, or both.

        As a form: `product` in JSON, and `file`, `image` (PNG, JPEG or WebP, made as small as it has to be)
        and `keys` (one per line). Without files `product` may be the whole body, with `keys` in it.
        """
        new, sent = body.fields, body.files
        self._check_currency(new.currency)
        file = upload(sent["file"]) if "file" in sent else None
        keys = _keys_of(new, sent.get("keys"))
        if file is None and keys is None:
            raise FieldErrors({"file": "Send the file that is sold, or licence keys, or both."})
        image = await _picture(sent.get("image"))
        fields = _texts(new, ("sku", "currency", "keys", "stock"))

        def add(books: Books) -> Product:
            _demand_new(books, new.sku)
            books.inventory.add(file, new.sku, image=image, stock=new.stock, keys=keys, **fields)
            return _shown(*books.shelf.get(new.sku))

        return await self._desk.ask(add)

    async def edit(self, sku: Sku, body: Changes) -> Product:
        """Change what is given, and nothing else. Whoever bought it keeps what was bought."""
        self._check_currency(body.currency)
        fields = _texts(body, ("currency", "stock"))
        return await self._change(sku, lambda books: books.inventory.edit(sku, stock=body.stock, **fields))

    async def remove(self, sku: Sku) -> Removed:
        """Take a product off sale. Whoever bought it can still fetch it."""
        await self._desk.ask(lambda books: books.inventory.remove(sku))
        return Removed(sku, removed=True)

    async def put_file(
        self, sku: Sku, query: NameOfFile, body: Annotated[Raw, Takes((OCTETS,), LARGEST_FILE)]
    ) -> Product:
        """Sell another file under the same SKU, called `name`."""
        file = Upload(plain_name(query.name), body.file)
        return await self._change(sku, lambda books: books.inventory.edit(sku, file=file))

    async def image(self, sku: Sku) -> Annotated[File, "image/*"]:
        """Give a product's image."""

        def read(books: Books) -> bytes:
            record, _ = books.shelf.get(sku)
            if not record.image_digest:
                raise NotFoundError(f"{sku} has no image.")
            return books.content.image(record.image_digest)

        data = await self._desk.ask(read)
        kind = media_type(data)
        return File(data, kind, sku + ENDINGS[kind])

    async def put_image(self, sku: Sku, body: Annotated[Raw, Takes(PICTURES, LARGEST_PICTURE)]) -> Product:
        """Show another image: PNG, JPEG or WebP, made as small as it has to be."""
        image = await asyncio.to_thread(product_form.smaller, body.file.read())
        return await self._change(sku, lambda books: books.inventory.edit(sku, image=image))

    async def keys(self, sku: Sku) -> KeyCounts:
        """Count a product's licence keys: left, and given to orders."""
        return await self._desk.ask(lambda books: books.inventory.key_counts(sku))

    async def add_keys(
        self, sku: Sku, body: Annotated[Raw, Takes(("text/plain", OCTETS), LARGEST_KEYS)]
    ) -> AddedKeys:
        """Add licence keys, one per line; those that are known already are skipped."""
        keys = Upload("the list of keys", body.file)
        return await self._desk.ask(lambda books: books.inventory.add_keys(sku, keys))

    async def _change(self, sku: str, action: Callable[[Books], object]) -> Product:
        def change(books: Books) -> Product:
            action(books)
            return _shown(*books.shelf.get(sku))

        return await self._desk.ask(change)

    def _check_currency(self, currency: str | UnsetType | None) -> None:
        if currency not in (None, UNSET, self._desk.currency):
            raise FieldErrors({"currency": f"This shop's currency is {self._desk.currency}."})


def _shown(record: ProductRecord, left: int | None) -> Product:
    return Product(
        sku=record.sku,
        version=record.version,
        title=record.title,
        description=record.description,
        category=record.category,
        tags=tuple(record.tags),
        group=record.group,
        variant=record.variant,
        price=record.price,
        currency=record.currency,
        tax_rate=record.tax_rate,
        file_name=record.file_name,
        size=record.size,
        sha256=record.digest.hex(),
        cells=record.cells,
        image=bool(record.image_digest),
        image_alt=record.image_alt,
        keys=record.keys,
        stock=left,
    )


def _texts(given: NewProduct | Changes, apart: tuple[str, ...]) -> dict[str, Any]:
    """Give what an inventory takes as it is: what was given, less what is looked at by itself."""
    fields = msgspec.structs.asdict(given)
    return {name: value for name, value in fields.items() if name not in apart and value is not UNSET}


def _keys_of(new: NewProduct, sent: UploadFile | None) -> Upload | None:
    if sent is not None and new.keys is not None:
        raise FieldErrors({"keys": "Send them in the product or as a file, not both."})
    if (sent is not None or new.keys is not None) and new.stock is not None:
        raise FieldErrors({"stock": "Leave it out: it is what is left of the keys."})
    if new.keys is not None:
        return Upload("the list of keys", io.BytesIO("\n".join(new.keys).encode()))
    return None if sent is None else upload(sent)


async def _picture(sent: UploadFile | None) -> Upload | None:
    return None if sent is None else await asyncio.to_thread(product_form.picture, [sent])


def _demand_new(books: Books, sku: str) -> None:
    with suppress(NotFoundError):
        books.shelf.get(sku)
        raise ExistsError(f"{sku} is on sale already.", f"PATCH /api/v1/products/{sku} changes it.")
