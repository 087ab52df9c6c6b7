"""Changes of the account itself: its password, its second factor, its end. All of them ask for the password.

secret, address = AccountChanges.new_secret(market)     for the authenticator app
changes.enable_totp(password, secret, code)             the app shows the code
"""

from __future__ import annotations

import base64
import binascii
from typing import Final
from urllib.parse import quote

from common import messages, passwords
from common.errors import DeadlineError, UsageError
from customer_node import apart
from customer_node.account import Account, AccountSession, one_time_code
from customer_node.context import Context
from customer_node.refusals import AccountClosedError, BalanceLeftError
from customer_node.topups import TopUps
from customer_node.views import TotpSecretView, WithdrawalView

SECRET_BYTES: Final = 20
"""RFC 4226, section 4, recommends 160 bits."""

Change = messages.ChangePassword | messages.EnableTotp | messages.DisableTotp | messages.CloseAccount


class AccountChanges:
    """Password, second factor, closing."""

    def __init__(self, context: Context, account: Account, top_ups: TopUps) -> None:
        self._context = context
        self._account = account
        self._top_ups = top_ups

    def change_password(self, password: str, new_password: str, code: str = "") -> None:
        """Take another password. Every session of the account ends, this one too: log in again.

        Raises `RejectedError` for a password against the rules, `AuthenticationError` for a wrong one,
        `UnreachableError`, `DeadlineError`.
        """
        passwords.check_password(new_password)
        change = messages.ChangePassword(
            request=self._context.random(16),
            password=_entered(password),
            new_password=_entered(new_password),
            device=self._account.device(),
            code=one_time_code(code),
        )
        try:
            self._account.within(lambda session: self._ask(session, change))
        except DeadlineError as error:
            raise DeadlineError(
                "The broker did not answer in time; the password may be the new one already.",
                "Log in with the new one, or else with the old one.",
                hop=error.hop,
            ) from error
        self._account.forget()

    def new_secret(self) -> TotpSecretView:
        """Make a secret for an authenticator app. Asks nobody, changes nothing."""
        secret = base64.b32encode(self._context.random(SECRET_BYTES)).decode()
        market = self._context.profile.market_id.hex()[:8]
        address = f"otpauth://totp/{quote(f'Veilmart:{market}')}?secret={secret}&issuer=Veilmart"
        return TotpSecretView(secret=secret, address=address)

    def enable_totp(self, password: str, secret: str, code: str) -> None:
        """Demand a code at each login from now on; `code` shows that the app has the secret.

        Raises `AuthenticationError` for a wrong password or code, `RejectedError` where one is demanded
        already, `UsageError`, `UnreachableError`, `DeadlineError`.
        """
        change = messages.EnableTotp(
            request=self._context.random(16),
            password=_entered(password),
            secret=_secret(secret),
            code=_needed(code),
        )
        self._account.within(lambda session: self._ask(session, change))

    def disable_totp(self, password: str, code: str) -> None:
        """Demand no code any more. Raises as `enable_totp`."""
        change = messages.DisableTotp(
            request=self._context.random(16), password=_entered(password), code=_needed(code)
        )
        self._account.within(lambda session: self._ask(session, change))

    def close(self, password: str, code: str = "", *, hurried: bool = False) -> WithdrawalView | None:
        """Close the account for good; what is left on it is drawn into the wallet first, to the last unit.

        Not within the market's minimum age after a visit to a shop (`TooSoonError`), unless `hurried`.
        Gives what was drawn. Raises `AuthenticationError`, `UnreachableError`, `DeadlineError`; called
        again after the last two it goes on.
        """
        context = self._context
        if not hurried:
            with context.profile.store.immediate() as tx:
                apart.demand_apart_from_shops(tx, context.age_ms, context.clock(), "account close")
        drawn = self._account.within(lambda session: self._close(session, password, code))
        self._account.forget()
        return drawn

    def _close(self, session: AccountSession, password: str, code: str) -> WithdrawalView | None:
        # What was debited and not signed yet, or charged and not heard of, could never be asked for again.
        self._account.finish_open(session)
        drawn: WithdrawalView | None = None
        while True:
            self._top_ups.hear(session)
            change = messages.CloseAccount(
                request=self._context.random(16), password=_entered(password), code=one_time_code(code)
            )
            try:
                self._ask(session, change)
            except BalanceLeftError:
                if drawn is not None:
                    raise BalanceLeftError(
                        "The charge of a card is under way, and may yet be credited.",
                        "Close the account when it has ended (`veilmart resume` asks).",
                    ) from None
                drawn = self._account.draw_rest(session)
            except AccountClosedError:
                # It is, and the answer that said so was lost, or another device was first.
                return drawn
            else:
                return drawn

    def _ask(self, session: AccountSession, change: Change) -> None:
        session.ask(change, messages.AccountChanged, self._context.timeout_ms)


def _entered(password: str) -> str:
    if not 1 <= len(password) <= passwords.LONGEST:
        raise UsageError(f"A password has 1 to {passwords.LONGEST} characters.")
    return password


def _needed(code: str) -> str:
    read = one_time_code(code)
    if not read:
        raise UsageError("A code is needed.", "Take the one that your app shows now.")
    return read


def _secret(text: str) -> bytes:
    try:
        secret = base64.b32decode("".join(text.split()).upper())
    except (binascii.Error, ValueError):
        secret = b""
    if len(secret) != SECRET_BYTES:
        raise UsageError("That is no secret of ours.", "Make one with `veilmart totp secret`.")
    return secret
