"""Paying exactly: coins in the wallet, swapped first where no choice of them has the sum.

    Swap (one coin in, the rest and change out) --> Swapped --> coins that pay exactly

Rule 1. A swap is an operation: its exact message is stored first, and repeated until it is answered. That
payments are stopped is no answer: it is repeated once they go on. What was used before the profile came back
from a copy is passed by (`old_copy`).

Rule 2. Coins in their last week pay first where they can pay alone; `renew` swaps what is left of them.

Rule 3. Coins whose month is over pay nothing. `exchange` shows them to the broker once, in a swap: what it
refuses then is lost, and never shown again.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from common import codec, coins, config, messages, slots
from common.errors import (
    IdempotencyConflictError,
    InsufficientFundsError,
    NotFoundError,
    PaymentsStoppedError,
    RejectedError,
    UntrustedError,
    VeilmartError,
)
from common.store import Tx
from customer_node import ageing, issuers, numbers, old_copy
from customer_node.change import change_for, demand, refund_coins, spread_swap
from customer_node.context import Context
from customer_node.old_copy import SWAP
from customer_node.refusals import AlreadySignedError, DoubleSpendError, RetiredKeyError
from customer_node.shop import ShopSession
from customer_node.wallet import ENDING_MS, Key, Operation

MOST_SWAPS: Final = 16
MOST_RENUMBERED: Final = 64
"""How often a swap takes another number: enough to pass some hundreds that were used elsewhere."""


class Funds:
    """Coins for an order."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def make_exact(self, session: ShopSession, amount: int) -> None:
        """Swap until the wallet can pay `amount` exactly.

        Raises `InsufficientFundsError`, `RejectedError`, `UntrustedError`, and what asking raises; after
        silence, or where payments are stopped, `resume` completes the swap.
        """
        context = self._context
        self.hear_of_payments(session)
        for _ in range(MOST_SWAPS):
            swap = self._next_swap(session, amount)
            if swap is None:
                return
            try:
                self.finish(session, swap)
            except DoubleSpendError:
                # A coin that was spent elsewhere, and shown alone, is out of the wallet: go on with others.
                with context.profile.store.immediate() as tx:
                    others = context.wallet.held(tx, context.clock())
                if len(SWAP.unpack(swap.request).coins) > 1 or not others:
                    raise
        raise InsufficientFundsError("The wallet's coins cannot pay that.", "`veilmart withdraw` draws more.")

    def demand(self, amount: int) -> None:
        """Demand that there are coins for `amount`; asks nobody. Raises `InsufficientFundsError`."""
        context = self._context
        with context.profile.store.immediate() as tx:
            try:
                demand(amount, context.wallet.held(tx, context.clock()))
            except InsufficientFundsError as error:
                raise self._explained(tx, error) from None

    def hear_of_payments(self, session: ShopSession) -> None:
        """Ask whether payments go on, where something is open or was refused: no number is used in vain.

        Raises `PaymentsStoppedError`, and what asking raises.
        """
        context, now = self._context, self._context.clock()
        with context.profile.store.immediate() as tx:
            if not any(numbers.untraced(tx, kind, now) for kind in numbers.KINDS):
                return
        # About an order that there is not: it moves no money, and is refused by the one reason or the other.
        question = messages.CancelOrder(order_id=context.random(16), claim_secret=context.random(32))
        try:
            session.ask(question, messages.OrderAnswer, context.timeout_ms)
        except PaymentsStoppedError:
            raise
        except (NotFoundError, RejectedError):
            return

    def _next_swap(self, session: ShopSession, amount: int) -> Operation | None:
        context, now = self._context, self._context.clock()
        context.broker(session.link)
        month = slots.month_of(session.now)
        with context.profile.store.immediate() as tx:
            top = issuers.top(tx, month)
            try:
                given, wanted = change_for(amount, context.wallet.held(tx, now), top)
            except InsufficientFundsError as error:
                raise self._explained(tx, error) from None
            return self._begin(tx, given, wanted, month) if given else None

    def reserve(self, tx: Tx, order_id: bytes, amount: int) -> list[messages.Token]:
        """Reserve coins of exactly `amount` for an order; `make_exact` has seen to it that they are there."""
        context, now = self._context, self._context.clock()
        choices = (context.wallet.ending(tx, now), context.wallet.held(tx, now))
        exact = (coins.exact(held, amount) for held in choices)
        values = next((each for each in exact if each and len(each) <= config.MAXIMUM_COINS), None)
        if values is None:
            usable = sum(value * count for value, count in choices[1].items())
            missing = amount - usable if usable < amount else None
            short = InsufficientFundsError("The wallet holds less than that.", missing=missing)
            raise self._explained(tx, short)
        return context.wallet.reserve(tx, order_id, values, now)

    def ending(self, within_ms: int = ENDING_MS) -> bool:
        """Tell whether coins will be void within a time, or within a week."""
        with self._context.profile.store.immediate() as tx:
            return bool(self._context.wallet.ending(tx, self._context.clock(), within_ms))

    def renew(self, session: ShopSession) -> None:
        """Swap the coins that are in their last week for coins of this month. Raises as `finish` does.

        One by one where one of them was spent before (the profile came back from a backup): that one is out.
        """
        context = self._context
        context.broker(session.link)
        self.hear_of_payments(session)
        month, most = slots.month_of(session.now), config.MAXIMUM_COINS
        while True:
            with context.profile.store.immediate() as tx:
                ending = context.wallet.ending(tx, context.clock())
                given = sorted(Counter(ending).elements(), reverse=True)[:most]
                if not given:
                    return
                wanted = refund_coins(sum(given), {}, issuers.top(tx, month))
                swap = self._begin(tx, given, wanted, month)
            try:
                self.finish(session, swap)
            except DoubleSpendError:
                most = 1

    def spread(self, session: ShopSession) -> None:
        """Swap coins until every amount up to half of the wallet's worth can be paid exactly.

        Raises as `finish` does.
        """
        context = self._context
        context.broker(session.link)
        self.hear_of_payments(session)
        month = slots.month_of(session.now)
        for _ in range(MOST_SWAPS):
            with context.profile.store.immediate() as tx:
                held = context.wallet.held(tx, context.clock())
                found = spread_swap(held, issuers.top(tx, month))
                if found is None:
                    return
                swap = self._begin(tx, [found[0]], found[1], month)
            self.finish(session, swap)

    def exchange(self, session: ShopSession) -> None:
        """Swap coins whose month is over, as far as the broker still does; the others are lost.

        Raises `RetiredKeyError` where some were lost, and what `finish` raises.
        """
        context = self._context
        context.broker(session.link)
        self.hear_of_payments(session)
        most, lost = config.MAXIMUM_COINS, None
        while (swap := self._next_exchange(session, most)) is not None:
            try:
                self.finish(session, swap)
            except DoubleSpendError:
                # One of them was spent before the profile came back from a copy: one by one, it is out.
                most = 1
            except RetiredKeyError as error:
                if error.exchange_until or slots.grace_end(error.month) > context.clock():
                    # The broker contradicts itself, or the calendar: nothing is given up for that.
                    raise
                with context.profile.store.immediate() as tx:
                    ageing.retire(tx, error.month)
                lost = error
        if lost is not None:
            raise lost

    def _next_exchange(self, session: ShopSession, most: int) -> Operation | None:
        context, now = self._context, self._context.clock()
        month = slots.month_of(session.now)
        with context.profile.store.immediate() as tx:
            rows = ageing.to_exchange(tx, now, most)
            if not rows:
                return None
            operation = context.wallet.new_id(tx, "swap", month, now)
            worth = sum(row["value"] for row in rows)
            wanted = refund_coins(worth, context.wallet.held(tx, now), issuers.top(tx, month))
            tokens = context.wallet.take(tx, rows, operation)
            return self._store_swap(tx, operation, tokens, wanted, month)

    def _begin(self, tx: Tx, given: list[int], wanted: list[int], month: str) -> Operation:
        context, now = self._context, self._context.clock()
        operation = context.wallet.new_id(tx, "swap", month, now)
        tokens = context.wallet.reserve(tx, operation, given, now)
        return self._store_swap(tx, operation, tokens, wanted, month)

    def _store_swap(
        self, tx: Tx, operation: bytes, tokens: list[messages.Token], wanted: list[int], month: str
    ) -> Operation:
        context = self._context
        kinds: list[Key] = [("coin", value) for value in wanted]
        blinded = context.wallet.draw(tx, operation, kinds, month)
        request = codec.pack(messages.Swap(operation=operation, coins=tokens, blinded=blinded))
        context.wallet.begin_operation(tx, operation, "swap", request, context.clock())
        return Operation(operation, "swap", request)

    def finish(self, session: ShopSession, swap: Operation) -> None:
        """Ask until a swap is answered. Raises `RejectedError` for a refusal, and what asking raises."""
        context, tries = self._context, old_copy.Tries()
        for renumbered in range(MOST_RENUMBERED):
            month = slots.month_of(session.now)
            try:
                self._finish(session, swap)
            except IdempotencyConflictError:
                swap = old_copy.renumber(context, swap, month, min(renumbered, numbers.MOST_SKIPPED))
            except AlreadySignedError:
                swap = old_copy.swap_again(context, swap, month, tries)
            else:
                return
        raise IdempotencyConflictError(
            "The wallet's numbers are used elsewhere.",
            "Two copies of one wallet cannot be used side by side.",
        )

    def _finish(self, session: ShopSession, swap: Operation) -> None:
        context = self._context
        question = SWAP.unpack(swap.request)
        try:
            answer = session.ask(question, messages.Swapped, context.timeout_ms)
        except (AlreadySignedError, IdempotencyConflictError, PaymentsStoppedError):
            # Not the end of it: in other coins, under another number, or once payments go on.
            raise
        except RejectedError as error:
            with context.profile.store.immediate() as tx:
                if isinstance(error, DoubleSpendError) and len(question.coins) == 1:
                    context.wallet.spend(tx, swap.id)
                else:
                    context.wallet.release(tx, swap.id)
                old_copy.refuse_swap(context, tx, swap.id)
            raise
        try:
            with context.profile.store.immediate() as tx:
                context.wallet.issue(tx, swap.id, answer.signatures, context.clock())
                context.wallet.spend(tx, swap.id)
        except UntrustedError:
            context.profile.keep_evidence("swap", codec.pack(answer), context.clock())
            raise

    def sift(self, session: ShopSession, order_id: bytes) -> None:
        """Swap each coin of a refused order for another one: those that were spent before stay out.

        After a profile came back from a backup some coins in it are spent; this finds out which.
        """
        context = self._context
        month = slots.month_of(session.now)
        context.broker(session.link)
        with context.profile.store.immediate() as tx:
            rows = context.wallet.reserved_for(tx, order_id)
        for row in rows:
            with context.profile.store.immediate() as tx:
                operation = context.wallet.new_id(tx, "swap", month, context.clock())
                token = context.wallet.pass_on(tx, row, operation)
                blinded = context.wallet.draw(tx, operation, [("coin", row["value"])], month)
                request = codec.pack(messages.Swap(operation=operation, coins=[token], blinded=blinded))
                context.wallet.begin_operation(tx, operation, "swap", request, context.clock())
            try:
                self.finish(session, Operation(operation, "swap", request))
            except PaymentsStoppedError:
                raise
            except RejectedError:
                continue

    def _explained(self, tx: Tx, error: InsufficientFundsError) -> VeilmartError:
        """Say which coins would do if one waited."""
        context, now = self._context, self._context.clock()
        _, young_until = context.wallet.stock(tx, now)
        if young_until:
            minutes = -(-(young_until - now) // config.MINUTE_MS)
            hint = f"Coins become usable in {minutes} min; `--now` uses them at once."
            return InsufficientFundsError(error.message, hint, missing=error.missing, retry_at=young_until)
        if context.wallet.open_operations(tx, "swap"):
            hint = "`veilmart resume` completes what is under way."
            return InsufficientFundsError(error.message, hint, missing=error.missing)
        return error
