"""Looking around: merchants, search, products, images.

Rule 1. Merchants are read off their public cards: that takes no ticket. Whatever is asked of a merchant
takes a visit, and so a ticket where there is no visit to it yet.

Rule 2. A search over all merchants says how many tickets it would use before it uses more than agreed.
One merchant that is away or not to be trusted does not hide the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Final, TypeAlias

import msgspec

from common import config, messages
from common.errors import NotFoundError, UntrustedError, UsageError, VeilmartError
from customer_node.context import Context
from customer_node.directory import Merchant
from customer_node.products import Product, fetch_product
from customer_node.refusals import TicketsNeededError
from customer_node.shop import Shop, Visit
from customer_node.views import ImageView, MerchantView, ProductSummaryView, ProductView, SearchView

MAXIMUM_TICKETS: Final = 4
MAXIMUM_LIMIT: Final = 1000
READINGS: Final = 3
LISTED_MS: Final = config.MINUTE_MS
"""For how long the list of merchants holds for a search over all of them."""

Listing: TypeAlias = tuple[Sequence[str], Mapping[str, VeilmartError]]
SortKey: TypeAlias = Callable[[ProductSummaryView], tuple[object, ...]]
_ORDER: Final[dict[messages.Sort, SortKey]] = {
    "title": lambda product: (product.title.casefold(), product.merchant, product.sku),
    "price": lambda product: (product.price, product.title.casefold(), product.merchant),
    "newest": lambda _product: (),
}


class Browse:
    """Shop scope, reading only."""

    def __init__(self, context: Context, shop: Shop) -> None:
        self._context = context
        self._shop = shop
        self._listed: tuple[int, Listing] | None = None

    def merchants(self) -> tuple[MerchantView, ...]:
        """List the merchants whose cards hold. Raises `BusUnreachableError`."""
        link = self._shop.public_link()
        found, _ = self._context.directory.merchants(link)
        return tuple(_merchant_view(merchant, online=link.merchant_online(merchant.id)) for merchant in found)

    def search(
        self,
        text: str,
        merchant: str | None,
        category: str,
        sort: messages.Sort,
        limit: int,
        max_tickets: int,
        offset: int,
    ) -> SearchView:
        """Search one merchant, or all of them. Raises `TicketsNeededError`."""
        if not 1 <= limit <= MAXIMUM_LIMIT or offset < 0:
            raise UsageError(f"A search gives 1 to {MAXIMUM_LIMIT} products.")
        question = messages.ListProducts(search=text, category=category, sort=sort, offset=0)
        if merchant is not None:
            from_there = msgspec.structs.replace(question, offset=offset)
            pages = [self._shop.at(merchant, lambda visit: _pages(visit, from_there, limit))]
            return _merged(pages, {}, sort, slice(limit))
        if offset + limit > MAXIMUM_LIMIT:
            # Where a page of all merchants begins is known only from all the pages before it.
            raise UsageError(f"All merchants together show their first {MAXIMUM_LIMIT} products.")
        return self._search_all(question, slice(offset, offset + limit), max_tickets)

    def _search_all(self, question: messages.ListProducts, wanted: slice, max_tickets: int) -> SearchView:
        found, untrusted = self._listing()
        failures: dict[str, VeilmartError] = dict(untrusted)
        needed = sum(self._shop.visiting(merchant) is None for merchant in found)
        if needed > max_tickets:
            raise TicketsNeededError(needed, max_tickets)
        pages: list[SearchView] = []
        for merchant in found:
            try:
                pages.append(self._shop.at(merchant, lambda visit: _pages(visit, question, wanted.stop)))
            except VeilmartError as error:
                failures[merchant] = error
        if failures and not pages:
            raise next(iter(failures.values()))
        return _merged(pages, failures, question.sort, wanted)

    def _listing(self) -> Listing:
        """Give the merchants' ids, and those whose cards do not hold, as of a minute ago at most.

        That all cards have come is known from silence alone, and each visit is a connection of its own.
        Whoever is asked then is known by the card of that very connection.
        """
        now = self._context.clock()
        if self._listed is None or not self._listed[1][0] or now >= self._listed[0] + LISTED_MS:
            found, untrusted = self._context.directory.merchants(self._shop.public_link())
            self._listed = now, ([merchant.id for merchant in found], untrusted)
        return self._listed[1]

    def show(self, merchant: str, sku: str) -> ProductView:
        """Give a product. Raises `NotFoundError`, `UntrustedError`, and what a visit raises."""
        return self.product(merchant, sku).view()

    def product(self, merchant: str, sku: str) -> Product:
        """Give a product with its signed record."""
        return self._shop.at(merchant, lambda visit: fetch_product(visit, sku))

    def image(self, merchant: str, sku: str) -> ImageView:
        """Give a product's image, checked against the signed record. Raises `NotFoundError` for none."""
        return self._shop.at(merchant, lambda visit: _image(visit, sku))


