"""Account and visits apart: what stands between them, and says what crossing over costs.

    shopping    pages that ask a merchant     not while the account is open: log out first
    accounting  pages that open the account   not while a visit is open or the market's minimum age after it:
                                              wait, or leave the shops and go on

Whoever runs the market sees an anonymous visit end and a login begin. The nearer these are to each other,
the better the guess that both are one person; the bus sees both addresses in any case. Who does not want to
wait has read what that costs, and is not asked again before the next visit.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.web import forms
from customer_node.web.desk import SIDE, Desk

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


def shopping(desk: Desk, handler: Handler) -> Handler:
    """Let a page that asks merchants in only while the account is closed."""

    async def guarded(request: Request) -> Response:
        if desk.reading.logged_in():
            return desk.page(request, "leave_account.html", status=409, onward=_onward(request))
        desk.accepted_until = 0
        SIDE.set("shop")
        return await handler(request)

    return guarded


def accounting(desk: Desk, handler: Handler) -> Handler:
    """Let a page that opens the account in only apart from visits, or where that cost was accepted."""

    async def guarded(request: Request) -> Response:
        free_at, is_visiting = desk.reading.account_free_at(), desk.reading.visit() is not None
        if (is_visiting or free_at > desk.accepted_until) and not desk.reading.logged_in():
            wallet = desk.reading.wallet()
            buying = bool(desk.reading.cart().lines)
            return desk.page(
                request,
                "leave_shop.html",
                status=409,
                onward=_onward(request),
                wallet=wallet,
                buying=buying,
                free_at=free_at,
                waiting=desk.wait_until > desk.reading.now(),
                wait_until=desk.wait_until,
            )
        SIDE.set("account")
        return await handler(request)

    return guarded


def _onward(request: Request) -> str:
    """Give the page to go on with: this one, or where a form was, the start page."""
    query = f"?{request.url.query}" if request.url.query else ""
    return request.url.path + query if request.method == "GET" else "/"


class ModePages:
    """Leaving one side for the other."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[Route]:
        """Give the routes."""
        return [
            Route("/visit/leave", self.leave, methods=["POST"]),
            Route("/visit/wait", self.wait, methods=["POST"]),
            Route("/visit/waiting", self.waiting, methods=["GET"]),
            Route("/account/logout", self.log_out, methods=["POST"]),
        ]

    async def leave(self, request: Request) -> Response:
        """End the visits at once."""
        form = await forms.read(request)
        await self._desk.leave_shops()
        self._desk.accepted_until, self._desk.wait_until = self._desk.reading.account_free_at(), 0
        return self._desk.site.redirect(form.text("onward"))

    async def wait(self, request: Request) -> Response:
        """Choose a time at which the account is apart from visits, or a random part of the age later."""
        form = await forms.read(request)
        reading = self._desk.reading
        rest_ms = 1000 * await self._desk.ask(lambda market: market.market.minimum_age_seconds)
        begin = reading.account_free_at() or reading.now()
        self._desk.wait_until = begin + (secrets.randbelow(rest_ms) if rest_ms else 0)
        return self._desk.site.redirect(f"/visit/waiting?onward={form.text('onward')}")

    async def waiting(self, request: Request) -> Response:
        """Show how long it still takes; the page goes on by itself."""
        onward = request.query_params.get("onward", "/account")
        reading = self._desk.reading
        if not reading.account_free_at() and reading.now() >= self._desk.wait_until:
            return self._desk.site.redirect(onward)
        return self._desk.page(request, "waiting.html", onward=onward, wait_until=self._desk.wait_until)

    async def log_out(self, request: Request) -> Response:
        """Close the account, and go where the customer wants to."""
        form = await forms.read(request)
        await self._desk.ask(lambda market: market.log_out())
        self._desk.site.notice(request, "You are logged out. Nobody knows you in the shops.", "good")
        return self._desk.site.redirect(form.text("onward") or "/")
