"""A merchant's money: its statement, and payouts of what is available.

    RequestPayout -> requested --operator--> confirmed      available -> reserved -> payouts
                     requested --operator--> rejected       available -> reserved -> available

Rule 1. What is asked for is reserved in the same transaction, so that nothing can be paid out twice, and
leaves the books when the operator says that it was paid. The operator pays by other means than this.

Rule 2. A request has an id that the merchant makes. The same bytes again are told where it stands; other
bytes are a conflict, and so is an id that another merchant has used, or an order: what is posted under an
order's id counts as that order's.

Rule 3. Where the money goes is the merchant's own text. It is in the row alone, for the operator to read.

Rule 4. A merchant sees the lines of its own statement and their numbers, never those of the postings,
which would tell how busy the market is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import sqlalchemy as sa

from broker_node import ledger, operator_actions, order_rows, schema
from broker_node.audit import Audit
from broker_node.postings import MERCHANT_BOOKS
from broker_node.sends import Session, ToMerchant
from common import codec, config, messages
from common.clock import Random
from common.config import Limits
from common.errors import NotFoundError, RefusedError, RejectedError
from common.slots import minute_of
from common.states import PAYOUT, sources
from common.store import Row, Tx

Decision: TypeAlias = Literal["confirmed", "rejected"]

_PAYOUT: Final = sa.insert(schema.payouts)
_FIND: Final = sa.select(schema.payouts).where(schema.payouts.c.payout_id == sa.bindparam("wanted"))
_LINES: Final = (
    sa.select(schema.merchant_lines, schema.postings.c.reference, schema.postings.c.at)
    .join(schema.postings, schema.postings.c.posting == schema.merchant_lines.c.posting)
    .where(schema.merchant_lines.c.merchant == sa.bindparam("of"))
    .where(schema.merchant_lines.c.line > sa.bindparam("after"))
    .order_by(schema.merchant_lines.c.line)
    .limit(config.STATEMENT_LINES)
)


class Payouts:
    """Answers merchants."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def statement(
        self, tx: Tx, session: Session, question: messages.GetStatement, _now: int, _random: Random
    ) -> list[ToMerchant]:
        """Give a merchant the next lines of its statement."""
        merchant = _merchant_of(session)
        rows = tx.rows(_LINES, {"of": merchant, "after": question.after})
        statement = messages.Statement(
            request=question.request,
            after=question.after,
            lines=[_line(row) for row in rows],
            last=ledger.sums(tx, merchant).line,
            commission_basis_points=self._limits.commission_basis_points,
        )
        return [ToMerchant(merchant, statement)]

    def request(
        self, tx: Tx, session: Session, request: messages.RequestPayout, now: int, _random: Random
    ) -> list[ToMerchant]:
        """Reserve what a merchant wants paid out, or say where that stands. Raises `RefusedError`."""
        merchant = _merchant_of(session)
        return [ToMerchant(merchant, _requested(tx, merchant, request, now))]


def _requested(tx: Tx, merchant: str, request: messages.RequestPayout, now: int) -> messages.PayoutAnswer:
    content_hash = hashlib.sha256(codec.pack(request)).digest()
    row = tx.one(_FIND, {"wanted": request.payout_id})
    if row is not None:
        if (row["merchant"], row["content_hash"]) != (merchant, content_hash):
            raise RefusedError("idempotency_conflict")
        return messages.PayoutAnswer(
            payout_id=request.payout_id, state=row["state"], reason=row["reason"] or ""
        )
    if order_rows.by_id(tx, [request.payout_id]):
        raise RefusedError("idempotency_conflict")
    ledger.require_available(tx, merchant, request.amount)
    entries = {
        ledger.available_book(merchant): -request.amount,
        ledger.reserved_book(merchant): request.amount,
    }
    ledger.post(tx, request.payout_id, entries, now)
    row = {
        "payout_id": request.payout_id,
        "merchant": merchant,
        "amount": request.amount,
        "destination": request.destination,
        "content_hash": content_hash,
        "state": "requested",
        "requested": now,
    }
    tx.insert(_PAYOUT, row)
    return messages.PayoutAnswer(payout_id=request.payout_id, state="requested", reason="")


def _merchant_of(session: Session) -> str:
    if session.merchant is None:
        raise TypeError("a message of the merchant scope in another one")
    return session.merchant


def _line(row: Row) -> messages.StatementLine:
    names = ("line", "kind", "reference", *MERCHANT_BOOKS)
    return messages.StatementLine(at=minute_of(row["at"]), **{name: row[name] for name in names})


# --- what the operator does ----------------------------------------------------------------------------


@dataclass(frozen=True)
class PayoutView:
    """A payout as its operator sees it; times in milliseconds."""

    payout_id: bytes
    merchant: str
    amount: int
    destination: str = field(repr=False)
    state: str
    requested: int
    decided: int | None
    reason: str | None


def listing(tx: Tx, state: str | None = None) -> Sequence[PayoutView]:
    """Give all payouts, or those in one state, the oldest first."""
    query = sa.select(schema.payouts).order_by(schema.payouts.c.requested, schema.payouts.c.payout_id)
    if state is not None:
        query = query.where(schema.payouts.c.state == state)
    return [_view(row) for row in tx.all(query)]


def decide(
    tx: Tx, audit: Audit, payout_id: bytes, decision: Decision, reason: str, now: int, random: Random
) -> PayoutView:
    """Take a payout out of the books, or make it available again.

    Raises `NotFoundError`, and `RejectedError` where it was decided before.
    """
    row = tx.one(_FIND, {"wanted": payout_id})
    if row is None:
        raise NotFoundError("There is no such payout.", "`veilmart broker payout list` shows all.")
    steps = tx.changed(
        sa.update(schema.payouts)
        .where(schema.payouts.c.payout_id == payout_id)
        .where(schema.payouts.c.state.in_(sources(PAYOUT, decision)))
        .values(state=decision, decided=now, reason=reason.strip())
    )
    if steps != 1:
        raise RejectedError(f"This payout is {row['state']} already: nothing was changed.")
    merchant, amount = row["merchant"], row["amount"]
    target = ledger.PAYOUTS if decision == "confirmed" else ledger.available_book(merchant)
    ledger.post(tx, payout_id, {ledger.reserved_book(merchant): -amount, target: amount}, now)
    action: Any = {"confirmed": "payout.confirm", "rejected": "payout.reject"}[decision]
    operator_actions.record(tx, audit, action, payout_id.hex(), reason, now, random)
    return _view({**row, "state": decision, "decided": now, "reason": reason.strip()})


def _view(row: Row) -> PayoutView:
    names = ("payout_id", "merchant", "amount", "destination", "state", "requested", "decided", "reason")
    return PayoutView(**{name: row[name] for name in names})
