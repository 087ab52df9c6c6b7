"""The library: every file that was bought, verified, and fetched again where it is gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.web import forms
from customer_node.views import OrderView
from customer_node.web.desk import DELIVERABLE, Desk

PAGE: Final = 20
MOST_PAGES: Final = 100_000


@dataclass(frozen=True)
class Shelved:
    """An order with its files: name, whether it is there, size in bytes."""

    order: OrderView
    files: tuple[tuple[str, bool, int], ...]


class LibraryPages:
    """`/library`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[Route]:
        """Give the routes."""
        return [Route("/library", self.library, methods=["GET"])]

    async def library(self, request: Request) -> Response:
        """List what was delivered, newest first, and what is still to come."""
        page = forms.asked_number(request, "page", default=1, most=MOST_PAGES)
        found, count = self._desk.reading.newest(("complete",), PAGE, (page - 1) * PAGE)
        coming, _ = self._desk.reading.newest(tuple(DELIVERABLE))
        return self._desk.page(
            request,
            "library.html",
            shelved=[_shelved(order) for order in found],
            coming=coming,
            page_number=page,
            page_count=max(1, -(-count // PAGE)),
        )


def _shelved(order: OrderView) -> Shelved:
    found = (
        (path.name, path.is_file(), path.stat().st_size if path.is_file() else 0) for path in order.files
    )
    return Shelved(order, tuple(found))
