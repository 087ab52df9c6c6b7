"""The start page: what today brought, what is open, what runs low, what was sold last."""

from __future__ import annotations

from datetime import timedelta

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from merchant_node.web.desk import Desk, day_of, day_start

RECENT = 12
LOWEST = 12


class TodayPages:
    """`/`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[Route]:
        """Give the routes."""
        return [Route("/", self.today, methods=["GET"])]

    async def today(self, request: Request) -> Response:
        """Show the day so far."""
        now = self._desk.now()
        day = day_of(now)
        begin, before = day_start(day), day_start(day - timedelta(days=1))
        read = self._desk.read
        figures = await read(lambda books: books.figures.today(begin, now))
        since_yesterday = await read(lambda books: books.figures.today(before, now))
        return self._desk.page(
            request,
            "today.html",
            figures=figures,
            yesterday=since_yesterday.revenue - figures.revenue,
            low=await read(lambda books: books.figures.low(LOWEST)),
            sales=await read(lambda books: books.figures.recent_sales(RECENT)),
            products=await read(lambda books: books.figures.products()),
            running=await read(lambda books: books.home.is_running()),
        )
