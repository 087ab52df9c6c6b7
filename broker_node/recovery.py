"""What a wallet that lost its disk asks for: signatures that were handed out once, handed out again.

    account scope   BeginRestore, FetchIssued     what this account drew
    shop scope      RepeatSwap, FindOrder         one swap, or one order with its refund claims

Rule 1. Nothing is signed here and nothing moves: these are answers out of the store, of no use to anybody
who does not have the seed that blinded them.

Rule 2. Nothing in account scope names a swap, an order or a spent mark; nothing in shop scope an account.

Rule 3. `not_found` is the last word: the transaction that says so gives the swap or order up
(`kept_refusals`), since a copy of it may be under way, or be signed at this moment.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any, Final

import sqlalchemy as sa

from broker_node import operations, schema
from broker_node.kept_refusals import KeptRefusals, order_by_id, swap_by_id
from broker_node.mint import owner_of
from broker_node.sends import Session, ToSession
from broker_node.sessions import Sessions
from common import codec, config, messages, slots
from common.clock import Random
from common.errors import RefusedError
from common.store import Tx

MOST_RESTORES: Final = 1000
"""How often one account may begin: each leaves a row."""

_ISSUED: Final = sa.insert(schema.issued)
_CLAIM: Final = sa.insert(schema.claims)
_ORDER: Final = sa.select(schema.orders).where(schema.orders.c.order_id == sa.bindparam("wanted"))
_RESPONSE: Final[codec.Codec[operations.Response]] = codec.Codec(operations.Response)


def note_issued(tx: Tx, account: int, key: bytes, now: int) -> None:
    """Remember which account a withdrawal's signatures went to."""
    tx.insert(_ISSUED, {"account": account, "operation": key, "month": slots.month_of(now)})


def note_claim(tx: Tx, order_id: bytes, key: bytes) -> None:
    """Remember which order a claim's signatures were for."""
    tx.insert(_CLAIM, {"operation": key, "order_id": order_id})


class Recovery:
    """Answers out of the store."""

    def __init__(self, sessions: Sessions, kept: KeptRefusals) -> None:
        self._sessions = sessions
        self._kept = kept

    # --- account scope ---------------------------------------------------------------------------------

    def begin(
        self, tx: Tx, session: Session, request: messages.BeginRestore, _now: int, _random: Random
    ) -> list[Any]:
        """Count how often a wallet of this account was restored. Raises `RefusedError`."""
        account = self._sessions.require_owner(tx, session).account
        begun = schema.restores
        rows = tx.all(sa.select(begun).where(begun.c.account == account).order_by(begun.c.count))
        counts = {row["operation"]: row["count"] for row in rows}
        count = counts.get(request.operation, len(counts) + 1)
        if count > MOST_RESTORES:
            raise RefusedError("policy")
        if request.operation not in counts:
            tx.insert(sa.insert(begun), {"account": account, "operation": request.operation, "count": count})
        return [ToSession(session.sid, messages.RestoreBegun(operation=request.operation, count=count))]

    def fetch_issued(
        self, tx: Tx, session: Session, request: messages.FetchIssued, now: int, _random: Random
    ) -> list[Any]:
        """Give a page of what this account drew, of the months whose tokens may still count."""
        account = self._sessions.require_owner(tx, session).account
        oldest = slots.previous_month(slots.previous_month(slots.month_of(now)))
        issued = schema.issued
        page = config.ISSUED_PER_PAGE
        rows = tx.all(
            sa.select(issued.c.number, schema.operations.c.response)
            .join(schema.operations, schema.operations.c.id == issued.c.operation)
            .where(issued.c.account == account, issued.c.month >= oldest, issued.c.number > request.after)
            .order_by(issued.c.number)
            .limit(page + 1)
        )
        batches = [_batch(row["number"], row["response"]) for row in rows[:page]]
        issued_now = messages.Issued(request=request.request, batches=batches, more=len(rows) > page)
        return [ToSession(session.sid, issued_now)]

    # --- shop scope ------------------------------------------------------------------------------------

    def repeat_swap(
        self, tx: Tx, session: Session, request: messages.RepeatSwap, now: int, _random: Random
    ) -> list[Any]:
        """Answer a swap again, by its id alone. Raises `RefusedError` where there was none."""
        key = owner_of("swap", request.operation)
        row = operations.stored(tx, [key]).get(key)
        if row is None:
            self._kept.give_up(tx, session, swap_by_id(request.operation), request.operation, now)
            raise RefusedError("not_found")
        return [ToSession(session.sid, _RESPONSE.unpack(row["response"]))]

    def find_order(
        self, tx: Tx, session: Session, request: messages.FindOrder, now: int, _random: Random
    ) -> list[Any]:
        """Tell where an order stands and what its refund claims were answered. Raises `RefusedError`."""
        order = tx.one(_ORDER, {"wanted": request.order_id})
        lock = hashlib.sha256(request.claim_secret).digest()
        if order is None:
            self._kept.give_up(tx, session, order_by_id(request.order_id, lock), request.order_id, now)
            raise RefusedError("not_found")
        if not hmac.compare_digest(lock, order["claim_lock"]):
            raise RefusedError("wrong_secret")
        claims, page = schema.claims, config.CLAIMS_PER_PAGE
        rows = tx.all(
            sa.select(schema.operations.c.response)
            .join(claims, schema.operations.c.id == claims.c.operation)
            .where(claims.c.order_id == request.order_id)
            .order_by(claims.c.number)
            .offset(request.after)
            .limit(page + 1)
        )
        found = messages.OrderFound(
            order_id=request.order_id,
            state=order["state"],
            amount=order["amount"],
            deadline=order["deadline"],
            due=order["refunded"] - order["claimed"],
            claims=[_signatures(row["response"]) for row in rows[:page]],
            more=len(rows) > page,
        )
        return [ToSession(session.sid, found)]


def _batch(number: int, response: bytes) -> messages.IssuedBatch:
    answer = _RESPONSE.unpack(response)
    if not isinstance(answer, messages.Withdrawn):
        raise TypeError("not a withdrawal's answer")
    return messages.IssuedBatch(number=number, coins=answer.coins, tickets=answer.tickets)


def _signatures(response: bytes) -> list[bytes]:
    answer = _RESPONSE.unpack(response)
    if not isinstance(answer, messages.RefundIssued):
        raise TypeError("not a claim's answer")
    return answer.signatures