def _image(visit: Visit, sku: str) -> ImageView:
    record = fetch_product(visit, sku).record
    if not record.image_digest:
        raise NotFoundError(f"{record.title} has no image.")
    image = visit.ask(messages.GetImage(sku=sku), messages.ProductImage)
    if hashlib.sha256(image.data).digest() != record.image_digest:
        raise UntrustedError("The image is not the one that the merchant signed.")
    return ImageView(media_type=image.media_type, data=image.data, alt=record.image_alt)


def _pages(visit: Visit, question: messages.ListProducts, limit: int) -> SearchView:
    """Read pages until `limit` products are there. A catalog that changes meanwhile is read again."""
    for _ in range(READINGS):
        pages = _read(visit, question, limit)
        if len({page.catalog_version for page in pages}) == 1:
            break
    currency = visit.context.profile.market.currency
    products = {product.sku: product for page in pages for product in page.products}
    return SearchView(
        products=tuple(_summary(visit.merchant.id, product, currency) for product in products.values()),
        categories=tuple(pages[-1].categories),
        total=pages[-1].total,
        failures={},
    )


def _read(visit: Visit, question: messages.ListProducts, limit: int) -> list[messages.ProductPage]:
    pages: list[messages.ProductPage] = []
    offset, count = question.offset, 0
    while True:
        page = visit.ask(msgspec.structs.replace(question, offset=offset), messages.ProductPage)
        pages.append(page)
        count += len(page.products)
        # An empty page ends it too: else a merchant could keep us asking for ever.
        if not page.products or page.next_offset <= offset or count >= limit:
            return pages
        offset = page.next_offset


def _merged(
    pages: list[SearchView], failures: dict[str, VeilmartError], sort: messages.Sort, wanted: slice
) -> SearchView:
    # When something was put on sale is the merchant's own business: the newest of each take turns.
    turns = zip_longest(*(page.products for page in pages))
    products = [product for turn in turns for product in turn if product is not None]
    products.sort(key=_ORDER[sort])
    categories = sorted({category for page in pages for category in page.categories if category})
    total = sum(page.total for page in pages)
    return SearchView(tuple(products[wanted]), tuple(categories), total, failures)


def _summary(merchant: str, product: messages.ProductSummary, currency: str) -> ProductSummaryView:
    return ProductSummaryView(
        merchant=merchant,
        sku=product.sku,
        title=product.title,
        category=product.category,
        tags=tuple(product.tags),
        variant=product.variant,
        price=product.price,
        currency=currency,
        stock=product.stock,
        image=product.image,
    )


def _merchant_view(merchant: Merchant, *, online: bool | None) -> MerchantView:
    return MerchantView(
        id=merchant.id,
        name=merchant.card.name,
        description=merchant.card.description,
        online=online,
        fingerprint=merchant.fingerprint.hex(),
        catalog_version=merchant.card.catalog_version,
    )
