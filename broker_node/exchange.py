"""Money against coins: withdraw (balance to coins), swap (coins to coins), refund (escrow to coins).

Rule 1. Each is an operation with an id of its own. The same bytes again get the same signatures; other
bytes under the same id are a conflict. Ids are kept per kind, so that nobody can occupy another kind's.

Rule 2. Signing is slow and runs in a pool. What it rests on is checked before, to fail early, and again
in the one transaction that debits, spends and stores the signatures; until then none leaves the broker.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import sqlalchemy as sa

from broker_node import ledger, schema
from broker_node.audit import Audit
from broker_node.mint import Checked, Mint, owner_of, spend
from broker_node.sends import Session, ToSession
from broker_node.sessions import Sessions
from common import codec, messages
from common.clock import Random
from common.config import DAY_MS, Limits
from common.errors import MalformedError, RefusedError
from common.node import Arrival, Job
from common.states import BROKER_ORDER, sources
from common.store import Row, Tx

Request: TypeAlias = messages.Withdraw | messages.Swap | messages.ClaimRefund
Response: TypeAlias = messages.Withdrawn | messages.Swapped | messages.RefundIssued

JOBS_WAITING = 256
JOBS_OF_A_SESSION = 4
"""So that nobody fills the pool alone, or has one coin signed for in many swaps of which one can win."""

_RESPONSE: codec.Codec[Response] = codec.Codec(Response)
_OPERATION = sa.insert(schema.operations)
_STORED = sa.select(schema.operations).where(schema.operations.c.id == sa.bindparam("key"))
_ORDER = sa.select(schema.orders).where(schema.orders.c.order_id == sa.bindparam("wanted"))


@dataclass(frozen=True, slots=True)
class Signed:
    """Blind signatures that came back from the pool; None where the mint refused a blinded value."""

    request: Request
    signatures: Sequence[bytes] | None = field(repr=False)


class Exchange:
    """Withdraw, swap and refund."""

    def __init__(self, mint: Mint, sessions: Sessions, audit: Audit, limits: Limits) -> None:
        self._mint = mint
        self._sessions = sessions
        self._audit = audit
        self._limits = limits
        self._signing: Counter[bytes] = Counter()
        """Jobs of each session in the pool."""
        self._to_sign: list[bytes] = []

    def begin(self) -> None:
        """Forget what a transaction that was rolled back wanted signed."""
        self._to_sign.clear()

    def committed(self) -> None:
        """Count what goes to the pool now."""
        self._signing.update(self._to_sign)
        self._to_sign.clear()

    # --- asked -----------------------------------------------------------------------------------------

    def withdraw(
        self, tx: Tx, session: Session, request: messages.Withdraw, now: int, _random: Random
    ) -> list[ToSession | Job]:
        """Check balance and tickets, and have the mint sign. Raises `RefusedError`."""
        account = self._sessions.require_account(tx, session)
        if (stored := self._repeated(tx, "withdraw", request.operation, request)) is not None:
            return [ToSession(session.sid, stored)]
        self._check_withdraw(tx, account, request, now)
        return [self._sign(session, request, [*request.coins, *request.tickets])]

    def swap(
        self, tx: Tx, session: Session, request: messages.Swap, now: int, _random: Random
    ) -> list[ToSession | Job]:
        """Check that sums are equal, and have the mint sign. Raises `RefusedError`."""
        if (stored := self._repeated(tx, "swap", request.operation, request)) is not None:
            return [ToSession(session.sid, stored)]
        self._check_swap(request, now)
        return [self._sign(session, request, request.blinded)]

    def claim(
        self, tx: Tx, session: Session, request: messages.ClaimRefund, now: int, _random: Random
    ) -> list[ToSession | Job]:
        """Check that this secret may have a refund, and have the mint sign. Raises `RefusedError`."""
        if (stored := self._repeated(tx, "refund", request.order_id, request)) is not None:
            return [ToSession(session.sid, stored)]
        self._check_claim(tx, request, now)
        return [self._sign(session, request, request.blinded)]

    def _sign(self, session: Session, request: Request, blinded: Sequence[messages.BlindedToken]) -> Job:
        mine = self._signing[session.sid] + self._to_sign.count(session.sid)
        if mine >= JOBS_OF_A_SESSION or self._signing.total() + len(self._to_sign) >= JOBS_WAITING:
            raise RefusedError("busy")
        self._to_sign.append(session.sid)

        def work() -> Sequence[bytes] | None:
            try:
                return self._mint.sign(blinded)
            except MalformedError:
                return None

        def done(signatures: Sequence[bytes] | None) -> Arrival:
            self._signing -= Counter([session.sid])
            return Arrival(session, b"", Signed(request, signatures))

        return Job("mint", work, done)

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

    def _check_swap(self, request: messages.Swap, now: int) -> tuple[Checked, Mapping[int, int]]:
        spent = self._mint.verify(request.coins, "coin", now)
        made = self._mint.check_blinded(request.blinded, "coin", now)
        if spent.total != sum(made.values()):
            raise RefusedError("wrong_amount")
        return spent, made

    def _check_claim(self, tx: Tx, request: messages.ClaimRefund, now: int) -> tuple[Row, Mapping[int, int]]:
        order = tx.one(_ORDER, {"wanted": request.order_id})
        if order is None:
            raise RefusedError("not_found")
        lock = hashlib.sha256(request.claim_secret).digest()
        if not hmac.compare_digest(lock, order["claim_lock"]):
            raise RefusedError("wrong_secret")
        if order["state"] not in sources(BROKER_ORDER, "refunded"):
            raise RefusedError("wrong_state")
        made = self._mint.check_blinded(request.blinded, "coin", now)
        if sum(made.values()) != order["amount"]:
            raise RefusedError("wrong_amount")
        return order, made

    def tickets_left(self, tx: Tx, account: int, now: int) -> int:
        """How many tickets the account may still draw today."""
        issued = tx.scalar(
            sa.select(schema.ticket_days.c.issued)
            .where(schema.ticket_days.c.account == account)
            .where(schema.ticket_days.c.day == now // DAY_MS)
        )
        return max(0, self._limits.tickets_per_day - int(issued or 0))

    # --- signed ----------------------------------------------------------------------------------------

    def signed(self, tx: Tx, session: Session, result: Signed, now: int, random: Random) -> list[ToSession]:
        """Debit, spend, and store the signatures: the one transaction. Raises `RefusedError`."""
        if result.signatures is None:
            raise RefusedError("bad_token")
        finish = _FINISH[type(result.request)]
        return [ToSession(session.sid, finish(self, tx, session, result, now, random))]

    def _finish_withdraw(
        self, tx: Tx, session: Session, result: Signed, now: int, _random: Random
    ) -> messages.Message:
        request, signatures = result.request, result.signatures or ()
        if not isinstance(request, messages.Withdraw):
            raise TypeError("not a withdrawal")
        account = self._sessions.require_account(tx, session)
        if (stored := self._repeated(tx, "withdraw", request.operation, request)) is not None:
            return stored
        coins = self._check_withdraw(tx, account, request, now)
        total, key = sum(coins.values()), owner_of("withdraw", request.operation)
        ledger.change_balance(tx, account, -total)
        ledger.post(tx, key, {ledger.account_book(account): -total, **_books(coins, 1)}, now)
        self._count_tickets(tx, account, len(request.tickets), now)
        self._mint.count_issued(tx, [*request.coins, *request.tickets])
        split = len(request.coins)
        response = messages.Withdrawn(
            operation=request.operation,
            coins=list(signatures[:split]),
            tickets=list(signatures[split:]),
            balance=ledger.balance(tx, account),
        )
        return _store(tx, key, request, response)

    def _finish_swap(
        self, tx: Tx, _session: Session, result: Signed, now: int, _random: Random
    ) -> messages.Message:
        request, signatures = result.request, result.signatures or ()
        if not isinstance(request, messages.Swap):
            raise TypeError("not a swap")
        if (stored := self._repeated(tx, "swap", request.operation, request)) is not None:
            return stored
        spent, made = self._check_swap(request, now)
        key = owner_of("swap", request.operation)
        if spend(tx, {key: spent}):
            raise RefusedError("double_spend")
        ledger.post(tx, key, _net(_books(spent.by_value, -1), _books(made, 1)), now)
        self._mint.count_issued(tx, request.blinded)
        response = messages.Swapped(operation=request.operation, signatures=list(signatures))
        return _store(tx, key, request, response)

    def _finish_claim(
        self, tx: Tx, _session: Session, result: Signed, now: int, random: Random
    ) -> messages.Message:
        request, signatures = result.request, result.signatures or ()
        if not isinstance(request, messages.ClaimRefund):
            raise TypeError("not a claim")
        if (stored := self._repeated(tx, "refund", request.order_id, request)) is not None:
            return stored
        order, made = self._check_claim(tx, request, now)
        steps = tx.changed(
            sa.update(schema.orders)
            .where(schema.orders.c.order_id == request.order_id)
            .where(schema.orders.c.state.in_(sources(BROKER_ORDER, "refunded")))
            .values(state="refunded", claimed=schema.orders.c.amount)
        )
        if steps != 1:
            raise RefusedError("wrong_state")
        key = owner_of("refund", request.order_id)
        ledger.post(tx, key, {ledger.ESCROW: -order["amount"], **_books(made, 1)}, now)
        self._mint.count_issued(tx, request.blinded)
        self._audit.order_step(tx, "refunded", order, now, random)
        response = messages.RefundIssued(order_id=request.order_id, signatures=list(signatures))
        return _store(tx, key, request, response)

    @staticmethod
    def _count_tickets(tx: Tx, account: int, count: int, now: int) -> None:
        if not count:
            return
        where = (schema.ticket_days.c.account == account, schema.ticket_days.c.day == now // DAY_MS)
        updated = tx.changed(
            sa.update(schema.ticket_days).where(*where).values(issued=schema.ticket_days.c.issued + count)
        )
        if not updated:
            row = {"account": account, "day": now // DAY_MS, "issued": count}
            tx.insert(sa.insert(schema.ticket_days), row)

    @staticmethod
    def _repeated(tx: Tx, kind: str, identifier: bytes, request: Request) -> messages.Message | None:
        stored = tx.one(_STORED, {"key": owner_of(kind, identifier)})
        if stored is None:
            return None
        if stored["content_hash"] != _content_hash(request):
            raise RefusedError("idempotency_conflict")
        return _RESPONSE.unpack(stored["response"])


_FINISH: Mapping[type, Callable[[Exchange, Tx, Session, Signed, int, Random], messages.Message]] = {
    messages.Withdraw: Exchange._finish_withdraw,  # noqa: SLF001 - the table belongs to the class
    messages.Swap: Exchange._finish_swap,  # noqa: SLF001
    messages.ClaimRefund: Exchange._finish_claim,  # noqa: SLF001
}


def _content_hash(request: Request) -> bytes:
    return hashlib.sha256(codec.pack(request)).digest()


def _store(tx: Tx, key: bytes, request: Request, response: messages.Message) -> messages.Message:
    row = {"id": key, "content_hash": _content_hash(request), "response": codec.pack(response)}
    tx.insert(_OPERATION, row)
    return response


def _books(by_value: Mapping[int, int], sign: int) -> dict[str, int]:
    return {ledger.coins_book(value): sign * amount for value, amount in by_value.items()}


def _net(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {book: one.get(book, 0) + other.get(book, 0) for book in {*one, *other}}
