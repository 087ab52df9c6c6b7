"""The catalog: search, categories, sort and pages, at one merchant or at all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, get_args
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common import messages
from common.web import forms
from customer_node.browse import MAXIMUM_LIMIT, MAXIMUM_TICKETS
from customer_node.refusals import TicketsNeededError
from customer_node.web.desk import Desk
from customer_node.web.modes import shopping

PAGE: Final = 20
"""As many products as a merchant's own page has: one question for each page."""

MOST_PAGES: Final = 100_000
MOST_TICKETS: Final = 50
SORTS: Final[dict[messages.Sort, str]] = {
    "title": "By title",
    "price": "Cheapest first",
    "newest": "Newest first",
}


class CatalogPages:
    """`/catalog?q=&merchant=&category=&sort=&page=`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[Route]:
        """Give the routes."""
        return [Route("/catalog", shopping(self._desk, self.catalog), methods=["GET"])]

    async def catalog(self, request: Request) -> Response:
        """Show a page of what was found."""
        text, category = (forms.asked(request, name, longest=100) for name in ("q", "category"))
        merchant = forms.asked(request, "merchant", longest=32)
        sort = _sort(forms.asked(request, "sort"))
        most = MOST_PAGES if merchant else MAXIMUM_LIMIT // PAGE
        page = forms.asked_number(request, "page", default=1, most=most)
        agreed = forms.asked_number(request, "tickets", default=MAXIMUM_TICKETS, most=MOST_TICKETS)
        merchants = await self._desk.merchants()
        try:
            found = await self._desk.ask(
                lambda market: market.search(
                    text,
                    merchant=merchant or None,
                    category=category,
                    sort=sort,
                    limit=PAGE,
                    max_tickets=agreed,
                    offset=(page - 1) * PAGE,
                )
            )
        except TicketsNeededError as needed:
            return self._desk.page(request, "many_merchants.html", merchants=merchants, needed=needed.needed)
        asked = {"q": text, "merchant": merchant, "category": category, "sort": sort}
        return self._desk.page(
            request,
            "catalog.html",
            merchants=merchants,
            chosen=next((each for each in merchants if each.id == merchant), None),
            found=found,
            asked=asked,
            sorts=SORTS,
            page_number=page,
            page_count=min(most, max(1, -(-found.total // PAGE))),
            link=_linking(asked),
        )


def _sort(text: str) -> messages.Sort:
    return next((each for each in get_args(messages.Sort) if each == text), "title")


def _linking(asked: dict[str, str]) -> Callable[..., str]:
    """Give what makes the address of this catalog with something changed."""

    def link(page: int = 1, **changed: str) -> str:
        wanted = {name: value for name, value in {**asked, **changed}.items() if value}
        return "/catalog?" + urlencode(wanted | ({"page": str(page)} if page > 1 else {}))

    return link
