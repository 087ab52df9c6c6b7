"""Disputes: orders whose money is frozen, and the merchant's one word on each."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.web import forms
from merchant_node.disputes import LONGEST_ANSWER
from merchant_node.web.desk import Desk, order_id_of


class DisputePages:
    """`/disputes` and `/orders/ID/dispute`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[Route]:
        """Give the routes."""
        return [
            Route("/disputes", self.disputes, methods=["GET"]),
            Route("/orders/{order}/dispute", self.answer, methods=["POST"]),
        ]

    async def disputes(self, request: Request) -> Response:
        """List disputes: those that are open, and those that were decided."""
        listed = await self._desk.ask(lambda books: books.disputes.listing(everything=True))
        return self._desk.page(
            request,
            "disputes.html",
            open=[each for each in listed if each.state == "open"],
            over=[each for each in listed if each.state != "open"][::-1],
            longest=LONGEST_ANSWER,
        )

    async def answer(self, request: Request) -> Response:
        """Say the merchant's part: shown once more first, since it can be said once."""
        form, order_id = await forms.read(request), order_id_of(request)
        statement = form.text("statement")
        if not statement or not form.ticked("confirmed"):
            return self._desk.page(
                request,
                "dispute_confirm.html",
                status=200 if statement else 422,
                order_id=order_id,
                statement=statement,
                longest=LONGEST_ANSWER,
            )
        await self._desk.ask(lambda books: books.disputes.answer(order_id, statement))
        said = "Your answer is on its way: the running merchant says it until the broker has it."
        self._desk.site.notice(request, said, "good")
        return self._desk.site.redirect("/disputes")
