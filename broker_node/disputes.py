"""Disputes: a paid order whose customer says that it got nothing, or something else.

    captured --OpenDispute--> disputed --proof, operator, merchant--> refunded
                                 +------operator------------------> settled

Rule 1. While an order is disputed nothing of it settles: what is left of it lies in the merchant's pending
book, until somebody gives it back or it is decided.

Rule 2. Where the evidence is a proof (`evidence`) the dispute is decided in the transaction that opens it.
Everything else is decided by the market's operator, who reads what both sides say. Evidence that counts for
nothing freezes the money like none, is told as such to operator and customer, and is not kept.

Rule 3. Evidence shows what was bought, and so may what both sides say. All of it is stored for the operator
alone, and erased `answer_kept_ms` after the end; no event, log or other message has anything of it. What the
customer claims to have got (`arrived`) its merchant is told too, to answer it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import sqlalchemy as sa

from broker_node import ledger, operator_actions, order_rows, schema
from broker_node.audit import Audit
from broker_node.evidence import NOT_SHOWN, Finding, finding
from broker_node.keys import BrokerKeys
from broker_node.refunds import close_dispute, give_back
from broker_node.sends import Session, ToMerchant
from broker_node.telling import Send, Telling
from common import codec, messages
from common.clock import Random
from common.config import Limits
from common.errors import NotFoundError, RefusedError, RejectedError
from common.states import BROKER_ORDER, step
from common.store import Row, Tx

Decision: TypeAlias = Literal["refunded", "settled"]

_DISPUTE: Final = sa.insert(schema.disputes)
_FIND: Final = sa.select(schema.disputes).where(schema.disputes.c.order_id == sa.bindparam("wanted"))
_FINGERPRINT: Final = sa.select(schema.merchants.c.fingerprint).where(
    schema.merchants.c.id == sa.bindparam("wanted")
)
_ACTIONS: Final[dict[Decision, operator_actions.Action]] = {
    "refunded": "dispute.refund",
    "settled": "dispute.settle",
}
_EVIDENCE: Final[codec.Codec[messages.Evidence]] = codec.Codec(messages.Evidence)
_ARRIVED: Final[codec.Codec[messages.Arrived]] = codec.Codec(messages.Arrived)


@dataclass(frozen=True)
class DisputeView:
    """A dispute as the operator sees it; amounts are minor units, `left` is what it is about.

    `evidence` is signed by the merchant; `arrived` is what the customer claims, unproven.
    """

    order_id: bytes
    merchant: str
    amount: int
    left: int
    kind: str
    state: str
    opened: int
    decide_by: int
    statement: str
    answer: str | None
    finding: str
    reason: str | None
    decided: int | None
    evidence: messages.Evidence | None = field(repr=False)
    arrived: messages.Arrived | None = field(repr=False)


class Disputes:
    """Opens disputes, and takes what merchants say to them."""

    def __init__(self, keys: BrokerKeys, telling: Telling, audit: Audit, limits: Limits) -> None:
        self._keys = keys
        self._telling = telling
        self._audit = audit
        self._limits = limits

    def open(
        self, tx: Tx, session: Session, request: messages.OpenDispute, now: int, random: Random
    ) -> list[Any]:
        """Freeze an order, or tell where its dispute stands. Raises `RefusedError`."""
        row = order_rows.check_claim(order_rows.get(tx, request.order_id), request.claim_secret)
        content_hash = hashlib.sha256(codec.pack(request)).digest()
        present = tx.one(_FIND, {"wanted": request.order_id})
        if present is not None:
            if present["content_hash"] != content_hash:
                raise RefusedError("idempotency_conflict")
            self._telling.remember(request.order_id, session.sid)
            return [self._telling.answer(tx, session.sid, row, now)]
        if row["state"] != "captured":
            raise RefusedError("wrong_state")
        found = self._look_at(tx, row, request.evidence)
        kept = [] if found.weight == "nothing" else request.evidence
        self._telling.remember(request.order_id, session.sid)
        dispute = {
            "order_id": request.order_id,
            "kind": request.kind,
            "state": "open",
            "opened": now,
            "decide_by": now + self._limits.dispute_ms,
            "content_hash": content_hash,
            "statement": request.statement,
            "evidence": codec.pack(kept[0]) if kept else None,
            "arrived": codec.pack(request.arrived[0]) if request.arrived else None,
            "finding": found.text,
            "answer": None,
            "reason": None,
            "decided": None,
        }
        tx.insert(_DISPUTE, dispute)
        disputed = self._freeze(tx, row, now, random)
        told: Send = self._telling.notice(disputed, dispute)
        if found.weight == "proof":
            left = row["amount"] - row["refunded"]
            disputed = give_back(tx, self._audit, disputed, left, now, random, found.text)
            told = self._telling.outcome(disputed)
        return [told, self._telling.answer(tx, session.sid, disputed, now)]

    def _look_at(self, tx: Tx, row: Row, evidence: Sequence[messages.Evidence]) -> Finding:
        if not evidence:
            return NOT_SHOWN
        fingerprint = tx.scalar(_FINGERPRINT, {"wanted": row["merchant"]})
        keys = self._keys
        return finding(row, evidence[0], keys.ca_der, keys.market, fingerprint, keys.currency)

    def _freeze(self, tx: Tx, row: Row, now: int, random: Random) -> Row:
        step(BROKER_ORDER, row["state"], "disputed")
        due = self._telling.first_due(now)
        order_rows.freeze(tx, [{"of": row["order_id"], "next": due}])
        self._audit.order_step(tx, "disputed", row, now, random)
        return {**row, "state": "disputed", "settle_at": None}

    def answer(
        self, tx: Tx, sender: Session, request: messages.AnswerDispute, _now: int, _random: Random
    ) -> list[Send]:
        """Store what a merchant says; the first word counts. Raises `RefusedError`."""
        merchant = sender.merchant or ""
        row = order_rows.get(tx, request.order_id)
        dispute = tx.one(_FIND, {"wanted": request.order_id})
        if row["merchant"] != merchant or dispute is None:
            raise RefusedError("not_found")
        if dispute["answer"] is None and dispute["state"] != "open":
            raise RefusedError("wrong_state")
        if dispute["answer"] not in (None, request.statement):
            raise RefusedError("idempotency_conflict")
        tx.execute(
            sa.update(schema.disputes)
            .where(schema.disputes.c.order_id == request.order_id)
            .values(answer=request.statement)
        )
        return [ToMerchant(merchant, messages.DisputeAnswered(order_id=request.order_id))]

    def sweep(self, tx: Tx, now: int) -> None:
        """Erase evidence, claims, statement and answer of disputes that ended long ago."""
        disputes = schema.disputes.c
        ended = disputes.decided < now - self._limits.answer_kept_ms
        shown = sa.or_(disputes.evidence.is_not(None), disputes.arrived.is_not(None))
        left = sa.or_(shown, disputes.statement != "", disputes.answer != "")
        # The answer stays one, if an empty one: another word of the merchant's does not count any more.
        answer = sa.case((disputes.answer.is_not(None), ""))
        erased = {"evidence": None, "arrived": None, "statement": "", "answer": answer}
        tx.execute(sa.update(schema.disputes).where(ended, left).values(erased))


# --- the operator --------------------------------------------------------------------------------------


def listing(tx: Tx, *, everything: bool) -> Sequence[DisputeView]:
    """Give the open disputes, or all, the oldest first."""
    disputes = schema.disputes.c
    query = sa.select(
        schema.disputes, schema.orders.c.merchant, schema.orders.c.amount, schema.orders.c.refunded
    ).join(schema.orders, schema.orders.c.order_id == disputes.order_id)
    if not everything:
        query = query.where(disputes.state == "open")
    return [_view(row) for row in tx.all(query.order_by(disputes.opened, disputes.order_id))]


def find(tx: Tx, text: str) -> DisputeView:
    """Give the dispute of the order whose hex id begins with `text`. Raises `NotFoundError`."""
    wanted = text.strip().lower()
    found = [each for each in listing(tx, everything=True) if each.order_id.hex().startswith(wanted)]
    if not wanted or len(found) != 1:
        raise NotFoundError(f"no dispute of an order {text!r}", "`veilmart broker dispute list --all`")
    return found[0]


def decide(
    tx: Tx,
    audit: Audit,
    limits: Limits,
    order_id: bytes,
    decision: Decision,
    reason: str,
    now: int,
    random: Random,
) -> DisputeView:
    """Decide an open dispute, as the operator; both sides are told by the running broker.

    Raises `RejectedError` where it is decided already, `UsageError` for a reason that is empty or too long.
    """
    row = order_rows.get(tx, order_id)
    if row["state"] != "disputed":
        raise RejectedError(f"This dispute is decided: the order is {row['state']}.")
    operator_actions.record(tx, audit, _ACTIONS[decision], order_id.hex(), reason, now, random)
    if decision == "refunded":
        give_back(tx, audit, row, row["amount"] - row["refunded"], now, random, reason)
    else:
        order_rows.settle(tx, [row])
        ledger.settle(tx, [row], limits.commission_basis_points, now)
        audit.order_step(tx, "settled", row, now, random)
        close_dispute(tx, order_id, "settled", reason, now)
    # The running broker tells the merchant; the customer learns of it when it asks.
    order_rows.make_due(tx, order_id, now)
    return find(tx, order_id.hex())


def _view(row: Row) -> DisputeView:
    names = ("order_id", "merchant", "amount", "kind", "state", "opened", "decide_by")
    said = ("statement", "answer", "finding", "reason", "decided")
    return DisputeView(
        **{name: row[name] for name in (*names, *said)},
        left=row["amount"] - row["refunded"],
        evidence=None if row["evidence"] is None else _EVIDENCE.unpack(row["evidence"]),
        arrived=None if row["arrived"] is None else _ARRIVED.unpack(row["arrived"]),
    )
