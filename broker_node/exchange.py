"""Money against coins: withdraw (balance to coins), swap (coins to coins), refund (escrow to coins).

Rule 1. Each is an operation with an id of its own (`operations`). The same bytes again get the same
signatures; other bytes under the same id are a conflict; what was refused stays refused (`kept_refusals`).
An order may have several claims, which together never draw more than was given back of it.

Rule 2. Signing is slow and runs in a pool (`signing.py`). What it rests on is checked before, to fail
early, and what may have changed meanwhile (balance, order, spent coins) again in the one transaction that
debits, spends and stores the signatures; until then none leaves the broker.

Rule 3. A blinded value is signed once (`signed_once`): what another operation was signed for is refused.

Rule 4. What is posted has a reference that nobody chose: an operation's id is its customer's, and an order
named like it would have the posting counted as its own (`order_books`).

Swaps, and whatever comes back from the pool, are handled a batch at a time: that is the road that is busy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import sqlalchemy as sa

from broker_node import ledger, operations, order_rows, recovery, schema, signed_once
from broker_node.audit import Audit
from broker_node.kept_refusals import KeptRefusals
from broker_node.mint import Mint, spend, spent_by_others
from broker_node.operations import Response
from broker_node.sends import Session, ToSession
from broker_node.sessions import Sessions, demand_open
from broker_node.signing import Asked, Signed, Signing, one_of_each_id
from common import messages
from common.clock import Random
from common.config import DAY_MS, Limits
from common.core import Arrival, Job
from common.errors import RefusedError
from common.states import BROKER_ORDER, step
from common.store import Row, Tx

_TODAY = (
    schema.ticket_days.c.account == sa.bindparam("of"),
    schema.ticket_days.c.day == sa.bindparam("today"),
)
_TICKETS = sa.select(schema.ticket_days.c.issued).where(*_TODAY)
_FIRST_TICKETS = sa.insert(schema.ticket_days)
_MORE_TICKETS = (
    sa.update(schema.ticket_days)
    .where(*_TODAY)
    .values(issued=schema.ticket_days.c.issued + sa.bindparam("more"))
)
_CLAIM = (
    sa.update(schema.orders)
    .where(schema.orders.c.order_id == sa.bindparam("of"))
    .where(schema.orders.c.state == sa.bindparam("old"))
    .where(schema.orders.c.claimed + sa.bindparam("more") <= schema.orders.c.refunded)
    .values(claimed=schema.orders.c.claimed + sa.bindparam("more"), state=sa.bindparam("new"))
)


class Exchange:
    """Withdraw, swap and refund."""

    def __init__(
        self, mint: Mint, sessions: Sessions, audit: Audit, kept: KeptRefusals, limits: Limits
    ) -> None:
        self._mint = mint
        self._sessions = sessions
        self._audit = audit
        self._kept = kept
        self._limits = limits
        self._signing = Signing(mint)
        self.refused: Counter[str] = Counter()

    def begin(self) -> None:
        """Forget what a transaction that was rolled back wanted signed."""
        self._signing.begin()

    def committed(self) -> None:
        """Count what goes to the pool now."""
        self._signing.committed()

    # --- asked -----------------------------------------------------------------------------------------

    def withdraw(
        self, tx: Tx, session: Session, request: messages.Withdraw, now: int, _random: Random
    ) -> list[ToSession | Job]:
        """Check balance and tickets, and have the mint sign. Raises `RefusedError`."""
        owner = self._sessions.require_owner(tx, session)
        asked = Asked.of(session, request, [*request.coins, *request.tickets])
        if (response := operations.answered(tx, asked.key, asked.content_hash)) is not None:
            return [ToSession(session.sid, response)]
        self._check_withdraw(tx, demand_open(owner), request, now)
        return list(self._signing.jobs([self._signing.admit(self._demand_new(tx, asked))]))

    def claim(
        self, tx: Tx, session: Session, request: messages.ClaimRefund, now: int, _random: Random
    ) -> list[ToSession | Job]:
        """Check that this secret may have a refund, and have the mint sign. Raises `RefusedError`."""
        asked = Asked.of(session, request, request.blinded)
        if (response := operations.answered(tx, asked.key, asked.content_hash)) is not None:
            return [ToSession(session.sid, response)]
        self._check_claim(tx, request, now)
        return list(self._signing.jobs([self._signing.admit(self._demand_new(tx, asked))]))

    def swaps(self, tx: Tx, arrivals: Sequence[Arrival], now: int, _random: Random) -> list[ToSession | Job]:
        """Check that sums are equal and coins unspent, and have the mint sign."""
        wanted = [Asked.of(arrival.sender, arrival.body, arrival.body.blinded) for arrival in arrivals]
        stored = operations.stored(tx, [each.key for each in wanted])
        refused = self._kept.of_operations(tx, wanted, now)
        sends: list[Any] = []
        asked: list[Asked] = []
        for each in wanted:
            try:
                if (response := operations.repeated(stored.get(each.key), each.content_hash)) is not None:
                    sends.append(ToSession(each.session.sid, response))
                elif (refusal := refused.get(each.content_hash)) is not None:
                    sends.append(ToSession(each.session.sid, refusal))
                else:
                    asked.append(self._check_swap(each, now))
            except RefusedError as error:
                sends += self._refuse(tx, each, error, now)
        # Else a coin that is spent would be signed for, in vain, as often as anybody asked.
        late: set[bytes] = set()
        for wave in one_of_each_id(asked, lambda each: each):
            losers = spent_by_others(tx, {each.key: each.spent for each in wave if each.spent is not None})
            late |= {each.content_hash for each in wave if each.key in losers}
        # By their content: whoever knows an id could have something refused under it otherwise.
        again = signed_once.wanted_again(tx, [(each.content_hash, each.marks) for each in asked])
        admitted: list[Asked] = []
        for each in asked:
            if each.content_hash in late or each.content_hash in again:
                code = "double_spend" if each.content_hash in late else "already_signed"
                sends += self._refuse(tx, each, RefusedError(code), now)
                continue
            try:
                admitted.append(self._signing.admit(each))
            except RefusedError as error:
                sends += self._refuse(tx, each, error, now)
        return [*sends, *self._signing.jobs(admitted)]

    def _refuse(self, tx: Tx, asked: Asked, error: RefusedError, now: int) -> Sequence[Any]:
        self.refused[error.code] += 1
        return self._kept.refuse(tx, asked.session, asked.request, error, now)

    # --- checked, before and after ---------------------------------------------------------------------

    def _check_withdraw(
        self, tx: Tx, account: int, request: messages.Withdraw, now: int
    ) -> Mapping[int, int]:
        coins = self._mint.check_blinded(request.coins, "coin", now)
        self._mint.check_blinded(request.tickets, "ticket", now)
        if not request.coins and not request.tickets:
            raise RefusedError("wrong_amount")
        if sum(coins.values()) > ledger.balance(tx, account):
            raise RefusedError("insufficient_funds")
        if len(request.tickets) > self.tickets_left(tx, account, now):
            raise RefusedError("out_of_tickets")
        return coins

    def _check_swap(self, asked: Asked, now: int) -> Asked:
        if not isinstance(asked.request, messages.Swap):
            raise TypeError("not a swap")
        spent = self._mint.verify(asked.request.coins, "coin", now, exchange=True)
        made = self._mint.check_blinded(asked.blinded, "coin", now)
        if spent.total != sum(made.values()):
            raise RefusedError("wrong_amount")
        return replace(asked, spent=spent, made=made, marks=self._marks(asked))

    def _check_claim(self, tx: Tx, request: messages.ClaimRefund, now: int) -> tuple[Row, Mapping[int, int]]:
        order = order_rows.check_claim(order_rows.get(tx, request.order_id), request.claim_secret)
        left = order["refunded"] - order["claimed"]
        if not left:
            raise RefusedError("wrong_state")
        made = self._mint.check_blinded(request.blinded, "coin", now)
        if sum(made.values()) > left:
            raise RefusedError("wrong_amount")
        return order, made

    def _demand_new(self, tx: Tx, asked: Asked) -> Asked:
        """Note which values are to be signed. Raises `RefusedError` where one of them was before."""
        marked = replace(asked, marks=self._marks(asked))
        if signed_once.wanted_again(tx, [(asked.key, marked.marks)]):
            raise RefusedError("already_signed")
        return marked

    def _marks(self, asked: Asked) -> tuple[bytes, ...]:
        return signed_once.marks_of(self._mint.issuers, asked.blinded)

    def tickets_left(self, tx: Tx, account: int, now: int) -> int:
        """How many tickets the account may still draw today."""
        row = tx.first(_TICKETS, {"of": account, "today": now // DAY_MS})
        return max(0, self._limits.tickets_per_day - (0 if row is None else row["issued"]))

    # --- signed ----------------------------------------------------------------------------------------

    def signed(self, tx: Tx, arrivals: Sequence[Arrival], now: int, random: Random) -> list[ToSession]:
        """Debit, spend, and store the signatures: the one transaction."""
        results: list[Signed] = [arrival.body for arrival in arrivals]
        # A copy may have been refused meanwhile, or the swap searched for in vain: whoever asked gave it up.
        gone = self._kept.of_operations(tx, [result.asked for result in results], now)
        sends: list[Any] = [
            ToSession(result.asked.session.sid, gone[result.asked.content_hash])
            for result in results
            if result.asked.content_hash in gone
        ]
        results = [result for result in results if result.asked.content_hash not in gone]
        # Of two contents under one id the second is looked at when the first has been: it may be refused.
        for wave in one_of_each_id(results, lambda result: result.asked):
            sends += self._signed(tx, wave, now, random)
        return sends

    def _signed(self, tx: Tx, results: Sequence[Signed], now: int, random: Random) -> list[Any]:
        """Do so with results that have one content for each id."""
        sends: list[Any] = []
        stored = operations.stored(tx, [result.asked.key for result in results])
        refused = self._spend(tx, results, stored)
        issued: list[Asked] = []
        for result in results:
            asked = result.asked
            try:
                if (response := operations.repeated(stored.get(asked.key), asked.content_hash)) is None:
                    if asked.key in refused:
                        raise refused[asked.key]
                    response = self._finish(tx, result, now, random)
                    stored[asked.key] = operations.store(tx, asked.key, asked.content_hash, response)
                    issued.append(asked)
                sends.append(ToSession(asked.session.sid, response))
            except RefusedError as error:
                refused.setdefault(asked.key, error)
                sends += self._refuse(tx, asked, error, now)
        self._mint.count_issued(tx, [blinded for asked in issued for blinded in asked.blinded])
        signed_once.note(tx, [mark for asked in issued for mark in asked.marks])
        return sends

    @staticmethod
    def _spend(tx: Tx, results: Sequence[Signed], stored: Collection[bytes]) -> dict[bytes, RefusedError]:
        """Spend what the new ones pay with; gives the reasons of those that may not, by their keys."""
        # Of two with one key here the first counts, the second is its repetition.
        first = {result.asked.key: result for result in reversed(results)}
        new = [
            result.asked
            for result in results
            if first[result.asked.key] is result
            and result.asked.key not in stored
            and result.signatures is not None
        ]
        again = signed_once.wanted_again(tx, [(asked.key, asked.marks) for asked in new])
        paying = {asked.key: asked.spent for asked in new if asked.spent is not None}
        losers = spend(tx, {key: spent for key, spent in paying.items() if key not in again})
        return {
            **dict.fromkeys(again, RefusedError("already_signed")),
            **dict.fromkeys(losers, RefusedError("double_spend")),
        }

    def _finish(self, tx: Tx, result: Signed, now: int, random: Random) -> Response:
        if result.signatures is None:
            raise RefusedError("bad_token")
        return _FINISH[type(result.asked.request)](self, tx, result.asked, result.signatures, now, random)

    def _finish_withdraw(
        self, tx: Tx, asked: Asked, signatures: Sequence[bytes], now: int, random: Random
    ) -> Response:
        request = asked.request
        if not isinstance(request, messages.Withdraw):
            raise TypeError("not a withdrawal")
        account = self._sessions.require_account(tx, asked.session)
        coins = self._check_withdraw(tx, account, request, now)
        total = sum(coins.values())
        ledger.change_balance(tx, account, -total)
        ledger.post(tx, random(16), {ledger.account_book(account): -total, **_books(coins, 1)}, now)
        self._count_tickets(tx, account, len(request.tickets), now)
        recovery.note_issued(tx, account, asked.key, now)
        split = len(request.coins)
        return messages.Withdrawn(
            operation=request.operation,
            coins=list(signatures[:split]),
            tickets=list(signatures[split:]),
            balance=ledger.balance(tx, account),
        )

    def _finish_swap(
        self, tx: Tx, asked: Asked, signatures: Sequence[bytes], now: int, random: Random
    ) -> Response:
        request, spent = asked.request, asked.spent
        if not isinstance(request, messages.Swap) or spent is None:
            raise TypeError("not a swap")
        ledger.post(tx, random(16), _net(_books(spent.by_value, -1), _books(asked.made, 1)), now)
        return messages.Swapped(operation=request.operation, signatures=list(signatures))

    def _finish_claim(
        self, tx: Tx, asked: Asked, signatures: Sequence[bytes], now: int, random: Random
    ) -> Response:
        request = asked.request
        if not isinstance(request, messages.ClaimRefund):
            raise TypeError("not a claim")
        order, made = self._check_claim(tx, request, now)
        total, state = sum(made.values()), order["state"]
        # Whom its merchant was never paid for has all of it back now; the other orders had their step before.
        whole = state == "refundable" and order["claimed"] + total == order["amount"]
        new = step(BROKER_ORDER, state, "refunded") if whole else state
        change = {"of": request.order_id, "old": state, "new": new, "more": total}
        if tx.changed(_CLAIM, change) != 1:
            raise RefusedError("wrong_state")
        ledger.post(tx, random(16), {ledger.ESCROW: -total, **_books(made, 1)}, now)
        recovery.note_claim(tx, request.order_id, asked.key)
        if whole:
            self._audit.order_step(tx, new, order, now, random)
        return messages.RefundIssued(operation=request.operation, signatures=list(signatures))

    @staticmethod
    def _count_tickets(tx: Tx, account: int, count: int, now: int) -> None:
        if not count:
            return
        today = now // DAY_MS
        if not tx.each(_MORE_TICKETS, [{"of": account, "today": today, "more": count}]):
            tx.insert(_FIRST_TICKETS, {"account": account, "day": today, "issued": count})


_Finish: TypeAlias = Callable[[Exchange, Tx, Asked, Sequence[bytes], int, Random], Response]
_FINISH: Mapping[type, _Finish] = {
    messages.Withdraw: Exchange._finish_withdraw,  # noqa: SLF001 - the table belongs to the class
    messages.Swap: Exchange._finish_swap,  # noqa: SLF001
    messages.ClaimRefund: Exchange._finish_claim,  # noqa: SLF001
}


def _books(by_value: Mapping[int, int], sign: int) -> dict[str, int]:
    return {ledger.coins_book(value): sign * amount for value, amount in by_value.items()}


def _net(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {book: one.get(book, 0) + other.get(book, 0) for book in {*one, *other}}
