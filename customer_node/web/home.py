"""The start page: what all merchants sell, or the first steps for whoever has no ticket yet."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.errors import OutOfTicketsError
from common.web import forms
from customer_node.browse import MAXIMUM_TICKETS
from customer_node.refusals import TicketsNeededError
from customer_node.views import MerchantView, SearchView
from customer_node.web.desk import Desk
from customer_node.web.modes import shopping

SHOWN = 12
MOST_TICKETS = 50


class HomePages:
    """`/` and `/merchants`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[Route]:
        """Give the routes."""
        return [
            Route("/", shopping(self._desk, self.home), methods=["GET"]),
            Route("/merchants", shopping(self._desk, self.merchants), methods=["GET"]),
        ]

    async def home(self, request: Request) -> Response:
        """Show the newest products of all merchants."""
        merchants = await self._desk.merchants()
        agreed = forms.asked_number(request, "tickets", default=MAXIMUM_TICKETS, most=MOST_TICKETS)
        try:
            found = await self._desk.ask(
                lambda market: market.search(sort="newest", limit=SHOWN, max_tickets=agreed)
            )
        except OutOfTicketsError:
            return self._welcome(request, merchants)
        except TicketsNeededError as needed:
            return self._desk.page(request, "many_merchants.html", merchants=merchants, needed=needed.needed)
        return self._shown(request, merchants, found)

    def _shown(self, request: Request, merchants: tuple[MerchantView, ...], found: SearchView) -> Response:
        return self._desk.page(request, "home.html", merchants=merchants, found=found)

    def _welcome(self, request: Request, merchants: tuple[MerchantView, ...]) -> Response:
        wallet, top_ups = self._desk.reading.wallet(), self._desk.reading.top_ups()
        return self._desk.page(request, "welcome.html", merchants=merchants, wallet=wallet, top_ups=top_ups)

    async def merchants(self, request: Request) -> Response:
        """List the merchants; that takes no ticket."""
        merchants = await self._desk.merchants(fresh=True)
        return self._desk.page(request, "merchants.html", merchants=merchants)
