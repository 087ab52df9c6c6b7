"""How well each product hides, and what would help."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.web import forms
from merchant_node.web.desk import Desk

PER_PAGE: Final = 100


class PrivacyPages:
    """`/privacy`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[Route]:
        """Give the routes."""
        return [Route("/privacy", self.privacy, methods=["GET"])]

    async def privacy(self, request: Request) -> Response:
        """Show among how many each product hides, the lonely ones first."""
        found = await self._desk.ask(lambda books: books.inventory.privacy())
        found.sort(key=lambda each: (each.others, each.sku, each.code))
        page = forms.asked_number(request, "page", default=1, most=10**6)
        return self._desk.page(
            request,
            "privacy.html",
            group=self._desk.books.limits.privacy_group,
            count=len(found),
            lonely=sum(bool(each.advice) for each in found),
            shown=found[(page - 1) * PER_PAGE : page * PER_PAGE],
            page=page,
            pages=-(-len(found) // PER_PAGE),
            link=lambda number: f"/privacy?page={number}",
        )
