"""Discount codes: listed, made, removed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.config import DAY_MS
from common.errors import NotFoundError, UsageError
from common.money import parse_amount, parse_rate
from common.web import forms
from common.web.forms import FieldErrors, Form
from merchant_node.web.desk import EPOCH, Desk


class DiscountPages:
    """`/discounts`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[Route]:
        """Give the routes."""
        return [
            Route("/discounts", self.discounts, methods=["GET"]),
            Route("/discounts", self.add, methods=["POST"]),
            Route("/discounts/{code}/remove", self.remove, methods=["POST"]),
        ]

    async def discounts(self, request: Request) -> Response:
        """List the codes, and offer to make one."""
        return await self._shown(request, {}, {})

    async def _shown(self, request: Request, entered: dict[str, str], faults: dict[str, str]) -> Response:
        codes = await self._desk.ask(lambda books: books.promotions.all())
        return self._desk.page(
            request,
            "discounts.html",
            status=422 if faults else 200,
            codes=codes,
            entered=entered,
            faults=faults,
        )

    async def add(self, request: Request) -> Response:
        """Make a code."""
        form = await forms.read(request)
        try:
            terms = _Reader(form, self._desk.currency).terms()
            made = await self._desk.ask(lambda books: books.promotions.add(**terms))
        except FieldErrors as wrong:
            return await self._shown(request, form.entered, wrong.faults)
        except NotFoundError as wrong:
            return await self._shown(request, form.entered, {"sku": f"{wrong.message}."})
        except UsageError as wrong:
            said = f"{wrong.message}. {wrong.hint}".strip()
            return await self._shown(request, form.entered, {"code": said[:1].upper() + said[1:]})
        self._desk.site.notice(request, f"{made.code} counts from now on.", "good")
        return self._desk.site.redirect("/discounts")

    async def remove(self, request: Request) -> Response:
        """Make a code unknown."""
        code = request.path_params["code"]
        await self._desk.ask(lambda books: books.promotions.remove(code))
        said = f"{code} no longer counts. Orders that used it stay as they are."
        self._desk.site.notice(request, said, "good")
        return self._desk.site.redirect("/discounts")


@dataclass
class _Reader:
    """Reads the form of a code, and collects what is wrong."""

    form: Form
    currency: str
    MOST_USES: Final = 2**31 - 1

    def terms(self) -> dict[str, Any]:
        faults: dict[str, str] = {}
        terms: dict[str, Any] = {
            "code": self.form.text("code", longest=40).upper(),
            "sku": self.form.text("sku", longest=64),
            "category": self.form.text("category", longest=200),
        }
        for name, read in {
            "percent": self._percent,
            "amount": self._amount,
            "minimum": self._minimum,
            "from": self._from,
            "until": self._until,
            "limit": self._limit,
        }.items():
            text = self.form.text(name, longest=20)
            try:
                terms |= read(text) if text else {}
            except UsageError as wrong:
                faults[name] = wrong.hint or wrong.message
        if bool(terms.get("rate")) == bool(terms.get("amount")) and not faults:
            faults["percent"] = "Write either a percentage or an amount, above 0."
        if faults:
            raise FieldErrors(faults)
        return terms

    def _percent(self, text: str) -> dict[str, Any]:
        return {"rate": parse_rate(text)}

    def _amount(self, text: str) -> dict[str, Any]:
        return {"amount": parse_amount(text, self.currency)}

    def _minimum(self, text: str) -> dict[str, Any]:
        return {"minimum": parse_amount(text, self.currency)}

    def _from(self, text: str) -> dict[str, Any]:
        return {"starts": _midnight(text)}

    def _until(self, text: str) -> dict[str, Any]:
        return {"ends": _midnight(text) + DAY_MS}

    def _limit(self, text: str) -> dict[str, Any]:
        if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= self.MOST_USES:
            raise UsageError("no number of orders", "Write a whole number from 1 on, or leave it empty.")
        return {"use_limit": int(text)}


def _midnight(text: str) -> int:
    """Give when a day begins, in UTC: a code's days are the same wherever its customers are."""
    try:
        found = (datetime.combine(date.fromisoformat(text), time(), UTC) - EPOCH) // timedelta(milliseconds=1)
    except ValueError:
        raise UsageError("no day", "Write a day like 2027-06-30.") from None
    if found < 0:
        raise UsageError("long over", "Write a day like 2027-06-30.")
    return found
