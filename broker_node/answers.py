"""What a merchant says of an order: accepted or rejected, and later that it has stored the outcome.

    held --accepted in time--> captured                     the merchant is told until it has stored it
    held --rejected----------> refundable
    held --deadline----------> refundable                   the merchant is told that the order is void

Rule. The first answer counts, and it counts in the transaction that takes it: a late one, or one that came
after the order was called off, is void, and the merchant is told so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from broker_node import ledger, order_rows, schema
from broker_node.audit import Audit
from broker_node.telling import Send, Telling, outcome_of
from common import messages
from common.clock import Random
from common.config import Limits
from common.core import Arrival
from common.states import BROKER_ORDER, step
from common.store import Row, Tx

FOR_EVER: Final = 2**52

_ANSWER: Final = sa.insert(schema.order_answers)
_KEPT: Final = sa.update(schema.orders).where(schema.orders.c.order_id == sa.bindparam("of")).values(due=None)


class Answers:
    """Captures what was accepted in time, and makes refundable what was not."""

    def __init__(self, telling: Telling, audit: Audit, limits: Limits) -> None:
        self._telling = telling
        self._audit = audit
        self._limits = limits
        self.refused: Counter[str] = Counter()

    def answered(self, tx: Tx, arrivals: Sequence[Arrival], now: int, random: Random) -> list[Send]:
        """Take a batch of answers."""
        rows = order_rows.by_id(tx, [arrival.body.order_id for arrival in arrivals])
        captured: list[dict[str, Any]] = []
        refundable: list[dict[str, Any]] = []
        taken: set[bytes] = set()
        sends: list[Send] = []
        for arrival in arrivals:
            answer: messages.AnswerOrder = arrival.body
            row = rows.get(answer.order_id)
            if row is None or row["merchant"] != arrival.sender.merchant:
                self.refused["not_found"] += 1
            elif answer.verdict == "accepted" and not answer.answer:
                # Nobody could ever show what was bought with it.
                self.refused["wrong_state"] += 1
            elif row["state"] != "held" or answer.order_id in taken:
                sends += self._late(row, answer)
            else:
                taken.add(answer.order_id)
                sends += self._take(tx, row, answer, captured, refundable, now, random)
        order_rows.capture(tx, captured)
        order_rows.make_refundable(tx, refundable)
        order_rows.forget_bodies(tx, sorted(taken))
        return sends

    def _take(
        self,
        tx: Tx,
        row: Row,
        answer: messages.AnswerOrder,
        captured: list[dict[str, Any]],
        refundable: list[dict[str, Any]],
        now: int,
        random: Random,
    ) -> list[Send]:
        late = row["deadline"] <= now
        state = "captured" if answer.verdict == "accepted" and not late else "refundable"
        step(BROKER_ORDER, row["state"], state)
        # A merchant that rejected in time needs not be told; every other outcome is told until kept.
        told = late or state == "captured"
        change = {"of": answer.order_id, "next": self._telling.first_due(now) if told else None}
        new = {**row, "state": state}
        if state == "captured":
            new |= {"captured_at": now, "settle_at": now + self._limits.settlement_ms}
            captured.append(change | {"at": now, "settles": new["settle_at"]})
            ledger.capture(tx, row, now)
        else:
            new["refunded"] = row["amount"]
            refundable.append(change)
        kept = b"" if late else answer.answer
        # What was paid for is kept until its customer has shown that it is stored there, however long.
        until = now + self._limits.answer_kept_ms if state == "refundable" else FOR_EVER
        tx.insert(_ANSWER, {"order_id": answer.order_id, "answer": kept, "until": until})
        self._audit.order_step(tx, state, row, now, random)
        outcome: list[Send] = [self._telling.outcome(new)] if told else []
        return outcome + self._telling.push(new, kept, now)

    def _late(self, row: Row, answer: messages.AnswerOrder) -> list[Send]:
        """Answer a repetition, or a late accept, which is void: the order has its outcome."""
        self.refused["wrong_state"] += 1
        if answer.verdict == "accepted" and row["state"] != "held":
            return [self._telling.outcome(row)]
        return []

    def expire(self, tx: Tx, rows: Sequence[Row], now: int, random: Random) -> list[Send]:
        """End held orders that are past their deadline."""
        sends: list[Send] = []
        due = self._telling.first_due(now)
        order_rows.make_refundable(tx, [{"of": row["order_id"], "next": due} for row in rows])
        order_rows.forget_bodies(tx, [row["order_id"] for row in rows])
        for row in rows:
            new = {**row, "state": "refundable", "refunded": row["amount"]}
            self._audit.order_step(tx, "refundable", row, now, random)
            sends += [self._telling.outcome(new), *self._telling.push(new, b"", now)]
        return sends

    def outcome_kept(self, tx: Tx, arrivals: Sequence[Arrival], _now: int, _random: Random) -> list[Send]:
        """Stop telling a merchant what it has stored."""
        rows = order_rows.standing(tx, [arrival.body.order_id for arrival in arrivals])
        kept = []
        for arrival in arrivals:
            row = rows.get(arrival.body.order_id)
            if row is None or row["merchant"] != arrival.sender.merchant or row["state"] == "held":
                self.refused["wrong_state"] += 1
            elif outcome_of(row) == arrival.body.outcome:
                # What was kept of an older outcome says nothing of the present one.
                kept.append({"of": arrival.body.order_id})
        tx.each(_KEPT, kept)
        return []
