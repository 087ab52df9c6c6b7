"""Orders as their customers see them: coins against a promise, in escrow until the merchant has answered.

    PlaceOrder --> held     the coins are spent, the amount is in escrow, the merchant is told

What becomes of a held order stands in `answers`, who is told of it in `telling`, and how captured money
reaches the merchant in `settlement`.

Rule. One transaction spends every coin of an order, holds its amount and keeps its sealed part. The same
order again is a repetition; another order with one of its coins is a double spend. What something else was
posted under is no order's id (`order_rows.taken`): an order's entries are found by its id.

`place` and `answer_kept` take the whole batch of one kind, because this is the road that is busy.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from broker_node import ledger, order_rows, schema
from broker_node.answers import Answers
from broker_node.audit import Audit
from broker_node.mint import Checked, Mint, owner_of, spend
from broker_node.refusals import refusal
from broker_node.sends import Session
from broker_node.telling import Send, Telling
from common import codec, messages
from common.clock import Random
from common.config import Limits
from common.core import Arrival
from common.errors import RefusedError
from common.store import Row, Tx

_ORDER: Final = sa.insert(schema.orders)
_BODY: Final = sa.insert(schema.order_bodies)
_FORGET_ANSWER: Final = sa.delete(schema.order_answers).where(
    schema.order_answers.c.order_id == sa.bindparam("of")
)
_MERCHANTS: Final = sa.select(schema.merchants.c.id).where(schema.merchants.c.state == "admitted")


class Orders:
    """Places and tells."""

    def __init__(
        self, mint: Mint, telling: Telling, answers: Answers, audit: Audit, currency: str, limits: Limits
    ) -> None:
        self._mint = mint
        self._telling = telling
        self._answers = answers
        self._audit = audit
        self._currency = currency
        self._limits = limits
        self.refused: Counter[str] = Counter()

    def place(self, tx: Tx, arrivals: Sequence[Arrival], now: int, random: Random) -> list[Send]:
        """Hold the coins of every new order and forward it."""
        sends: list[Send] = []
        order_ids = [arrival.body.order_id for arrival in arrivals]
        known, taken = order_rows.by_id(tx, order_ids), order_rows.taken(tx, order_ids)
        admitted = {row["id"] for row in tx.rows(_MERCHANTS)}
        fresh: dict[bytes, tuple[Session, messages.PlaceOrder, bytes, Checked]] = {}
        for arrival in arrivals:
            session, order = arrival.sender, arrival.body
            content_hash = hashlib.sha256(codec.pack(order)).digest()
            try:
                if (row := known.get(order.order_id)) is not None:
                    _same(row["content_hash"], content_hash)
                    self._telling.remember(order.order_id, session.sid)
                    sends.append(self._telling.answer(tx, session.sid, row, now))
                elif (other := fresh.get(order.order_id)) is not None:
                    _same(other[2], content_hash)
                else:
                    checked = self._check(order, admitted, taken, now)
                    self._telling.remember(order.order_id, session.sid)
                    fresh[order.order_id] = (session, order, content_hash, checked)
            except RefusedError as error:
                sends.append(refusal(session.sid, order.order_id, error))
        owners = {owner_of("order", order_id): order_id for order_id in fresh}
        for loser in spend(tx, {owner: fresh[order_id][3] for owner, order_id in owners.items()}):
            session = fresh.pop(owners[loser])[0]
            sends.append(refusal(session.sid, owners[loser], RefusedError("double_spend")))
        for session, order, content_hash, checked in fresh.values():
            sends += self._hold(tx, session, order, content_hash, checked, now, random)
        return sends

    def _check(self, order: messages.PlaceOrder, admitted: set[str], taken: set[bytes], now: int) -> Checked:
        if order.order_id in taken:
            raise RefusedError("idempotency_conflict")
        if order.currency != self._currency:
            raise RefusedError("wrong_currency")
        if order.merchant not in admitted:
            raise RefusedError("not_found")
        earliest = now + self._limits.order_deadline_minimum_ms
        latest = now + self._limits.order_deadline_ms + self._limits.freshness_ms
        if not earliest <= order.deadline <= latest:
            raise RefusedError("deadline")
        checked = self._mint.verify(order.coins, "coin", now)
        if checked.total != order.amount:
            raise RefusedError("wrong_amount")
        return checked

    def _hold(
        self,
        tx: Tx,
        session: Session,
        order: messages.PlaceOrder,
        content_hash: bytes,
        checked: Checked,
        now: int,
        random: Random,
    ) -> list[Send]:
        entropy = random(32)
        row = {
            "order_id": order.order_id,
            "merchant": order.merchant,
            "amount": order.amount,
            "deadline": order.deadline,
            "content_hash": content_hash,
            "claim_lock": order.claim_lock,
            "status_lock": order.status_lock,
            "pseudonym": entropy[:16],
            "salt": entropy[16:],
            "state": "held",
            "due": self._telling.next_due(0, order.deadline, now),
            "attempts": 0,
            "captured_at": None,
            "settle_at": None,
            "refunded": 0,
            "claimed": 0,
        }
        tx.insert(_ORDER, row)
        tx.insert(_BODY, {"order_id": order.order_id, "sealed": order.sealed})
        entries = {ledger.coins_book(value): -amount for value, amount in checked.by_value.items()}
        ledger.post(tx, order.order_id, {**entries, ledger.ESCROW: order.amount}, now)
        self._audit.order_step(tx, "held", row, now, random)
        return self._telling.forward(row, order.sealed, now) or [
            self._telling.status(session.sid, row, b"", now)
        ]

    def ask(
        self, tx: Tx, session: Session, question: messages.AskOrder, now: int, _random: Random
    ) -> list[Send]:
        """Tell whoever holds the status secret where the order stands. Raises `RefusedError`."""
        row = order_rows.by_id(tx, [question.order_id]).get(question.order_id)
        row = order_rows.check_status(row, question.status_secret)
        self._telling.remember(question.order_id, session.sid)
        return [self._telling.answer(tx, session.sid, row, now)]

    def answer_kept(self, tx: Tx, arrivals: Sequence[Arrival], _now: int, _random: Random) -> list[Send]:
        """Erase answers that their customers have stored."""
        rows = order_rows.standing(tx, [arrival.body.order_id for arrival in arrivals])
        erase = []
        for arrival in arrivals:
            try:
                order_rows.check_status(rows.get(arrival.body.order_id), arrival.body.status_secret)
                erase.append({"of": arrival.body.order_id})
                self._telling.forget(arrival.body.order_id)
            except RefusedError as error:
                self.refused[error.code] += 1
        tx.each(_FORGET_ANSWER, erase)
        return []

    def tick(self, tx: Tx, now: int, random: Random) -> list[Send]:
        """Tell merchants what is due, and end what is past its deadline."""
        due = self._telling.due(tx, now)
        if not due:
            return []
        expired = [row for row in due if _expired(row, now)]
        others = [row for row in due if not _expired(row, now)]
        return self._answers.expire(tx, expired, now, random) + self._telling.again(tx, others, now)


def _expired(row: Row, now: int) -> bool:
    return bool(row["state"] == "held" and row["deadline"] <= now)


def _same(stored: bytes, shown: bytes) -> None:
    if not hmac.compare_digest(stored, shown):
        raise RefusedError("idempotency_conflict")
