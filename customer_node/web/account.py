"""The account: sign up, log in, balance, moving money into the wallet, password."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common import passwords
from common.errors import AuthenticationError, RejectedError, UsageError
from common.money import format_amount
from common.web import explained, forms
from common.web.forms import Form
from common.web.site import local
from customer_node.account import MAXIMUM_BUNDLES
from customer_node.refusals import AccountClosedError
from customer_node.web.desk import Desk
from customer_node.web.modes import accounting
from customer_node.web.wallet import BUNDLE

LONGEST_NAME: Final = 64


class AccountPages:
    """`/account`, and what it sends."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[Route]:
        """Give the routes."""
        desk = self._desk
        return [
            Route("/account", accounting(desk, self.account), methods=["GET"]),
            Route("/account/signup", accounting(desk, self.sign_up), methods=["POST"]),
            Route("/account/login", accounting(desk, self.log_in), methods=["POST"]),
            Route("/account/withdraw", accounting(desk, self.withdraw), methods=["POST"]),
            Route("/account/resume", accounting(desk, self.resume), methods=["POST"]),
            Route("/account/password", accounting(desk, self.change_password), methods=["POST"]),
        ]

    async def account(self, request: Request) -> Response:
        """Show the balance, or ask who it is; of a closed account what can still be done."""
        if not self._desk.reading.logged_in():
            return self._door(request, {}, {}, "")
        try:
            return await self._inside(request, {}, "")
        except AccountClosedError:
            return self._desk.page(request, "account_closed.html")
        except AuthenticationError:
            # The broker had ended the session before its time.
            return self._door(request, {}, {}, "Your account session is over: log in again.")

    def _door(
        self, request: Request, entered: dict[str, str], faults: dict[str, str], refused: str, form: str = ""
    ) -> Response:
        return self._desk.page(
            request,
            "account_door.html",
            status=422 if faults else 403 if refused else 200,
            entered=entered,
            faults=faults,
            refused=refused,
            form=form,
            is_new=not self._desk.reading.top_ups() and not self._desk.reading.orders(),
            onward=local(entered.get("onward") or request.query_params.get("onward", "/account")),
            shortest=passwords.SHORTEST,
        )

    async def _inside(
        self, request: Request, faults: dict[str, str], refused: str, status: int = 200
    ) -> Response:
        balance = await self._desk.ask(lambda market: market.balance())
        return self._desk.page(
            request,
            "account.html",
            status=status,
            balance=balance,
            wallet=self._desk.reading.wallet(),
            top_ups=self._desk.reading.top_ups()[::-1],
            bundle=BUNDLE,
            most=min(MAXIMUM_BUNDLES, balance.amount // BUNDLE),
            faults=faults,
            refused=refused,
        )

    async def sign_up(self, request: Request) -> Response:
        """Open an account and log in."""
        form = await forms.read(request)
        name, password = form.text("name", longest=LONGEST_NAME), form.raw("new-password")
        faults = _empty(form, {"name": "Choose a name.", "new-password": "Choose a password."})
        if faults:
            return self._door(request, form.entered, faults, "", "signup")
        try:
            passwords.check_password(password, name)
        except RejectedError as weak:
            faults["new-password"] = explained.said(weak)
            return self._door(request, form.entered, faults, "", "signup")
        invite = form.text("invite", longest=64)
        try:
            await self._desk.ask(lambda market: market.sign_up(name, password, invite=invite))
        except (RejectedError, UsageError) as refused:
            faults["invite" if "invite" in refused.message else "name"] = explained.said(refused)
            return self._door(request, form.entered, faults, "", "signup")
        self._desk.site.notice(request, "Your account is open, and you are logged in.", "good")
        return self._desk.site.redirect(form.text("onward") or "/account")

    async def log_in(self, request: Request) -> Response:
        """Log in."""
        form = await forms.read(request)
        name, password = form.text("login-name", longest=LONGEST_NAME), form.raw("password")
        code = form.text("code", longest=16)
        faults = _empty(form, {"login-name": "Write your name.", "password": "Write your password."})
        if faults:
            return self._door(request, form.entered, faults, "", "login")
        try:
            await self._desk.ask(lambda market: market.log_in(name, password, code=code))
        except (AuthenticationError, UsageError) as refused:
            said = explained.said(refused)
            return self._door(request, form.entered, {}, said, "login")
        return self._desk.site.redirect(form.text("onward") or "/account")

    async def withdraw(self, request: Request) -> Response:
        """Move bundles from the account into the wallet."""
        form = await forms.read(request)
        bundles = form.number("bundles", least=1, most=MAXIMUM_BUNDLES)
        # `modes` has asked already, where a visit was near.
        moved = await self._desk.ask(lambda market: market.withdraw(bundles, hurried=True))
        amount = format_amount(moved.amount, moved.currency)
        text = f"{amount} and {moved.tickets} tickets are in your wallet now."
        self._desk.site.notice(request, text, "good")
        return self._desk.site.redirect("/account")

    async def resume(self, request: Request) -> Response:
        """Find out what became of top-ups and withdrawals that got no answer."""
        await forms.read(request)
        results = await self._desk.ask(lambda market: market.resume(part="account"))
        for each in results:
            if each.error is not None:
                self._desk.site.notice(request, each.error.message, "bad")
            else:
                self._desk.site.notice(request, f"The {each.kind} is {each.outcome}.", "good")
        return self._desk.site.redirect("/account")

    async def change_password(self, request: Request) -> Response:
        """Take another password; every session of the account ends."""
        form = await forms.read(request)
        old, new, code = form.raw("password"), form.raw("new-password"), form.text("code", longest=16)
        try:
            passwords.check_password(new)
        except RejectedError as weak:
            return await self._inside(request, {"new-password": explained.said(weak)}, "", 422)
        try:
            await self._desk.ask(lambda market: market.account.change_password(old, new, code))
        except (AuthenticationError, UsageError, RejectedError) as refused:
            if not self._desk.reading.logged_in():
                raise
            return await self._inside(request, {"password": explained.said(refused)}, "", 422)
        self._desk.site.notice(request, "The password is changed. Log in with the new one.", "good")
        return self._desk.site.redirect("/account")


def _empty(form: Form, wanted: dict[str, str]) -> dict[str, str]:
    """Give a fault for each field that nothing was written into."""
    return {name: said for name, said in wanted.items() if not form.raw(name)}
