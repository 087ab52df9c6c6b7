"""Topping up the account with a card: charged once, whatever crashes, and the card kept nowhere.

    card --checked here--> TopUp --> pending --> charged        AskTopUp, until the end is known

Rule 1. The operation is stored before the card is sent, with amount, brand and last four digits. The card
is in memory alone: after a crash nobody sends it again, and the broker is asked what became of it.

Rule 2. A new top-up begins only once every earlier one of this account is known to be charged or not. An
earlier one of the same amount and card that was interrupted, and turns out to be charged, is what was
asked for: it is given, and nothing is charged a second time.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import sqlalchemy as sa

from common import messages, payment_cards, states
from common.config import MAXIMUM_AMOUNT
from common.errors import (
    AuthenticationError,
    DeadlineError,
    GatewayUnreachableError,
    IdempotencyConflictError,
    PaymentsStoppedError,
    RejectedError,
    UnreachableError,
    UsageError,
    VeilmartError,
)
from common.money import format_amount
from common.states import CUSTOMER_TOP_UP
from common.store import Row, Tx
from customer_node.account import Account, AccountSession, account_of_session
from customer_node.context import Context
from customer_node.refusals import TooManyTopUpsError
from customer_node.schema import top_ups
from customer_node.views import Hop, TopUpView


@dataclass(frozen=True)
class _Wanted:
    """What a top-up is known by."""

    amount: int
    brand: str
    last_four: str

    @classmethod
    def of(cls, row: Row) -> _Wanted:
        return cls(row["amount"], row["brand"], row["last_four"])


class TopUps:
    """Top-ups of whichever account is logged in."""

    def __init__(self, context: Context, account: Account) -> None:
        self._context = context
        self._account = account

    def top_up(self, amount: int, card: messages.PaymentCard, key: str | None = None) -> TopUpView:
        """Charge a card and credit the account. The same key never charges twice; refused, it may try again.

        Raises `InvalidCardError`, `CardDeclinedError`, `RejectedError`, `GatewayUnreachableError` (nothing
        was charged), `IdempotencyConflictError`, `AuthenticationError`, `UnreachableError`, and
        `DeadlineError` while it is not known; `resume` then finds out.
        """
        wanted = self._wanted(amount, card)
        return self._account.within(lambda session: self._top_up(session, card, wanted, key))

    def check(self, amount: int, card: messages.PaymentCard, key: str | None = None) -> None:
        """Demand what `top_up` demands before it sends anything. Raises as it does; asks nobody."""
        wanted = self._wanted(amount, card)
        self._account.demand_logged_in()
        if key is not None:
            _demand_same(self._find(self._operation_of(key)), wanted, key)

    def _wanted(self, amount: int, card: messages.PaymentCard) -> _Wanted:
        brand = payment_cards.check(card, self._context.clock())
        if not 1 <= amount <= MAXIMUM_AMOUNT:
            raise UsageError(f"The amount must be more than nothing, and {MAXIMUM_AMOUNT} at most.")
        return _Wanted(amount, brand.name, payment_cards.last_four(card))

    def _top_up(
        self, session: AccountSession, card: messages.PaymentCard, wanted: _Wanted, key: str | None
    ) -> TopUpView:
        context = self._context
        operation = context.random(16) if key is None else self._operation_of(key)
        if self._find(operation) is not None:
            return self._once_more(session, operation, wanted, key)
        interrupted = self._finish_open(session)
        if key is None and wanted in (ended := {_Wanted.of(row): row for row in interrupted}):
            return replace(_view(ended[wanted]), resumed=True)
        question = messages.TopUp(
            operation=operation,
            amount=wanted.amount,
            currency=context.profile.market.currency,
            card=card,
        )
        with context.profile.store.immediate() as tx:
            row = {"operation": operation, "account": account_of_session(tx), "state": "open", "charge": ""}
            more = {"currency": question.currency, "created": context.clock()}
            tx.execute(sa.insert(top_ups), row | asdict(wanted) | more)
        return self._ask(session, operation, question)

    def _once_more(
        self, session: AccountSession, operation: bytes, wanted: _Wanted, key: str | None
    ) -> TopUpView:
        _demand_same(self._find(operation), wanted, key)
        return replace(self._ask(session, operation), resumed=True)

    def _operation_of(self, key: str) -> bytes:
        """Give the operation of a key's latest try: after one that was refused the next is another one."""
        context = self._context
        with context.profile.store.immediate() as tx:
            account = account_of_session(tx) or b""
        label, number = b"veilmart v1 top-up\0", 0
        while True:
            content = label + account + number.to_bytes(4, "big") + key.encode()
            operation = hmac.digest(context.profile.seed, content, "sha256")[:16]
            row = self._find(operation)
            if row is None or row["state"] != "refused":
                return operation
            number += 1

    def _finish_open(self, session: AccountSession) -> list[Row]:
        """Find out about every open top-up of this account; gives those that turn out to be charged."""
        charged = []
        for row in self._open():
            if self._mine(row):
                try:
                    self._ask(session, row["operation"])
                except VeilmartError:
                    if self._state(row["operation"]) == "open":
                        raise
                    continue
                found = self._find(row["operation"])
                charged += [found] if found is not None else []
        return charged

    def hear(self, session: AccountSession) -> None:
        """Ask once about every open top-up of this account, which is about to be closed.

        One whose charge is under way stays open. Raises what asking raises for silence.
        """
        for row in self._open():
            if self._mine(row):
                try:
                    self._told(session, messages.AskTopUp(operation=row["operation"]))
                except (RejectedError, GatewayUnreachableError):
                    continue

    # --- asking ----------------------------------------------------------------------------------------

    def _ask(
        self, session: AccountSession, operation: bytes, question: messages.TopUp | None = None
    ) -> TopUpView:
        """Ask until the end is known. The card is sent until the first answer."""
        again = messages.AskTopUp(operation=operation)
        answer = self._told(session, question or again)
        if not _is_charged(answer):
            answer = self._wait(session, again)
        found = self._find(operation)
        if found is None:
            raise LookupError("a top-up without its row")
        return replace(_view(found), balance=answer.balance)

    def _told(
        self,
        session: AccountSession,
        question: messages.TopUp | messages.AskTopUp,
        until: Callable[[messages.TopUpAnswer], bool] = lambda _: True,
    ) -> messages.TopUpAnswer:
        """Give the first answer that `until` accepts, and note what it says."""
        operation = question.operation
        try:
            answer = session.ask(question, messages.TopUpAnswer, self._context.timeout_ms, until)
        except (TooManyTopUpsError, PaymentsStoppedError):
            # The broker keeps nothing of these refusals: a copy of the message may be taken later.
            raise
        except (RejectedError, GatewayUnreachableError):
            self._end(operation, "refused")
            raise
        if _is_charged(answer):
            self._end(operation, "charged", charge=answer.charge)
        else:
            self._note_pending(operation)
        return answer

    def _wait(self, session: AccountSession, again: messages.AskTopUp) -> messages.TopUpAnswer:
        try:
            return self._told(session, again, _is_charged)
        except DeadlineError:
            row = self._find(again.operation)
            amount = format_amount(row["amount"], row["currency"]) if row else ""
            raise DeadlineError(
                f"The payment gateway has not said yet whether {amount} were charged.",
                "It is charged once at most. `veilmart resume` finds out; do not pay again before.",
                hop="gateway",
            ) from None

    # --- carrying on -----------------------------------------------------------------------------------

    def resume(self) -> list[tuple[str, str, VeilmartError | None]]:
        """Find out about open top-ups; gives each one's id, its state, and what stopped it."""
        results: list[tuple[str, str, VeilmartError | None]] = []
        for row in self._open():
            operation, failure = row["operation"], None
            try:
                if not self._mine(row):
                    raise AuthenticationError(
                        "Another account began this top-up.", "Log in to that one, then `veilmart resume`."
                    )
                self._account.within(lambda session, it=operation: self._ask(session, it))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            except VeilmartError as error:
                failure = error
            results.append((operation.hex(), self._state(operation), failure))
            if isinstance(failure, UnreachableError) and not isinstance(failure, GatewayUnreachableError):
                break
        return results

    # --- rows ------------------------------------------------------------------------------------------

    def views(self) -> tuple[TopUpView, ...]:
        """List the top-ups of this profile, oldest first. Asks nobody."""
        with self._context.profile.store.immediate() as tx:
            return top_up_views(tx)

    def _open(self) -> Sequence[Row]:
        with self._context.profile.store.immediate() as tx:
            return tx.all(sa.select(top_ups).where(top_ups.c.state == "open").order_by(top_ups.c.created))

    def _mine(self, row: Row) -> bool:
        with self._context.profile.store.immediate() as tx:
            present = account_of_session(tx)
        return present is None or row["account"] == present

    def _find(self, operation: bytes) -> Row | None:
        with self._context.profile.store.immediate() as tx:
            return tx.one(sa.select(top_ups).where(top_ups.c.operation == operation))

    def _state(self, operation: bytes) -> str:
        row = self._find(operation)
        return "open" if row is None else row["state"]

    def _note_pending(self, operation: bytes) -> None:
        """Note that the broker waits for its gateway."""
        context = self._context
        with context.profile.store.immediate() as tx:
            tx.execute(
                sa.update(top_ups).where(top_ups.c.operation == operation).values(heard=context.clock())
            )

    def _end(self, operation: bytes, state: str, **values: str) -> None:
        with self._context.profile.store.immediate() as tx:
            _step(tx, operation, state, **values)


