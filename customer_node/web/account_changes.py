"""The account's second factor, and its end.

Rule. The secret for an authenticator app is made here and shown until it is used, or the account is logged
out: a page that is looked at again, after a mistyped code too, shows the one that the app has read.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.errors import AuthenticationError, RejectedError, UsageError, VeilmartError
from common.money import format_amount
from common.web import explained, forms
from common.web.forms import Form
from customer_node.invoices.page import code_svg
from customer_node.refusals import AccountClosedError
from customer_node.views import TotpSecretView
from customer_node.web.desk import Desk
from customer_node.web.modes import accounting

LONGEST_CODE = 16
SECOND_FACTOR = "/account/second-factor"
CLOSING = "/account/close"


class AccountChangePages:
    """`/account/second-factor` and `/account/close`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._secret: TotpSecretView | None = None

    def routes(self) -> list[Route]:
        """Give the routes."""
        desk = self._desk
        return [
            Route(SECOND_FACTOR, accounting(desk, self.second_factor), methods=["GET"]),
            Route(f"{SECOND_FACTOR}/on", accounting(desk, self.turn_on), methods=["POST"]),
            Route(f"{SECOND_FACTOR}/off", accounting(desk, self.turn_off), methods=["POST"]),
            Route(CLOSING, accounting(desk, self.closing), methods=["GET"]),
            Route(CLOSING, accounting(desk, self.close), methods=["POST"]),
        ]

    def _door(self, onward: str) -> Response:
        self._secret = None
        return self._desk.site.redirect(f"/account?onward={onward}")

    # --- the second factor -----------------------------------------------------------------------------

    async def second_factor(self, request: Request) -> Response:
        """Show a secret for an app, and what turns the codes on and off."""
        if not self._desk.reading.logged_in():
            return self._door(SECOND_FACTOR)
        return await self._shown(request, {})

    async def _shown(self, request: Request, faults: dict[str, str], form: str = "on") -> Response:
        if self._secret is None:
            self._secret = await self._desk.ask(lambda market: market.account.new_secret())
        text = self._secret.secret
        return self._desk.page(
            request,
            "second_factor.html",
            status=422 if faults else 200,
            faults=faults,
            form=form,
            drawing=code_svg(self._secret.address),
            secret=" ".join(text[start : start + 4] for start in range(0, len(text), 4)),
        )

    async def turn_on(self, request: Request) -> Response:
        """Demand a code at each login from now on."""
        form, secret = await forms.read(request), self._secret
        if secret is None or not self._desk.reading.logged_in():
            return self._door(SECOND_FACTOR)
        password, code = form.raw("password"), form.text("code", longest=LONGEST_CODE)
        faults = _missing(form)
        if not faults:
            try:
                await self._desk.ask(lambda market: market.account.enable_totp(password, secret.secret, code))
            except (AuthenticationError, RejectedError, UsageError) as refused:
                faults = self._faults(refused)
        if faults:
            return await self._shown(request, faults)
        self._secret = None
        said = "Each login asks for a code of your app from now on. Whoever loses the app asks the operator."
        self._desk.site.notice(request, said, "good")
        return self._desk.site.redirect("/account")

    async def turn_off(self, request: Request) -> Response:
        """Demand no code any more."""
        form = await forms.read(request)
        if not self._desk.reading.logged_in():
            return self._door(SECOND_FACTOR)
        password, code = form.raw("password"), form.text("code", longest=LONGEST_CODE)
        faults = _missing(form)
        if not faults:
            try:
                await self._desk.ask(lambda market: market.account.disable_totp(password, code))
            except (AuthenticationError, RejectedError, UsageError) as refused:
                faults = self._faults(refused)
        if faults:
            return await self._shown(request, faults, "off")
        self._desk.site.notice(request, "No login asks for a code any more.", "good")
        return self._desk.site.redirect("/account")

    def _faults(self, refused: VeilmartError) -> dict[str, str]:
        """Say what is wrong at its field; raise again where the session is over."""
        if not self._desk.reading.logged_in():
            raise refused
        field = "code" if isinstance(refused, UsageError) else "password"
        return {field: explained.said(refused)}

    # --- the end ---------------------------------------------------------------------------------------

    async def closing(self, request: Request) -> Response:
        """Say what closing means."""
        if not self._desk.reading.logged_in():
            return self._door(CLOSING)
        try:
            return await self._asked(request, {})
        except AccountClosedError:
            return self._desk.site.redirect("/account")

    async def _asked(self, request: Request, faults: dict[str, str]) -> Response:
        balance = await self._desk.ask(lambda market: market.balance())
        return self._desk.page(
            request,
            "account_close.html",
            status=422 if faults else 200,
            balance=balance,
            faults=faults,
        )

    async def close(self, request: Request) -> Response:
        """Close the account for good; what is left on it comes into the wallet."""
        form = await forms.read(request)
        if not self._desk.reading.logged_in():
            return self._door(CLOSING)
        password, code = form.raw("password"), form.text("code", longest=LONGEST_CODE)
        faults = {} if password else {"password": "Write your password."}
        if not form.ticked("certain"):
            faults["certain"] = "Tick this first: there is no way back."
        if faults:
            return await self._asked(request, faults)
        try:
            drawn = await self._desk.ask(lambda market: market.account.close(password, code, hurried=True))
        except (AuthenticationError, RejectedError, UsageError) as refused:
            return await self._asked(request, self._faults(refused))
        self._secret = None
        said = (
            "The account is closed for good. The wallet stays yours; words and other devices bring back what "
            "was drawn from the account until the end of the month after the last withdrawal."
        )
        if drawn is not None:
            said += f" The rest, {format_amount(drawn.amount, drawn.currency)}, was drawn into it."
        self._desk.site.notice(request, said, "good")
        return self._desk.site.redirect("/wallet")


def _missing(form: Form) -> dict[str, str]:
    wanted = {"password": "Write your password.", "code": "Write the code that your app shows now."}
    return {name: said for name, said in wanted.items() if not form.raw(name)}
