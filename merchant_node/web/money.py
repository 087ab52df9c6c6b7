"""Money: what the broker owes, the statement, and payouts, which are confirmed before they are asked for.

Rule. A payout has its id from the form that confirms it: pressed twice, it is one payout.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.errors import UsageError
from common.money import parse_amount
from common.web import forms
from common.web.forms import FieldErrors, Form
from merchant_node.treasury import LONGEST_DESTINATION
from merchant_node.web.desk import Books, Desk, id_of

LINES: Final = 50
PAYOUTS: Final = 50
REFRESH_S: Final = 3.0


class MoneyPages:
    """`/money` and what is below it."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[Route]:
        """Give the routes."""
        return [
            Route("/money", self.money, methods=["GET"]),
            Route("/money/read", self.read, methods=["POST"]),
            Route("/money/payout", self.form, methods=["GET"]),
            Route("/money/payout", self.payout, methods=["POST"]),
        ]

    async def money(self, request: Request) -> Response:
        """Show balance, payouts and the newest lines of the statement."""
        before = forms.asked_number(request, "before", default=2**40, most=2**40)
        treasury = self._desk.books.treasury
        lines, more = await asyncio.to_thread(treasury.newest, before, LINES)
        payouts = await asyncio.to_thread(treasury.payouts)
        return self._desk.page(
            request,
            "money.html",
            balance=await asyncio.to_thread(treasury.balance),
            payouts=payouts[::-1][:PAYOUTS],
            lines=lines,
            older=urlencode({"before": more}) if more else "",
        )

    async def read(self, request: Request) -> Response:
        """Have the running node read the broker's statement now."""
        books = self._desk.books
        done = False
        if await asyncio.to_thread(books.home.is_running):
            done = await asyncio.to_thread(books.treasury.refresh, REFRESH_S)
        if done:
            self._desk.site.notice(request, "The broker's statement was read to its end.", "good")
        else:
            said = (
                "The broker was not heard. What was read last is shown; the running merchant goes on asking."
            )
            self._desk.site.notice(request, said, "bad")
        return self._desk.site.redirect("/money")

    async def form(self, request: Request) -> Response:
        """Ask how much is paid out, and where to."""
        return await self._asked(request, {}, {})

    async def _asked(self, request: Request, entered: dict[str, str], faults: dict[str, str]) -> Response:
        available, last = await self._desk.ask(_available)
        return self._desk.page(
            request,
            "payout.html",
            status=422 if faults else 200,
            available=available,
            last=last,
            entered=entered,
            faults=faults,
        )

    async def payout(self, request: Request) -> Response:
        """Say what happens, or do it where that was read and confirmed."""
        form = await forms.read(request)
        available, _ = await self._desk.ask(_available)
        if form.ticked("confirmed"):
            return await self._do(request, form)
        try:
            amount, destination = _wish(form, available, self._desk.currency)
        except FieldErrors as wrong:
            return await self._asked(request, form.entered, wrong.faults)
        return self._desk.page(
            request,
            "payout_confirm.html",
            amount=amount,
            left=available - amount,
            destination=destination,
            key=secrets.token_hex(16),
        )

    async def _do(self, request: Request, form: Form) -> Response:
        payout_id = id_of(form.text("key", longest=32))
        amount = form.number("amount", least=1, most=2**52)
        destination = form.text("destination")

        def ask(books: Books) -> None:
            if any(each.payout_id == payout_id for each in books.treasury.payouts()):
                return
            books.treasury.ask(amount, destination, self._desk.now(), lambda _: payout_id)

        await self._desk.ask(ask)
        said = "The payout is on its way: the running merchant asks the broker until it has answered."
        self._desk.site.notice(request, said, "good")
        return self._desk.site.redirect("/money")


def _available(books: Books) -> tuple[int, str]:
    payouts = books.treasury.payouts()
    asked = sum(each.amount for each in payouts if each.state == "asked")
    return books.treasury.balance().available - asked, payouts[-1].destination if payouts else ""


def _wish(form: Form, available: int, currency: str) -> tuple[int, str]:
    faults: dict[str, str] = {}
    amount, destination = available, form.text("destination")
    if form.text("how") != "all":
        try:
            amount = parse_amount(form.text("amount", longest=20), currency)
        except UsageError as wrong:
            faults["amount"] = wrong.hint
    if not faults and not 0 < amount <= available:
        faults["amount"] = "Write more than nothing, and no more than is available."
    if not 0 < len(destination) <= LONGEST_DESTINATION or not destination.isprintable():
        faults["destination"] = (
            f"Say where to, in one line of at most {LONGEST_DESTINATION} characters: an IBAN, say."
        )
    if faults:
        raise FieldErrors(faults)
    return amount, destination