def _demand_same(known: Row | None, wanted: _Wanted, key: str | None) -> None:
    if known is not None and _Wanted.of(known) != wanted:
        raise IdempotencyConflictError("This key stands for a top-up of another amount or card.", key=key)


def top_up_views(tx: Tx) -> tuple[TopUpView, ...]:
    """Show every top-up, oldest first."""
    return tuple(_view(row) for row in tx.all(sa.select(top_ups).order_by(top_ups.c.created)))


def _step(tx: Tx, operation: bytes, new: str, **values: str) -> None:
    present = tx.scalar(sa.select(top_ups.c.state).where(top_ups.c.operation == operation))
    if present != new:
        states.step(CUSTOMER_TOP_UP, present, new)
        tx.execute(sa.update(top_ups).where(top_ups.c.operation == operation).values(state=new, **values))


def _is_charged(answer: messages.TopUpAnswer) -> bool:
    return answer.state == "charged"


def _view(row: Row) -> TopUpView:
    return TopUpView(
        operation=row["operation"].hex(),
        state=row["state"],
        amount=row["amount"],
        currency=row["currency"],
        brand=row["brand"],
        last_four=row["last_four"],
        charge=row["charge"],
        created=row["created"],
        waits_for=_waits_for(row),
    )


def _waits_for(row: Row) -> Hop | None:
    if row["state"] != "open":
        return None
    return "gateway" if row["heard"] else "broker"
