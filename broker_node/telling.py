"""Who is told what of an order: its customer where it stands, its merchant until it has answered.

Rule 1. What the merchant must learn is due in a row (`orders.due`) and is told again, with growing
delays, until it has answered; a merchant that opens a session is told everything at once.

Rule 2. Which session an answer goes to is known in memory alone. After a crash the customer asks again,
with the status secret: an order id by itself authorises nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import sqlalchemy as sa

from broker_node import schema
from broker_node.sends import ToMerchant, ToSession
from common import codec, messages
from common.config import Limits
from common.store import Row, Tx

Send: TypeAlias = ToSession | ToMerchant

DUE_AT_ONCE: Final = 500
ROUTES_KEPT: Final = 100_000

_BODIES: Final = sa.select(schema.order_bodies).where(
    schema.order_bodies.c.order_id.in_(sa.bindparam("wanted", expanding=True))
)
_ANSWER_OF: Final = sa.select(schema.order_answers.c.answer).where(
    schema.order_answers.c.order_id == sa.bindparam("of")
)
_DISPUTE_OF: Final = sa.select(schema.disputes).where(schema.disputes.c.order_id == sa.bindparam("of"))
_DISPUTES: Final = sa.select(schema.disputes).where(
    schema.disputes.c.order_id.in_(sa.bindparam("wanted", expanding=True))
)
_TOLD: Final = (
    sa.update(schema.orders)
    .where(schema.orders.c.order_id == sa.bindparam("of"))
    .values(due=sa.bindparam("next"), attempts=schema.orders.c.attempts + 1)
)
_DUE: Final = (
    sa.select(schema.orders)
    .where(schema.orders.c.due <= sa.bindparam("now"))
    .order_by(schema.orders.c.due)
    .limit(DUE_AT_ONCE)
)
_ARRIVED: Final[codec.Codec[messages.Arrived]] = codec.Codec(messages.Arrived)
OUTCOMES: Final[dict[str, messages.KeptOutcome]] = {
    "refundable": "void",
    "disputed": "disputed",
    "captured": "captured",
    "settled": "settled",
    "refunded": "refunded",
}


class Telling:
    """Makes the messages about orders, and knows when they are due."""

    def __init__(self, currency: str, limits: Limits, online: Callable[[str, int], bool]) -> None:
        self._currency = currency
        self._limits = limits
        self._online = online
        self._route: dict[bytes, bytes] = {}

    # --- the customer ----------------------------------------------------------------------------------

    def remember(self, order_id: bytes, sid: bytes) -> None:
        """Send this order's answers to a session from now on."""
        self._route[order_id] = sid
        while len(self._route) > ROUTES_KEPT:
            self._route.pop(next(iter(self._route)))

    def forget(self, order_id: bytes) -> None:
        """Send them nowhere."""
        self._route.pop(order_id, None)

    def answer(self, tx: Tx, sid: bytes, row: Row, now: int) -> ToSession:
        """Tell a session where an order stands, with the merchant's answer where it is kept."""
        if row["state"] == "held":
            return self.status(sid, row, b"", now)
        answer = tx.scalar(_ANSWER_OF, {"of": row["order_id"]}) or b""
        dispute = tx.one(_DISPUTE_OF, {"of": row["order_id"]}) if row["captured_at"] is not None else None
        return self.status(sid, row, answer, now, dispute)

    def push(self, row: Row, answer: bytes, now: int) -> list[Send]:
        """Tell the session that asked last, if it is known; `answer` is the merchant's."""
        sid = self._route.get(row["order_id"])
        return [] if sid is None else [self.status(sid, row, answer, now)]

    def tell(self, tx: Tx, row: Row, now: int) -> list[Send]:
        """Tell the session that asked last, with the merchant's answer where it is kept."""
        sid = self._route.get(row["order_id"])
        return [] if sid is None else [self.answer(tx, sid, row, now)]

    def status(self, sid: bytes, row: Row, answer: bytes, now: int, dispute: Row | None = None) -> ToSession:
        """Tell a session where an order stands; `dispute` is that of this order."""
        is_open = dispute is not None and row["state"] == "disputed"
        return ToSession(
            sid,
            messages.OrderAnswer(
                order_id=row["order_id"],
                state=row["state"],
                deadline=row["deadline"],
                settles=row["settle_at"] or 0,
                refunded=row["refunded"],
                claimed=row["claimed"],
                decide_by=dispute["decide_by"] if dispute is not None and is_open else 0,
                finding=dispute["finding"] if dispute is not None else "",
                decision=(dispute["reason"] or "") if dispute is not None else "",
                merchant_online=self._online(row["merchant"], now),
                audit=row["pseudonym"],
                answer=answer,
            ),
        )

    # --- the merchant ----------------------------------------------------------------------------------

    def forward(self, row: Row, sealed: bytes, now: int) -> list[Send]:
        """Forward a held order, where its merchant is there."""
        if not self._online(row["merchant"], now):
            return []
        order = messages.ForwardOrder(
            order_id=row["order_id"],
            amount=row["amount"],
            currency=self._currency,
            deadline=row["deadline"],
            claim_lock=row["claim_lock"],
            status_lock=row["status_lock"],
            sealed=sealed,
        )
        return [ToMerchant(row["merchant"], order)]

    @staticmethod
    def outcome(row: Row) -> ToMerchant:
        """Tell a merchant what became of an order that is not held; of a disputed one, that it is paid."""
        told = outcome_of(row)
        outcome = messages.OrderOutcome(
            order_id=row["order_id"], outcome="captured" if told == "disputed" else told
        )
        return ToMerchant(row["merchant"], outcome)

    @staticmethod
    def notice(row: Row, dispute: Row) -> ToMerchant:
        """Tell a merchant that an order is disputed."""
        opened = messages.DisputeOpened(
            order_id=row["order_id"],
            kind=dispute["kind"],
            decide_by=dispute["decide_by"],
            arrived=[] if dispute["arrived"] is None else [_ARRIVED.unpack(dispute["arrived"])],
        )
        return ToMerchant(row["merchant"], opened)

    def first_due(self, now: int) -> int:
        """When to tell a merchant again what it is told now."""
        return now + self._limits.reforward_first_ms

    def next_due(self, attempts: int, deadline: int, now: int) -> int:
        """When to tell again: after 30 s doubling to 10 min, and for a held order at its deadline."""
        delay = min(self._limits.reforward_first_ms << min(attempts, 16), self._limits.reforward_longest_ms)
        return min(now + delay, deadline) if deadline else now + delay

    @staticmethod
    def due(tx: Tx, now: int) -> Sequence[Row]:
        """Give the orders of which a merchant has to be told now, or whose deadline has come."""
        return tx.rows(_DUE, {"now": now})

    def again(self, tx: Tx, rows: Sequence[Row], now: int) -> list[Send]:
        """Tell merchants what is due, and when it is due next."""
        if not rows:
            return []
        later = [
            {"of": row["order_id"], "next": self.next_due(row["attempts"] + 1, _deadline(row), now)}
            for row in rows
        ]
        tx.each(_TOLD, later)
        held = [row["order_id"] for row in rows if row["state"] == "held"]
        bodies = {row["order_id"]: row["sealed"] for row in tx.among(_BODIES, held)}
        disputed = [row["order_id"] for row in rows if row["state"] == "disputed"]
        disputes = {row["order_id"]: row for row in tx.among(_DISPUTES, disputed)}
        sends: list[Send] = []
        for row in rows:
            if row["state"] == "held":
                sends += self.forward(row, bodies[row["order_id"]], now)
            elif row["order_id"] in disputes and self._online(row["merchant"], now):
                sends.append(self.notice(row, disputes[row["order_id"]]))
            elif self._online(row["merchant"], now):
                sends.append(self.outcome(row))
        return sends

    @staticmethod
    def merchant_is_back(tx: Tx, merchant: str, now: int) -> None:
        """Make everything due that this merchant has to be told."""
        tx.execute(
            sa.update(schema.orders)
            .where(schema.orders.c.merchant == merchant)
            .where(schema.orders.c.due.is_not(None))
            .values(due=now, attempts=0)
        )


def outcome_of(row: Row) -> messages.KeptOutcome:
    """Say what an order that is not held means to its merchant: void where it was never paid."""
    return "void" if row["captured_at"] is None and row["state"] == "refunded" else OUTCOMES[row["state"]]


def _deadline(row: Row) -> int:
    return int(row["deadline"]) if row["state"] == "held" else 0
