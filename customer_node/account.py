"""The account: the only part that knows a name, and it knows no product.

    sign up, log in      a session, whose keys stay in the profile until it ends
    withdraw             balance -> coins and tickets, always in the same bundle
    log out              erases the session's keys here and at the broker

Rule 1. Nothing here can shop, and nothing that shops can come here: `buy` never opens this session.

Rule 2. A withdrawal's exact request is stored first, and repeated until the broker has signed or refused
it; that payments are stopped refuses nothing for good. It costs the account once, however often it is sent,
and nothing once it was refused: the broker refuses every copy of it.

Rule 3. A withdrawal belongs to the account that began it: in another account's session it is not repeated,
since the broker would refuse it there, and a refusal ends it.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import sqlalchemy as sa

from common import codec, coins, config, invites, messages, passwords, slots
from common.errors import (
    AuthenticationError,
    BrokerUnreachableError,
    InsufficientFundsError,
    PaymentsStoppedError,
    RejectedError,
    UnreachableError,
    UntrustedError,
    UsageError,
    VeilmartError,
)
from common.money import format_amount
from common.store import Tx
from customer_node import apart, old_copy
from customer_node import kept as keeping
from customer_node.context import Context
from customer_node.hello import HelloRefusedError, Opening
from customer_node.kept import KeptSession
from customer_node.old_copy import WITHDRAW
from customer_node.refusals import AlreadySignedError, SessionOverError, refusal_error
from customer_node.schema import account_sessions
from customer_node.sessions import Session
from customer_node.timing import Countdown
from customer_node.views import BalanceView, WithdrawalView
from customer_node.wallet import TICKET, Key, Operation

PLACE: Final = "account"

MAXIMUM_BUNDLES: Final = 50
CODE_DIGITS: Final = 6

Result = TypeVar("Result")
AccountSession = Session[messages.ToAccount]


class Account:
    """Account scope."""

    def __init__(self, context: Context) -> None:
        self._context = context

    # --- sessions --------------------------------------------------------------------------------------

    def sign_up(self, name: str, password: str, invite: str = "") -> None:
        """Open an account and log in.

        Raises `RejectedError` if the name is taken, the password against the rules (nothing was sent
        then) or the invite code needed or used up, `UsageError`, `BrokerUnreachableError`,
        `UntrustedError`.
        """
        passwords.check_password(password, name)
        code = invites.read(invite) if invite else b""
        device = self._device(self._account_of(name))
        self._open(messages.SignUp(name=name, password=password, device=device, invite=code))

    def log_in(self, name: str, password: str, code: str = "") -> None:
        """Log in, with a code where there is a second factor.

        Raises `AuthenticationError`, else as `sign_up`.
        """
        device = self._device(self._account_of(name))
        self._open(messages.LogIn(name=name, password=password, device=device, code=one_time_code(code)))

    def log_out(self) -> None:
        """Erase the session's keys, here in any case and at the broker if it answers.

        Raises `UnreachableError` where it does not; its session then ends by itself.
        """
        context = self._context
        try:
            session = self._session()
        except AuthenticationError:
            return
        try:
            request = context.random(16)
            session.ask(messages.LogOut(request=request), messages.LoggedOut, context.timeout_ms)
        except SessionOverError:
            pass
        finally:
            self.forget()

    @property
    def logged_in(self) -> bool:
        """Whether the profile holds a session that should still be open."""
        with self._context.profile.store.immediate() as tx:
            return keeping.find(tx, account_sessions, PLACE, self._context.clock()) is not None

    def demand_logged_in(self) -> None:
        """Demand that the profile holds a session. Raises `AuthenticationError`; asks nobody."""
        if not self.logged_in:
            raise _not_logged_in()

    def _open(self, credential: messages.SignUp | messages.LogIn) -> None:
        context = self._context
        countdown = Countdown(context.clock, context.timeout_ms)
        while True:
            link = context.uplink.link(context.random(16), "account")
            opening = Opening(
                link, context.broker(link), context.profile.market_id, context.clock, context.random
            )
            try:
                kept, _ = opening.open(credential, "account", context.timeout_ms)
                break
            except HelloRefusedError as refused:
                refused.wait(link, context.clock, countdown)
        with context.profile.store.immediate() as tx:
            keeping.keep(tx, account_sessions, PLACE, kept, account=self._account_of(credential.name))
            apart.note_use(tx, "account", context.clock())

    def _account_of(self, name: str) -> bytes:
        """Hash a name under the wallet's seed: the profile can tell accounts apart and names none."""
        return hmac.digest(self._context.profile.seed, b"veilmart v1 account\0" + name.encode(), "sha256")

    def _device(self, account: bytes) -> bytes:
        """Give this device's secret for an account; it tells the broker nothing about another one."""
        return hmac.digest(self._context.profile.seed, b"veilmart v1 device\0" + account, "sha256")

    def device(self) -> bytes:
        """Give this device's secret for the account that is logged in. Raises `AuthenticationError`."""
        with self._context.profile.store.immediate() as tx:
            account = account_of_session(tx)
        if account is None:
            raise _not_logged_in()
        return self._device(account)

    def _session(self) -> AccountSession:
        context = self._context
        with context.profile.store.immediate() as tx:
            kept = keeping.find(tx, account_sessions, PLACE, context.clock())
        if kept is None:
            raise _not_logged_in()
        return self._resume(kept)

    def _resume(self, kept: KeptSession) -> AccountSession:
        context = self._context
        link = context.uplink.link(kept.session, "account")
        with context.profile.store.immediate() as tx:
            keeping.touch(tx, account_sessions, kept.session, context.clock())
            apart.note_use(tx, "account", context.clock())
        return Session(link, kept, codec.TO_ACCOUNT, context.clock, context.random)

    def forget(self) -> None:
        """Erase the session's keys here."""
        with self._context.profile.store.immediate() as tx:
            keeping.forget(tx, account_sessions, PLACE)
        self._context.uplink.close()

    def within(self, action: Callable[[AccountSession], Result]) -> Result:
        """Act in the account's session. Raises `AuthenticationError` where there is none (any more)."""
        session = self._session()
        try:
            return action(session)
        except SessionOverError:
            self.forget()
            raise _not_logged_in() from None

    # --- money -----------------------------------------------------------------------------------------

    def balance(self) -> BalanceView:
        """Ask for the balance. Raises `AuthenticationError`, `UnreachableError`, `DeadlineError`."""
        return self.within(self._balance)

    def _balance(self, session: AccountSession) -> BalanceView:
        question = messages.GetBalance(request=self._context.random(16))
        answer = session.ask(question, messages.Balance, self._context.timeout_ms)
        return BalanceView(answer.amount, answer.currency, answer.tickets_left)

    def withdraw(self, bundles: int = 1) -> WithdrawalView:
        """Draw bundles of coins, with tickets as far as today's limit allows.

        Raises `InsufficientFundsError`, `AuthenticationError`, `UntrustedError`, `UnreachableError`,
        `DeadlineError`; after the last two `resume` completes what is under way.
        """
        if not 1 <= bundles <= MAXIMUM_BUNDLES:
            raise UsageError(f"Withdraw 1 to {MAXIMUM_BUNDLES} bundles at a time.")
        return self.within(lambda session: self._withdraw(session, bundles))

    def plan_withdrawal(self, bundles: int = 1) -> WithdrawalView:
        """Say what `withdraw` would draw, and what would be left. Raises as it does; draws nothing."""
        if not 1 <= bundles <= MAXIMUM_BUNDLES:
            raise UsageError(f"Withdraw 1 to {MAXIMUM_BUNDLES} bundles at a time.")
        before = self.within(self._balance)
        _demand_balance(before, bundles)
        amount = bundles * sum(coins.BUNDLE)
        return WithdrawalView(
            amount=amount,
            coins=bundles * len(coins.BUNDLE),
            tickets=min(bundles * coins.BUNDLE_TICKETS, before.tickets_left),
            balance=before.amount - amount,
            currency=before.currency,
            usable_from=self._usable_from(),
        )

    def _withdraw(self, session: AccountSession, bundles: int) -> WithdrawalView:
        context = self._context
        card = context.broker(session.link)
        self.finish_open(session)
        before = self._balance(session)
        bundle = sum(coins.BUNDLE)
        _demand_balance(before, bundles)
        tickets_left, drawn, balance = before.tickets_left, 0, before.amount
        for _ in range(bundles):
            tickets = min(coins.BUNDLE_TICKETS, tickets_left)
            balance = self._finish(session, self._begin(session, coins.BUNDLE, tickets)).balance
            tickets_left -= tickets
            drawn += tickets
        return WithdrawalView(
            amount=bundles * bundle,
            coins=bundles * len(coins.BUNDLE),
            tickets=drawn,
            balance=balance,
            currency=card.currency,
            usable_from=self._usable_from(),
        )

    def finish_open(self, session: AccountSession) -> None:
        """Complete withdrawals of this account that are under way; one that is refused is over by that."""
        for operation in self._open_operations():
            if self._may_repeat(operation):
                try:
                    self._finish(session, operation)
                except RejectedError:
                    if self._is_open(operation):
                        raise

    def hash_of(self, name: str) -> bytes:
        """Give what an account is known by in this profile."""
        return self._account_of(name)

    def present(self) -> bytes | None:
        """Give the account whose session is open here, in that form."""
        with self._context.profile.store.immediate() as tx:
            return account_of_session(tx)

    def draw_rest(self, session: AccountSession) -> WithdrawalView:
        """Draw all that the account holds, to the last minor unit: it is about to be closed.

        Unlike a bundle it shows the broker which values it is; there is no other way to leave nothing.
        """
        card = self._context.broker(session.link)
        self.finish_open(session)
        before = self._balance(session)
        rest, tickets_left, drawn = before.amount, before.tickets_left, 0
        while rest:
            values = _exactly(rest, sorted({key.value for key in card.issuer_keys if key.purpose == "coin"}))
            tickets = min(coins.BUNDLE_TICKETS, tickets_left)
            rest = self._finish(session, self._begin(session, values, tickets)).balance
            tickets_left -= tickets
            drawn += len(values)
        return WithdrawalView(
            amount=before.amount,
            coins=drawn,
            tickets=before.tickets_left - tickets_left,
            balance=rest,
            currency=card.currency,
            usable_from=self._usable_from(),
        )

    def draw_tickets(self) -> WithdrawalView:
        """Draw a bundle's tickets and no coins. Raises `OutOfTicketsError`, and as `withdraw`."""
        return self.within(self.tickets_in)

    def tickets_in(self, session: AccountSession) -> WithdrawalView:
        """Draw such tickets in an open session."""
        card = self._context.broker(session.link)
        left = self._balance(session).tickets_left
        if not left:
            raise refusal_error("out_of_tickets")
        tickets = min(coins.BUNDLE_TICKETS, left)
        balance = self._finish(session, self._begin(session, (), tickets)).balance
        return WithdrawalView(
            amount=0,
            coins=0,
            tickets=tickets,
            balance=balance,
            currency=card.currency,
            usable_from=self._usable_from(),
        )

    def _begin(self, session: AccountSession, values: Sequence[int], tickets: int) -> Operation:
        context = self._context
        operation, month = context.random(16), slots.month_of(session.now)
        wanted: list[Key] = [("coin", value) for value in values] + [TICKET] * tickets
        with context.profile.store.immediate() as tx:
            blinded = context.wallet.draw(tx, operation, wanted, month)
            count = len(values)
            request = codec.pack(
                messages.Withdraw(operation=operation, coins=blinded[:count], tickets=blinded[count:])
            )
            account = account_of_session(tx)
            context.wallet.begin_operation(tx, operation, "withdraw", request, context.clock(), account)
        return Operation(operation, "withdraw", request, account)

    def _finish(self, session: AccountSession, operation: Operation) -> messages.Withdrawn:
        """Ask until it is signed, for other coins where these were drawn before."""
        tries = old_copy.Tries()
        while True:
            try:
                return self._ask(session, operation)
            except AlreadySignedError:
                month = slots.month_of(session.now)
                operation = old_copy.draw_again(self._context, operation, month, tries)

    def _ask(self, session: AccountSession, operation: Operation) -> messages.Withdrawn:
        context = self._context
        question = WITHDRAW.unpack(operation.request)
        try:
            answer = session.ask(question, messages.Withdrawn, context.timeout_ms)
        except (AlreadySignedError, PaymentsStoppedError):
            # Not for good: it is asked for in other coins, or a copy may have been taken, or be taken later.
            raise
        except (RejectedError, AuthenticationError):
            with context.profile.store.immediate() as tx:
                context.wallet.end_operation(tx, operation.id, "refused")
            raise
        try:
            with context.profile.store.immediate() as tx:
                signatures = [*answer.coins, *answer.tickets]
                context.wallet.issue(tx, operation.id, signatures, self._usable_from())
        except UntrustedError:
            context.profile.keep_evidence("withdrawal", codec.pack(answer), context.clock())
            raise
        return answer

    def _usable_from(self) -> int:
        return self._context.clock() + 1000 * self._context.profile.market.minimum_age_seconds

    def _open_operations(self) -> list[Operation]:
        with self._context.profile.store.immediate() as tx:
            return self._context.wallet.open_operations(tx, "withdraw")

    def _is_open(self, operation: Operation) -> bool:
        with self._context.profile.store.immediate() as tx:
            return self._context.wallet.operation(tx, operation.id) is not None

    def _may_repeat(self, operation: Operation) -> bool:
        with self._context.profile.store.immediate() as tx:
            present = account_of_session(tx)
        return present is None or operation.account in (None, present)

    def resume(self) -> list[tuple[str, VeilmartError | None]]:
        """Complete open withdrawals; gives each one's id and what stopped it."""
        results: list[tuple[str, VeilmartError | None]] = []
        for operation in self._open_operations():
            if not self._may_repeat(operation):
                another = AuthenticationError(
                    "Another account began this withdrawal.", "Log in to that one, then `veilmart resume`."
                )
                results.append((operation.id.hex(), another))
                continue
            try:
                self.within(lambda session, it=operation: self._finish(session, it))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
                results.append((operation.id.hex(), None))
            except VeilmartError as error:
                results.append((operation.id.hex(), error))
                if isinstance(error, AuthenticationError | UnreachableError | BrokerUnreachableError):
                    break
        return results


