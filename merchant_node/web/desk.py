"""What the dashboard's pages share: the merchant's books, in a thread of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from common import clock
from common.config import Limits
from common.errors import NotFoundError, UsageError
from common.store import Store
from common.web.site import Site
from common.worker import Worker
from merchant_node.content import ContentFolder
from merchant_node.disputes import Disputes
from merchant_node.figures import Figures
from merchant_node.home import MerchantHome
from merchant_node.inventory import Inventory
from merchant_node.promotions import Promotions
from merchant_node.refunds import Refunds
from merchant_node.reports import Reports
from merchant_node.shop import Shop
from merchant_node.treasury import Treasury
from merchant_node.web.shelf import Shelf

Result = TypeVar("Result")

ID_BYTES: Final = 16
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass
class Books:
    """Everything that a merchant's home holds, opened. `shop` and `inventory` follow the settings."""

    home: MerchantHome
    shop: Shop
    limits: Limits
    store: Store
    content: ContentFolder
    shelf: Shelf
    inventory: Inventory
    figures: Figures
    reports: Reports
    promotions: Promotions
    refunds: Refunds
    disputes: Disputes
    treasury: Treasury
    now: Callable[[], int]

    def reload(self, now: int) -> None:
        """Read again how the shop presents itself."""
        self.shop = self.home.shop(now)
        self.inventory = Inventory(self.shop, self.store, self.content, self.limits, self.now)

    @classmethod
    @contextmanager
    def open(cls, path: Path, now: Callable[[], int]) -> Iterator[Books]:
        """Open a home. Raises `VeilmartError` where it is not usable."""
        home = MerchantHome(path)
        shop, limits, content, store = home.shop(now()), home.limits(), home.content(), home.store()
        try:
            inventory = Inventory(shop, store, content, limits, now)
            inventory.renew()
            yield cls(
                home,
                shop,
                limits,
                store,
                content,
                Shelf(store),
                inventory,
                Figures(store),
                Reports(store),
                Promotions(store, now),
                Refunds(store),
                Disputes(store),
                Treasury(store),
                now,
            )
        finally:
            store.close()


class Desk:
    """Made before the server starts; the books are opened in the worker's thread."""

    def __init__(self, site: Site, home: Path, now: Callable[[], int] = clock.now_ms) -> None:
        self.site = site
        self.now = now
        self.worker = Worker(lambda: Books.open(home, now))
        self._books: Books | None = None

    def start(self) -> None:
        """Open the books. Raises what opening raises."""
        self._books = self.worker.start()
        # A large catalog takes a second: it is read while the link is being opened.
        self.worker.post(lambda books: books.shelf.refresh())

    @property
    def books(self) -> Books:
        """The books, for what may be read beside the worker: snapshots of the store."""
        if self._books is None:
            raise RuntimeError("a desk that was not opened")
        return self._books

    @property
    def currency(self) -> str:
        """The market's currency."""
        return self.books.shop.currency

    async def ask(self, action: Callable[[Books], Result]) -> Result:
        """Do something with the books, after what was asked for before."""
        return await self.worker.call(action)

    async def read(self, action: Callable[[Books], Result]) -> Result:
        """Read snapshots, beside whatever else goes on: an import holds up no page."""
        return await asyncio.to_thread(action, self.books)

    def page(self, request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
        """Make a page, with what the frame around every page shows."""
        shared = {"shop": self.books.shop, "currency": self.currency, "now": self.now()}
        return self.site.render(request, template, status=status, **{**shared, **values})


def day_start(day: date) -> int:
    """Give when a day begins on this machine, in milliseconds."""
    return (datetime.combine(day, time()).astimezone() - EPOCH) // timedelta(milliseconds=1)


def day_of(moment: int) -> date:
    """Give the day of a moment on this machine."""
    return (EPOCH + timedelta(milliseconds=moment)).astimezone().date()


def order_id_of(request: Request) -> bytes:
    """Give the order that an address names. Raises `NotFoundError`."""
    try:
        return id_of(request.path_params["order"])
    except UsageError:
        raise NotFoundError("No order is called so.") from None


def id_of(text: str) -> bytes:
    """Read an id of 16 bytes in hex. Raises `UsageError`."""
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != ID_BYTES:
        raise UsageError("That is no id.")
    return found
