"""Refunds: asked for on an order's page, confirmed on a page that says what happens, and listed.

Rule. A refund has its id from the form that confirms it: pressed twice, it is one refund.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.errors import UsageError
from common.money import parse_amount
from common.states import MERCHANT_ORDER, sources
from common.web import forms
from common.web.forms import FieldErrors, Form
from merchant_node.refunds import EVERYTHING, LONGEST_REASON, RefundReport
from merchant_node.reports import OrderReport
from merchant_node.web.desk import Books, Desk, id_of, order_id_of

SHOWN: Final = 200
GIVEABLE: Final = sources(MERCHANT_ORDER, "refunded")


@dataclass(frozen=True)
class Wish:
    """What a form asks for: None is all that is left."""

    amount: int | None
    reason: str


class RefundPages:
    """`/refunds` and `/orders/ID/refund`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[Route]:
        """Give the routes."""
        return [
            Route("/refunds", self.refunds, methods=["GET"]),
            Route("/orders/{order}/refund", self.form, methods=["GET"]),
            Route("/orders/{order}/refund", self.refund, methods=["POST"]),
        ]

    async def refunds(self, request: Request) -> Response:
        """List refunds, the newest first."""
        listed = await self._desk.ask(lambda books: books.refunds.listing())
        return self._desk.page(request, "refunds.html", refunds=listed[:SHOWN], count=len(listed))

    async def form(self, request: Request) -> Response:
        """Ask how much of an order goes back, and why."""
        order, left = await self._order(request)
        return self._asked(request, order, left, {}, {})

    async def _order(self, request: Request) -> tuple[OrderReport, int]:
        order_id = order_id_of(request)

        def look(books: Books) -> tuple[OrderReport, int]:
            order = books.reports.order(order_id)
            return order, left_of(order, books.refunds.listing(order_id))

        return await self._desk.ask(look)

    def _asked(
        self, request: Request, order: OrderReport, left: int, entered: dict[str, str], faults: dict[str, str]
    ) -> Response:
        status = 422 if faults else 200
        return self._desk.page(
            request, "refund.html", status=status, order=order, left=left, entered=entered, faults=faults
        )

    async def refund(self, request: Request) -> Response:
        """Say what happens, or do it where that was read and confirmed."""
        form = await forms.read(request)
        order, left = await self._order(request)
        if form.ticked("confirmed"):
            return await self._do(request, order, form)
        try:
            wish = _wish(form, left, self._desk.currency)
        except FieldErrors as wrong:
            return self._asked(request, order, left, form.entered, wrong.faults)
        return self._desk.page(
            request,
            "refund_confirm.html",
            order=order,
            left=left,
            amount=left if wish.amount is None else wish.amount,
            entered=form.entered,
            key=secrets.token_hex(16),
        )

    async def _do(self, request: Request, order: OrderReport, form: Form) -> Response:
        refund, currency = id_of(form.text("key", longest=32)), self._desk.currency
        everything = form.text("how") == "all"
        amount = None if everything else parse_amount(form.text("amount"), currency)
        reason = form.text("reason")

        def ask(books: Books) -> None:
            if any(each.refund == refund for each in books.refunds.listing(order.order_id)):
                return
            books.refunds.ask(order.order_id, amount, reason, self._desk.now(), lambda _: refund)

        await self._desk.ask(ask)
        said = "The refund is on its way: the running merchant asks the broker until it has answered."
        self._desk.site.notice(request, said, "good")
        return self._desk.site.redirect(f"/orders/{order.order_id.hex()}")


def left_of(order: OrderReport, refunds: Sequence[RefundReport]) -> int:
    """Give how much of an order can still be given back, as far as is known here."""
    asked = [each.amount for each in refunds if each.state != "refused"]
    if order.state not in GIVEABLE or EVERYTHING in asked:
        return 0
    return max(0, order.amount - sum(asked))


def _wish(form: Form, left: int, currency: str) -> Wish:
    faults: dict[str, str] = {}
    amount: int | None = None
    reason = form.text("reason")
    if not 0 < len(reason) <= LONGEST_REASON or not reason.isprintable():
        faults["reason"] = f"Say why, in one line of at most {LONGEST_REASON} characters."
    if form.text("how") != "all":
        try:
            amount = parse_amount(form.text("amount"), currency)
        except UsageError as wrong:
            faults["amount"] = wrong.hint
        else:
            if not 0 < amount <= left:
                faults["amount"] = "Write more than nothing, and no more than is left."
    if faults:
        raise FieldErrors(faults)
    return Wish(amount, reason)