def account_of_session(tx: Tx) -> bytes | None:
    """Give the account whose session there is."""
    account: bytes | None = tx.scalar(
        sa.select(account_sessions.c.account).where(account_sessions.c.place == PLACE)
    )
    return account


def _demand_balance(before: BalanceView, bundles: int) -> None:
    """Raise `InsufficientFundsError` where the account holds less than so many bundles."""
    wanted = bundles * sum(coins.BUNDLE)
    if before.amount < wanted:
        raise InsufficientFundsError(
            f"The account holds {format_amount(before.amount, before.currency)}, "
            f"{bundles} bundles are {format_amount(wanted, before.currency)}.",
            "`veilmart topup` pays in with a card, where the market takes cards.",
            missing=wanted - before.amount,
        )


def _exactly(amount: int, values: Sequence[int]) -> list[int]:
    """Give the fewest coins that sum up to `amount`, or as many of them as one request may hold."""
    found: list[int] = []
    for value in reversed(values):
        count = min(amount // value, config.MAXIMUM_COINS - len(found))
        found += [value] * count
        amount -= value * count
    return found


def one_time_code(text: str) -> str:
    """Read a code as an app shows it, perhaps with a blank in the middle. Raises `UsageError`."""
    code = "".join(text.split())
    if code and not (len(code) == CODE_DIGITS and code.isascii() and code.isdigit()):
        raise UsageError(f"A code has {CODE_DIGITS} digits.", "Take the one that your app shows now.")
    return code


def _not_logged_in() -> AuthenticationError:
    return AuthenticationError("No account session is open.", "Log in first (`veilmart login NAME`).")
