"""The wallet, and topping up the account with a card, in place."""

from __future__ import annotations

import secrets
from collections import Counter
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common import coins, payment_cards
from common.config import MAXIMUM_AMOUNT
from common.errors import CardDeclinedError, InvalidCardError, RejectedError, UsageError, VeilmartError
from common.money import format_amount, parse_amount
from common.web import explained, forms
from common.web.forms import FieldErrors, Form
from customer_node.account import MAXIMUM_BUNDLES
from customer_node.market import Market
from customer_node.views import TopUpView
from customer_node.web.desk import Desk
from customer_node.web.modes import accounting

BUNDLE: Final = sum(coins.BUNDLE)
CHOICES: Final = (1, 2, 3, 5)
"""How many bundles the offered amounts are."""

UNDER_WAY: Final = {
    "top_up": ("payment by card", "payments by card"),
    "withdraw": ("withdrawal from the account", "withdrawals from the account"),
    "swap": ("swap of coins", "swaps of coins"),
    "refund": ("refund", "refunds"),
}
"""What may be under way, one and several of it."""

FIELD_OF: Final = {
    "card_invalid": "number",
    "card_expired": "expiry",
    "card_security_code": "security_code",
}
"""Where the page shows what the card's issuer says."""


@dataclass(frozen=True)
class Moved:
    """A top-up, and what of it came into the wallet; `error` is why nothing did."""

    top_up: TopUpView
    amount: int
    error: VeilmartError | None


class WalletPages:
    """`/wallet` and `/wallet/top-up`."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[Route]:
        """Give the routes."""
        desk = self._desk
        return [
            Route("/wallet", self.wallet, methods=["GET"]),
            Route("/wallet/top-up", accounting(desk, self.form), methods=["GET"]),
            Route("/wallet/top-up", accounting(desk, self.top_up), methods=["POST"]),
        ]

    async def wallet(self, request: Request) -> Response:
        """Show what the wallet holds; asks nobody."""
        wallet, top_ups = self._desk.reading.wallet(), self._desk.reading.top_ups()
        kinds: Counter[str] = Counter(each.kind for each in wallet.pending)
        return self._desk.page(
            request,
            "wallet.html",
            wallet=wallet,
            top_ups=top_ups[::-1],
            in_account=_counted(kinds, "top_up", "withdraw"),
            in_shops=_counted(kinds, "swap", "refund"),
            protected_by=self._desk.protected_by,
        )

    async def form(self, request: Request) -> Response:
        """Ask for amount and card, or first for a name and a password."""
        if not self._desk.reading.logged_in():
            return self._desk.site.redirect("/account?onward=/wallet/top-up")
        return self._asked(request, {}, {})

    def _asked(
        self, request: Request, entered: dict[str, str], faults: dict[str, str], refused: str = ""
    ) -> Response:
        status = 422 if faults or refused else 200
        return self._desk.page(
            request,
            "top_up.html",
            status=status,
            entered={name: value for name, value in entered.items() if name != "security_code"},
            faults=faults,
            refused=refused,
            key=secrets.token_hex(16) if refused else entered.get("key") or secrets.token_hex(16),
            bundle=BUNDLE,
            choices=[BUNDLE * count for count in CHOICES],
            cart=self._desk.reading.cart(),
        )

    async def top_up(self, request: Request) -> Response:
        """Charge the card once, and move the money into the wallet where that is wished."""
        if not self._desk.reading.logged_in():
            return self._desk.site.redirect("/account?onward=/wallet/top-up")
        form = await forms.read(request)
        entered = form.entered
        try:
            moved = await self._moved(form)
        except (InvalidCardError, FieldErrors) as wrong:
            return self._asked(request, entered, wrong.faults)
        except CardDeclinedError as declined:
            field = FIELD_OF.get(declined.reason)
            said = explained.said(declined)
            return self._asked(request, entered, {field: said} if field else {}, "" if field else said)
        except RejectedError as refused:
            return self._asked(request, entered, {}, explained.said(refused))
        self._tell(request, moved)
        return self._desk.site.redirect("/account")

    async def _moved(self, form: Form) -> Moved:
        amount, faults = 0, {}
        try:
            amount = _amount(form, self._desk.currency)
        except UsageError as wrong:
            faults["amount"] = wrong.message
        try:
            fields = [form.raw(each, longest=200) for each in ("number", "expiry", "security_code", "name")]
            card = payment_cards.card(*fields)
            payment_cards.check(card, self._desk.reading.now())
        except InvalidCardError as wrong:
            raise FieldErrors(faults | wrong.faults) from None
        if faults:
            raise FieldErrors(faults)
        key, into_wallet = form.text("key", longest=64), form.ticked("move")

        def charge(market: Market) -> Moved:
            top_up = market.top_up(amount, card, key or None)
            if not into_wallet:
                return Moved(top_up, 0, None)
            try:
                return Moved(top_up, _draw(market, amount), None)
            except VeilmartError as error:
                return Moved(top_up, 0, error)

        return await self._desk.ask(charge)

    def _tell(self, request: Request, moved: Moved) -> None:
        charged = format_amount(moved.top_up.amount, moved.top_up.currency)
        card = f"{moved.top_up.brand} ending in {moved.top_up.last_four}"
        notice = self._desk.site.notice
        notice(request, f"{charged} were charged to your {card}.", "good")
        if moved.amount:
            into = format_amount(moved.amount, moved.top_up.currency)
            notice(request, f"{into} are in your wallet now, as coins that nobody can recognise.", "good")
        if moved.error is not None:
            text = f"They are in your account; moving them on did not work: {moved.error.message}"
            notice(request, text, "bad")


def _counted(kinds: Counter[str], *wanted: str) -> list[str]:
    """Write how many of each are under way."""
    return [f"{kinds[kind]} {UNDER_WAY[kind][kinds[kind] > 1]}" for kind in wanted if kinds[kind]]


def _draw(market: Market, amount: int) -> int:
    """Move as much of an amount as whole bundles hold."""
    bundles = min(MAXIMUM_BUNDLES, amount // BUNDLE)
    return market.withdraw(bundles, hurried=True).amount if bundles else 0


def _amount(form: Form, currency: str) -> int:
    chosen = form.text("amount", longest=20)
    text = form.text("other", longest=20) if chosen == "other" else chosen
    try:
        amount = parse_amount(text, currency) if chosen == "other" else int(text)
    except (ValueError, UsageError):
        amount = 0
    if not 1 <= amount <= MAXIMUM_AMOUNT:
        raise UsageError("Choose an amount, or write one like 25.00.")
    return amount
