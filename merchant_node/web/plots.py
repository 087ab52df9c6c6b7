"""Plots, each with the table of its data: revenue, orders, time to delivery, refunds."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.config import HOUR_MS, MINUTE_MS
from common.money import format_amount
from common.web import forms
from merchant_node.trends import read_trends
from merchant_node.web.desk import EPOCH, Desk, day_of, day_start
from merchant_node.web.drawing import HEIGHT, WIDTH, columns

PERIODS: Final = (7, 30, 90)
HOURS_FROM: Final = 2 * HOUR_MS


class PlotPages:
    """`/plots`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[Route]:
        """Give the routes."""
        return [Route("/plots", self.plots, methods=["GET"])]

    async def plots(self, request: Request) -> Response:
        """Draw the last days."""
        asked = forms.asked_number(request, "days", default=30, most=PERIODS[-1])
        count = next(each for each in PERIODS if each >= asked)
        now, currency = self._desk.now(), self._desk.currency
        today = day_of(now)
        since = day_start(today - timedelta(days=count - 1))
        # Where the clock was changed in between, the days before begin an hour off.
        offset = _offset(now)
        found = await self._desk.read(lambda books: read_trends(books.store, since, now, offset))
        days = found.days[-count:]
        dates = [(EPOCH + timedelta(days=each.day)).strftime("%-d %b") for each in days]

        def money(amount: int) -> str:
            return format_amount(amount, currency)

        funnel = [
            ("came in", found.funnel.received),
            ("accepted", found.funnel.accepted),
            ("paid", found.funnel.paid),
            ("delivered", found.funnel.delivered),
        ]
        return self._desk.page(
            request,
            "plots.html",
            periods=PERIODS,
            count=count,
            rows=list(zip(dates, days, strict=True)),
            funnel=funnel,
            duration=duration,
            size=(WIDTH, HEIGHT),
            revenue=columns("Revenue per day", dates, [[each.revenue for each in days]], money),
            orders=columns("Orders", [name for name, _ in funnel], [[many for _, many in funnel]], str),
            delivery=columns(
                "Time to delivery",
                dates,
                [[_minutes(each.median) for each in days], [_minutes(each.slow) for each in days]],
                lambda minutes: duration(minutes * MINUTE_MS),
            ),
            refunds=columns("Given back per day", dates, [[each.given for each in days]], money),
        )


def _offset(moment: int) -> int:
    """Give how far this machine's time is ahead of UTC, in milliseconds."""
    ahead = (EPOCH + timedelta(milliseconds=moment)).astimezone().utcoffset() or timedelta()
    return ahead // timedelta(milliseconds=1)


def _minutes(milliseconds: int | None) -> int | None:
    return None if milliseconds is None else milliseconds // MINUTE_MS


def duration(milliseconds: int) -> str:
    """Write how long something took, for a person."""
    if milliseconds < HOURS_FROM:
        return f"{milliseconds // MINUTE_MS} min"
    if milliseconds < 2 * 24 * HOUR_MS:
        return f"{milliseconds / HOUR_MS:.3g} h"
    return f"{milliseconds / (24 * HOUR_MS):.3g} days"
