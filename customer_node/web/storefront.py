"""The storefront put together: site, desk, pages, and running them."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from common.web.api import FILE as API_TOKEN_FILE
from common.web.api import ApiToken
from common.web.door import Door
from common.web.server import Address, serve
from common.web.site import Site
from customer_node.market import Market
from customer_node.receipts import MAXIMUM_BUNDLE
from customer_node.web.account import AccountPages
from customer_node.web.account_changes import AccountChangePages
from customer_node.web.api.interface import interface
from customer_node.web.cart import CartPages
from customer_node.web.catalog import CatalogPages
from customer_node.web.desk import Desk
from customer_node.web.disputes import DisputePages
from customer_node.web.home import HomePages
from customer_node.web.invoices import InvoicePages
from customer_node.web.library import LibraryPages
from customer_node.web.modes import ModePages
from customer_node.web.orders import OrderPages
from customer_node.web.pictures import Pictures
from customer_node.web.product import ProductPages
from customer_node.web.review import ReviewPages
from customer_node.web.wallet import WalletPages
from customer_node.web.words import explain

NAME: Final = "shop"
TITLE: Final = "Veilmart"
DOWNLOADS: Final = "downloads"
TINTS: Final = 8


def make_site(door: Door, address: Address, api_token: ApiToken | None = None) -> Site:
    """Give the storefront's site."""
    return Site(
        name=NAME,
        title=TITLE,
        package="customer_node.web",
        door=door,
        address=address,
        uploads={"/api/v1/receipts/": MAXIMUM_BUNDLE},
        explain=explain,
        api_token=api_token,
        layout="shop.html",
    )


def storefront(desk: Desk) -> ASGIApp:
    """Give the application of a desk that was opened."""
    pages = (
        HomePages(desk),
        CatalogPages(desk),
        ProductPages(desk),
        Pictures(desk),
        CartPages(desk),
        ReviewPages(desk),
        OrderPages(desk),
        InvoicePages(desk),
        DisputePages(desk),
        LibraryPages(desk),
        WalletPages(desk),
        AccountPages(desk),
        AccountChangePages(desk),
        ModePages(desk),
    )
    routes: Sequence[BaseRoute] = [interface(desk), *(route for each in pages for route in each.routes())]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            desk.site.stopping = True
            await desk.stop()

    return desk.site.app(routes, lifespan)


def desk_of(site: Site, market: Callable[[], Market], home: Path) -> Desk:
    """Give the desk of a profile, with what its templates need."""
    site.env.filters.update(tint=tint, initials=initials)
    return Desk(site, market, home / DOWNLOADS)


def run_storefront(
    home: Path, market: Callable[[], Market], port: int, announce: Callable[[str], None]
) -> None:
    """Serve a profile's pages until a signal ends it; `announce` is told each one-time link.

    `market` opens the profile, in a thread of its own. Raises what it raises, and `UsageError` where the
    port is taken.
    """
    address = Address.free(port)
    door = Door(lambda token: announce(f"{address.url}/enter?token={token}"))
    with address.socket:
        site = make_site(door, address, ApiToken(home / API_TOKEN_FILE))
        desk = desk_of(site, market, home)
        desk.start()
        try:
            serve(site, storefront(desk), address, door.announce)
        finally:
            desk.worker.stop()


def tint(text: str) -> int:
    """Give which of the style's tints stands in for a picture: always the same one for the same thing."""
    return zlib.crc32(text.encode()) % TINTS


def initials(title: str) -> str:
    """Give two letters that stand in for a picture."""
    words = [word for word in title.split() if word[0].isalnum()]
    return "".join(word[0] for word in words[:2]) if len(words) > 1 else title[:2]
