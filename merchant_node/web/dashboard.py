"""The dashboard put together: site, desk, pages, and running them."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from common import clock
from common.config import KIB
from common.web.api import FILE as API_TOKEN_FILE
from common.web.api import ApiToken
from common.web.door import Door
from common.web.server import Address, serve
from common.web.site import Site
from merchant_node.home import MerchantHome
from merchant_node.web.api.interface import interface
from merchant_node.web.desk import Desk
from merchant_node.web.discounts import DiscountPages
from merchant_node.web.disputes import DisputePages
from merchant_node.web.exchange import ExchangePages
from merchant_node.web.money import MoneyPages
from merchant_node.web.orders import OrderPages
from merchant_node.web.plots import PlotPages
from merchant_node.web.privacy import PrivacyPages
from merchant_node.web.products import ProductPages
from merchant_node.web.refunds import RefundPages
from merchant_node.web.settings import SettingsPages
from merchant_node.web.today import TodayPages

NAME: Final = "dashboard"
TITLE: Final = "Veilmart"
UPLOADS: Final = "uploads"
LARGEST_UPLOAD: Final = 8 * KIB * KIB * KIB


def make_site(door: Door, address: Address, api_token: ApiToken | None = None) -> Site:
    """Give the dashboard's site."""
    return Site(
        name=NAME,
        title=TITLE,
        package="merchant_node.web",
        door=door,
        address=address,
        uploads=dict.fromkeys(("/products/", "/import", "/api/v1/products"), LARGEST_UPLOAD),
        api_token=api_token,
    )


def dashboard(desk: Desk) -> ASGIApp:
    """Give the application of a desk that was opened."""
    pages = (
        TodayPages(desk),
        OrderPages(desk),
        RefundPages(desk),
        DisputePages(desk),
        ProductPages(desk),
        ExchangePages(desk),
        DiscountPages(desk),
        PrivacyPages(desk),
        MoneyPages(desk),
        PlotPages(desk),
        SettingsPages(desk),
    )
    routes: Sequence[BaseRoute] = [interface(desk), *(route for each in pages for route in each.routes())]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            desk.site.stopping = True

    return desk.site.app(routes, lifespan)


def run_dashboard(home: Path, port: int, announce: Callable[[str], None]) -> None:
    """Serve a merchant's pages until a signal ends it; `announce` is told each one-time link.

    It runs beside the merchant's node, or without it. Raises `VeilmartError` where the home is not usable
    and `UsageError` where the port is taken.
    """
    # First of all: in a folder that was mistyped nothing is written.
    MerchantHome(home).shop(clock.now_ms())
    address = Address.free(port)
    door = Door(lambda token: announce(f"{address.url}/enter?token={token}"))
    with address.socket:
        desk = Desk(make_site(door, address, ApiToken(home / API_TOKEN_FILE)), home)
        desk.start()
        try:
            with _uploads_in(home / UPLOADS):
                serve(desk.site, dashboard(desk), address, door.announce)
        finally:
            desk.worker.stop()


@contextmanager
def _uploads_in(folder: Path) -> Iterator[None]:
    """Have what is sent written to the merchant's own disk: the system's folder may be memory."""
    folder.mkdir(mode=0o700, exist_ok=True)
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
