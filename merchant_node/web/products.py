"""Products: the list, adding, editing, taking off sale, stock, and their pictures."""

from __future__ import annotations

import asyncio
from typing import Final
from urllib.parse import quote, urlencode

from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common import messages
from common.errors import NotFoundError, UsageError
from common.money import format_amount
from common.web import forms, images
from common.web.forms import FieldErrors
from merchant_node import stock
from merchant_node.licence_keys import AddedKeys
from merchant_node.web import product_form
from merchant_node.web.desk import Books, Desk
from merchant_node.web.product_form import Described
from merchant_node.web.shelf import SORTS

PER_PAGE: Final = 50
FRESH: Final = "private, max-age=60"


class ProductPages:
    """`/products` and what is below it."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[Route]:
        """Give the routes."""
        return [
            Route("/products", self.products, methods=["GET"]),
            Route("/products/new", self.new, methods=["GET"]),
            Route("/products/new", self.add, methods=["POST"]),
            Route("/products/{sku}", self.product, methods=["GET"]),
            Route("/products/{sku}", self.edit, methods=["POST"]),
            Route("/products/{sku}/stock", self.set_stock, methods=["POST"]),
            Route("/products/{sku}/remove", self.ask_removal, methods=["GET"]),
            Route("/products/{sku}/remove", self.remove, methods=["POST"]),
            Route("/products/{sku}/picture", self.picture, methods=["GET"]),
        ]

    async def products(self, request: Request) -> Response:
        """List what is on sale."""
        search, category = forms.asked(request, "q"), forms.asked(request, "category")
        asked_sort = forms.asked(request, "sort")
        sort = asked_sort if asked_sort in SORTS else "newest"
        page = forms.asked_number(request, "page", default=1, most=10**6)
        shelf = await self._desk.ask(
            lambda books: books.shelf.find(search, category, sort, (page - 1) * PER_PAGE, PER_PAGE)
        )
        filters = {"q": search, "category": category, "sort": sort}

        def link(number: int) -> str:
            return f"/products?{urlencode({**filters, 'page': number})}"

        return self._desk.page(
            request,
            "products.html",
            shelf=shelf,
            categories=self._desk.books.shelf.categories,
            filters=filters,
            sorts=SORTS,
            page=page,
            pages=-(-shelf.total // PER_PAGE),
            link=link,
            low=stock.LOW,
        )

    async def new(self, request: Request) -> Response:
        """Ask for a new product."""
        return self._asked(request, None, {}, {})

    def _asked(
        self,
        request: Request,
        record: messages.ProductRecord | None,
        entered: dict[str, str],
        faults: dict[str, str],
        left: int | None = None,
    ) -> Response:
        return self._desk.page(
            request,
            "product.html",
            left=left,
            status=422 if faults else 200,
            record=record,
            entered=entered,
            faults=faults,
        )

    async def add(self, request: Request) -> Response:
        """Put a file on sale."""
        form = await forms.read(request)
        shop = self._desk.books.shop
        try:
            read = await asyncio.to_thread(product_form.read, form, shop.currency, shop.tax_rate, None)
            record = await self._desk.ask(lambda books: _add(books, read))
        except FieldErrors as wrong:
            return self._asked(request, None, form.entered, wrong.faults)
        except UsageError as wrong:
            return self._asked(request, None, form.entered, {"sku": _said(wrong)})
        price = format_amount(record.price, record.currency)
        self._desk.site.notice(request, f"{record.title} is on sale for {price}.", "good")
        return self._desk.site.redirect("/products")

    async def product(self, request: Request) -> Response:
        """Show a product, as a form."""
        record, left = await self._desk.ask(lambda books: books.shelf.get(request.path_params["sku"]))
        return self._asked(request, record, product_form.written(record, left, record.currency), {}, left)

    async def edit(self, request: Request) -> Response:
        """Change a product; whoever bought it keeps what was bought."""
        form, sku = await forms.read(request), request.path_params["sku"]
        record, left = await self._desk.ask(lambda books: books.shelf.get(sku))
        shop = self._desk.books.shop
        try:
            read = await asyncio.to_thread(product_form.read, form, shop.currency, shop.tax_rate, sku)
            changed, added = await self._desk.ask(lambda books: _edit(books, read))
        except FieldErrors as wrong:
            return self._asked(request, record, form.entered, wrong.faults, left)
        except UsageError as wrong:
            return self._asked(request, record, form.entered, {"title": _said(wrong)}, left)
        said = f"{changed.title} is at version {changed.version}: customers see it at once."
        self._desk.site.notice(request, said, "good")
        if added is not None:
            said = f"{added.added} keys were added, {added.known} were known already; {added.left} are left."
            self._desk.site.notice(request, said, "good")
        return self._desk.site.redirect(f"/products/{quote(sku)}")

    async def set_stock(self, request: Request) -> Response:
        """Set how many can still be sold."""
        form, sku = await forms.read(request), request.path_params["sku"]
        number = product_form.stock_of(form.text("stock", longest=20))
        await self._desk.ask(lambda books: books.inventory.edit(sku, stock=number))
        left = "can be sold without limit" if number is None else f"has {number} left"
        self._desk.site.notice(request, f"{sku} {left}.", "good")
        return self._desk.site.redirect(form.text("back") or "/products")

    async def ask_removal(self, request: Request) -> Response:
        """Say what taking a product off sale means."""
        record, _ = await self._desk.ask(lambda books: books.shelf.get(request.path_params["sku"]))
        return self._desk.page(request, "product_remove.html", record=record)

    async def remove(self, request: Request) -> Response:
        """Take a product off sale."""
        sku = request.path_params["sku"]
        await self._desk.ask(lambda books: books.inventory.remove(sku))
        self._desk.site.notice(
            request, f"{sku} is no longer on sale. Whoever bought it can fetch it.", "good"
        )
        return self._desk.site.redirect("/products")

    async def picture(self, request: Request) -> Response:
        """Send a product's picture, scaled."""
        record, _ = await self._desk.ask(lambda books: books.shelf.get(request.path_params["sku"]))
        if not record.image_digest:
            raise NotFoundError(f"{record.sku} has no picture.")
        data = self._desk.books.content.image(record.image_digest)
        width = images.width_for(forms.asked_number(request, "width", default=240, most=4000))
        made = await asyncio.to_thread(images.scaled, data, width)
        return Response(made.data, media_type=made.media_type, headers={"cache-control": FRESH})


def _said(error: UsageError) -> str:
    return f"{error.message[:1].upper()}{error.message[1:]}."


def _add(books: Books, described: Described) -> messages.ProductRecord:
    limit = None if isinstance(described.stock, UnsetType) else described.stock
    return books.inventory.add(
        described.file,
        described.sku,
        image=described.image,
        stock=limit,
        keys=described.keys,
        **described.fields,
    )


def _edit(books: Books, described: Described) -> tuple[messages.ProductRecord, AddedKeys | None]:
    sku = described.sku
    added = books.inventory.add_keys(sku, described.keys) if described.keys is not None else None
    # Keys have set the stock; what the form says of it was written before.
    stock = described.stock if added is None else UNSET
    record = books.inventory.edit(
        sku, file=described.file, image=described.image, stock=stock, **described.fields
    )
    return record, added
