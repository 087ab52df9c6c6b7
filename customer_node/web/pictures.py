"""Pictures of products: fetched once, verified, scaled, kept in memory.

Rule. What waits is fetched merchant by merchant: each change of merchant is a connection of its own.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final, TypeAlias

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.errors import VeilmartError
from common.web import forms, images
from common.web.images import Scaled
from customer_node.views import ImageView
from customer_node.web.desk import Desk
from customer_node.web.modes import shopping

MOST_BYTES: Final = 32 * 1024 * 1024
FRESH: Final = "private, max-age=300"

Name: TypeAlias = tuple[str, str]


class Pictures:
    """Serves `/pictures/MERCHANT/SKU?width=240`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._kept: OrderedDict[tuple[str, str, int], Scaled] = OrderedDict()
        self._waiting: OrderedDict[Name, asyncio.Future[ImageView]] = OrderedDict()
        self._fetching: asyncio.Task[None] | None = None

    def routes(self) -> list[Route]:
        """Give the routes."""
        return [Route("/pictures/{merchant}/{sku}", shopping(self._desk, self.send), methods=["GET"])]

    async def send(self, request: Request) -> Response:
        """Send a picture in the width that was asked for, or the next larger one that is made."""
        merchant, sku = request.path_params["merchant"], request.path_params["sku"]
        width = images.width_for(forms.asked_number(request, "width", default=480, most=4000))
        kept = self._kept.get((merchant, sku, width))
        if kept is None:
            image = await self._fetched((merchant, sku))
            kept = await asyncio.to_thread(images.scaled, image.data, width)
            self._keep((merchant, sku, width), kept)
        return Response(kept.data, media_type=kept.media_type, headers={"cache-control": FRESH})

    def _keep(self, name: tuple[str, str, int], picture: Scaled) -> None:
        self._kept[name] = picture
        while sum(len(each.data) for each in self._kept.values()) > MOST_BYTES:
            self._kept.popitem(last=False)

    async def _fetched(self, name: Name) -> ImageView:
        future = self._waiting.get(name)
        if future is None:
            future = self._waiting[name] = asyncio.get_running_loop().create_future()
            if self._fetching is None or self._fetching.done():
                self._fetching = asyncio.get_running_loop().create_task(self._fetch())
        return await asyncio.shield(future)

    async def _fetch(self) -> None:
        merchant = ""
        while self._waiting:
            name = next((each for each in self._waiting if each[0] == merchant), next(iter(self._waiting)))
            merchant, sku = name
            try:
                image = await self._desk.ask(lambda market, at=merchant, of=sku: market.image(at, of))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            except (VeilmartError, asyncio.CancelledError) as error:
                _fail(self._waiting.pop(name), error)
            else:
                self._waiting.pop(name).set_result(image)


def _fail(future: asyncio.Future[ImageView], error: BaseException) -> None:
    if isinstance(error, asyncio.CancelledError):
        future.cancel()
        return
    future.set_exception(error)
    # Whoever asked may have gone.
    future.exception()
