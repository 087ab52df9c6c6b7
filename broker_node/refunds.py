"""Money back: an order called off while it is held, and what its merchant gives back after capture.

    held     --CancelOrder-----------------> refundable    whoever comes first wins: the cancel or the accept
    captured --RefundOrder, a part---------> captured      pending   -> escrow
    settled  --RefundOrder, a part---------> settled       available -> escrow
    captured | settled --all that is left--> refunded      and so a disputed one: the dispute is over

Rule 1. What is given back lies in escrow until the customer claims it in coins (`exchange`), in as many
claims as it likes, and never more than that.

Rule 2. Never more is given back than is left of an order. The refund that takes what is left takes the
order to `refunded`; before, there are ledger entries and no step.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from broker_node import ledger, operations, order_rows, schema
from broker_node.audit import Audit
from broker_node.mint import owner_of
from broker_node.sends import Session, ToMerchant
from broker_node.telling import Send, Telling
from common import messages
from common.clock import Random
from common.errors import RefusedError
from common.states import BROKER_ORDER, step
from common.store import LostStepError, Row, Tx

GIVEN_BACK_FROM: Final = frozenset({"captured", "disputed", "settled"})
BY_MERCHANT: Final = "the merchant gave all of it back"

_GIVE_BACK: Final = (
    sa.update(schema.orders)
    .where(schema.orders.c.order_id == sa.bindparam("of"))
    .where(schema.orders.c.state == sa.bindparam("old"))
    .where(schema.orders.c.refunded + sa.bindparam("more") <= schema.orders.c.amount)
    .values(
        refunded=schema.orders.c.refunded + sa.bindparam("more"),
        state=sa.bindparam("new"),
        settle_at=sa.bindparam("settles"),
    )
)


def close_dispute(tx: Tx, order_id: bytes, outcome: str, reason: str, now: int) -> None:
    """Note how an open dispute ended, and why."""
    tx.execute(
        sa.update(schema.disputes)
        .where(schema.disputes.c.order_id == order_id, schema.disputes.c.state == "open")
        .values(state=outcome, reason=reason, decided=now)
    )


def give_back(
    tx: Tx, audit: Audit, row: Row, amount: int, now: int, random: Random, reason: str = BY_MERCHANT
) -> Row:
    """Post `amount` of what is left of a paid order back to escrow; gives the row as it is then.

    Where that is all of a disputed order the dispute ends, for `reason`.

    Raises `RefusedError`, with nothing written, where the merchant's available money does not cover it.
    """
    left = row["amount"] - row["refunded"]
    if not 0 < amount <= left:
        raise RefusedError("wrong_amount")
    merchant, state = row["merchant"], row["state"]
    if state == "settled":
        ledger.require_available(tx, merchant, amount)
    book = ledger.available_book(merchant) if state == "settled" else ledger.pending_book(merchant)
    ledger.post(tx, row["order_id"], {book: -amount, ledger.ESCROW: amount}, now)
    new = state if amount < left else step(BROKER_ORDER, state, "refunded")
    settles = row["settle_at"] if amount < left else None
    change = {"of": row["order_id"], "old": state, "new": new, "more": amount, "settles": settles}
    if tx.changed(_GIVE_BACK, change) != 1:
        raise LostStepError("an order changed while money was given back")
    if new == "refunded":
        audit.order_step(tx, new, row, now, random)
    if state == "disputed" and new == "refunded":
        close_dispute(tx, row["order_id"], new, reason, now)
    return {**row, "state": new, "settle_at": settles, "refunded": row["refunded"] + amount}


def key_of_refund(merchant: str, refund: bytes) -> bytes:
    """Give the key under which the answer to a merchant's refund is stored."""
    return owner_of("merchant refund", merchant.encode() + b"\0" + refund)


class Refunds:
    """Cancels, and merchants' refunds."""

    def __init__(self, telling: Telling, audit: Audit) -> None:
        self._telling = telling
        self._audit = audit

    def cancel(
        self, tx: Tx, session: Session, request: messages.CancelOrder, now: int, random: Random
    ) -> list[Any]:
        """Call off a held order; whatever else it is, tell where it stands. Raises `RefusedError`."""
        row = order_rows.check_claim(order_rows.get(tx, request.order_id), request.claim_secret)
        self._telling.remember(request.order_id, session.sid)
        if row["state"] != "held":
            return [self._telling.answer(tx, session.sid, row, now)]
        due = self._telling.first_due(now)
        order_rows.make_refundable(tx, [{"of": row["order_id"], "next": due}])
        order_rows.forget_bodies(tx, [row["order_id"]])
        self._audit.order_step(tx, "refundable", row, now, random)
        new = {**row, "state": step(BROKER_ORDER, row["state"], "refundable"), "refunded": row["amount"]}
        return [self._telling.outcome(new), self._telling.status(session.sid, new, b"", now)]

    def refund(
        self, tx: Tx, sender: Session, request: messages.RefundOrder, now: int, random: Random
    ) -> list[Send]:
        """Give back what the merchant asks to. Raises `RefusedError`."""
        merchant = sender.merchant or ""
        key = key_of_refund(merchant, request.refund)
        content_hash = operations.content_hash(request)
        if (stored := operations.answered(tx, key, content_hash)) is not None:
            return [ToMerchant(merchant, stored)]
        row = order_rows.get(tx, request.order_id)
        if row["merchant"] != merchant:
            raise RefusedError("not_found")
        if row["state"] not in GIVEN_BACK_FROM:
            raise RefusedError("wrong_state")
        amount = request.amount or row["amount"] - row["refunded"]
        new = give_back(tx, self._audit, row, amount, now, random)
        taken = messages.RefundTaken(
            refund=request.refund, amount=amount, left=new["amount"] - new["refunded"]
        )
        operations.store(tx, key, content_hash, taken)
        return [ToMerchant(merchant, taken), *self._telling.tell(tx, new, now)]
